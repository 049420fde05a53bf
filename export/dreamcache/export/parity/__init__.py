"""Every graph compared with PyTorch, and the gates."""
