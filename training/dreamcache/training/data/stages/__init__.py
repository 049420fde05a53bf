"""The stages that write shards: captions, targets, references."""
