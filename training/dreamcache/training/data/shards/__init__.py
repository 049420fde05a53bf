"""Shards: written whole or not at all, read as untrusted."""
