"""Saved MIL programs: read as untrusted, run in PyTorch. Knows nothing of DreamCache."""
