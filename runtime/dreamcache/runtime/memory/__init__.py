"""What fits: how much memory each stage will need."""
