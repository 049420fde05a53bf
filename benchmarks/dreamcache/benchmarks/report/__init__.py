"""Records as tables, plots and a page."""
