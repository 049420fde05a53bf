"""Saved packages compared with PyTorch."""
