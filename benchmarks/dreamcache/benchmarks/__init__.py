"""Benchmarks room: latency and memory of bundles, measured from outside the process that runs them."""

import dreamcache.runtime  # noqa: F401  (turns ONNX Runtime's telemetry off before anything here imports it)
