"""Single checkpoints in the original layout of latent diffusion."""
