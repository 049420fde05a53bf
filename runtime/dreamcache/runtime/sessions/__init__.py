"""ONNX Runtime, opened and closed: profiles, kept graphs, what a processor needs."""
