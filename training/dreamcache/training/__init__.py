"""Training room: the drawn world, the miniature's three training stages, and its evaluation."""
