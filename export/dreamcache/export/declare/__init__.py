"""What the contract says of a base: its architecture and its components' tensors."""
