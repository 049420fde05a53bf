"""The console that long work reports its progress to: standard error, so that results can be piped."""

from rich.console import Console

stderr = Console(stderr=True)
