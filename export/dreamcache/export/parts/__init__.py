"""One part of a bundle each, from module to file."""
