"""How much memory a graph of a bundle can take, worked out before a session is made."""
