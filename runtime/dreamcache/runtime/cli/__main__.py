"""`python -m dreamcache.runtime.cli`, the same as the console script `dreamcache`."""

from dreamcache.runtime.cli.main import main

main()
