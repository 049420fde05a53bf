"""Training room: the drawn world, the miniature's three training stages, and its evaluation."""

import dreamcache.runtime  # noqa: F401  (turns ONNX Runtime's telemetry off before anything here imports it)
