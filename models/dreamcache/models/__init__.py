"""DreamCache in PyTorch: sites, adapters, caching, guidance, and the reference pipeline."""
