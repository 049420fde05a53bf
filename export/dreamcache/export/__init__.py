"""From PyTorch to a bundle: ONNX graphs, one shared weights file, parity gates, the contract."""

import dreamcache.runtime  # noqa: F401  (turns ONNX Runtime's telemetry off before anything here imports it)
