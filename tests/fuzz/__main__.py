"""Fuzz every reader of untrusted files: `python -m tests.fuzz --minutes 10`.

Prints cases, refusals and the slowest case of each target as JSON; exit status 1 with the first findings, each with
the seed that repeats it: `python -m tests.fuzz --only TARGET --seed SEED --cases 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import site
import sys
import tempfile
import time
import traceback
from pathlib import Path

site.addsitedir(str(Path(__file__).parents[1] / "support"))

SLOWEST_S = 8.0
MOST_MEMORY = 4 << 30
"""Of addresses, so that a bomb ends the run and not the machine."""
MOST_RESIDENT_MB = 1000
_MOST_FINDINGS = 20


def main() -> int:
    """Run the targets in turn."""
    from fuzz_targets import TARGETS, one_line_errors

    from dreamcache.runtime.sessions.system_memory import read_memory

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="Time for all targets together.")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="Cases of each target, at most.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the first case; the next ones count up.")
    parser.add_argument(
        "--only", choices=list(TARGETS), action="append", help="One target; may be given again."
    )
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    chosen = options.only or list(TARGETS)
    results, findings = {}, 0
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            case = TARGETS[name](Path(folder))
            end = time.monotonic() + 60 * options.minutes / len(chosen)
            seed, slowest = options.seed, 0.0
            while seed - options.seed < options.cases and time.monotonic() < end:
                for _ in range(3):  # a machine that is busy makes one case slow, a hang is slow each time
                    begin = time.monotonic()
                    try:
                        with one_line_errors():
                            case(random.Random(seed))
                    except Exception:
                        findings += 1
                        print(f"{name}, seed {seed}:\n{traceback.format_exc(limit=-4)}", file=sys.stderr)
                        if findings >= _MOST_FINDINGS:
                            return 1
                    if (took := time.monotonic() - begin) <= SLOWEST_S:
                        break
                slowest = max(slowest, took)
                seed += 1
        results[name] = {"cases": seed - options.seed, "slowest_s": round(slowest, 3)}
        if slowest > SLOWEST_S:
            findings += 1
        print(name, results[name], file=sys.stderr)
    peak = round(read_memory(os.getpid()).highest_resident_mb)
    findings += peak > MOST_RESIDENT_MB
    print(json.dumps({"targets": results, "findings": findings, "peak_memory_mb": peak}, indent=1))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
