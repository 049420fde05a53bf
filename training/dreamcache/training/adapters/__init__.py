"""Adapters for any base: the paper's training on captions, targets and references, on one device or several."""
