"""What fits a budget: how much memory each stage will need, and what a number of denoiser calls draws best."""
