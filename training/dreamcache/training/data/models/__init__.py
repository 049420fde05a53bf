"""The models that the stages run: language models and segmenters."""
