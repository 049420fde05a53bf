"""Bases: Stable Diffusion and its kin from folders, the Hub and single files."""
