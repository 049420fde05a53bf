"""Saved packages beside what PyTorch computed."""
