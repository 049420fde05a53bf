"""Where the console script `dreamcache` and `python -m dreamcache.runtime.cli` begin.

Ctrl-C is answered in one line from the first moment, before anything large is loaded.
"""

from __future__ import annotations

import os
import signal


def start() -> None:
    """Load the command line and run it. What nohup or a shell ignores stays ignored."""
    early = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if early:
        signal.signal(signal.SIGINT, _stop)
    from dreamcache.runtime.cli.main import main

    if early:  # from here on `main` answers KeyboardInterrupt, after what was begun has been removed
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


def _stop(*_: object) -> None:
    os.write(2, b"dreamcache: stopped\n")
    os._exit(130)


if __name__ == "__main__":
    start()
