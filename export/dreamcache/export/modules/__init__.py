"""PyTorch modules that hold only export rewrites."""
