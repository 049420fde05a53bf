"""Smaller weights for Core ML: formats, palettes, mixed bits."""
