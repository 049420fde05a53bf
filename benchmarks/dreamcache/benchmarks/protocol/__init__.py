"""The protocol of benchmarks/README.md, phase by phase."""
