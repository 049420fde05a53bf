"""Synthetic training data (paper, supplement).

Each stage is a folder of WebDataset shards with an index: `captions` → `targets` → `references`; `world` draws
the last kind of folder without models. `triplets` reads it for training.
"""
