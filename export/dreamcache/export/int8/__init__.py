"""Weights and activations in 8 bits: static on convolutions, on the fly on matrix products, chosen by layer."""
