"""Of which solids each kind of toy is built."""
