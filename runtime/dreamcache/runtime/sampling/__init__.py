"""From noise to picture: prompts, guidance, denoiser, schedulers, decoding."""
