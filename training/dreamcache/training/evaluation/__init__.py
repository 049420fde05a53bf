"""Does the picture show that toy in that place? A classifier of renders as judge, and the scores it gives."""
