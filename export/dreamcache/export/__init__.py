"""From PyTorch to a bundle: ONNX graphs, one shared weights file, parity gates, the contract."""
