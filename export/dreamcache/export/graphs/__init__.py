"""ONNX files: traced, joined on one weights file, derived, opened."""
