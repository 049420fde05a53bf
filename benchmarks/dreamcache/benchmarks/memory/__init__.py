"""What fits into a budget of memory, measured."""
