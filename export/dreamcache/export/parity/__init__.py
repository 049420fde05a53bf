"""Is it right? Every graph beside PyTorch, and the gates."""
