"""The one command: `python benchmarks/peers/run.py --work DIR …` (README.md in this folder)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.command import main

if __name__ == "__main__":
    sys.exit(main())
