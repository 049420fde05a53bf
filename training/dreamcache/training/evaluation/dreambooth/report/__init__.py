"""DreamBooth's benchmark as tables and a page."""
