"""Words for people: the command line of the runner."""
