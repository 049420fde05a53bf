"""What people add to a base before it is exported: another VAE, LoRAs, textual inversions."""
