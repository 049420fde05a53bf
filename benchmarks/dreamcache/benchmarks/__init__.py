"""Benchmarks room: latency and memory of bundles, measured from outside the process that runs them."""
