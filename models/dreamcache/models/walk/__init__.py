"""diffusers' UNet, walked: which transformer blocks are tapped, a block in its parts, and the whole in order."""
