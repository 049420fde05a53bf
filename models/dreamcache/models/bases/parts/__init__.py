"""The parts of a base: whether each is sound, and whether they belong together."""
