"""Held-out toys of the drawn world: identity, scene and pairs."""
