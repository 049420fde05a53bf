"""A newcomer's time from an empty environment to the first picture, with the README's own words.

    python docs/scripts/newcomer.py --json docs/results/newcomer.json [--way python] [--way shell] [--way demo]

Each way begins with an empty folder: `python -m venv`, then `pip install` without pip's cache, so that every package is
downloaded, then what the README says. Downloads take what the line to the package index allows: read them as that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from dreamcache.benchmarks.host import describe_host

ROOT = Path(__file__).resolve().parents[2]
INSTALLS = {"python": ".", "shell": ".", "demo": ".[export,train,bench]"}


def first_picture(way: str, readme: str) -> list[str]:
    """The commands of a way, as the README prints them, each a line of shell without the program's folder."""
    if way == "python":
        (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        return [f"python -c {shlex.quote(code)}"]
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) for line in block.splitlines()
    ]
    if way == "demo":
        return [line.rpartition("/bin/")[2] for line in lines if line.endswith("dreamcache demo --out demo")]
    return [line for line in lines if line.startswith(("dreamcache cache mini", "dreamcache generate mini"))]


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a command that succeeds."""
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - begin, 1)


def measure(way: str, folder: Path) -> dict[str, Any]:
    """Seconds of one way, from the empty folder to the picture."""
    load = os.getloadavg()[0]
    venv = folder / "venv"
    # The documents' pictures are named by their place in the repository.
    (folder / "docs").symlink_to(ROOT / "docs")
    made = timed([sys.executable, "-m", "venv", str(venv)], folder)
    install = [str(venv / "bin" / "pip"), "install", "-q", "--no-cache-dir"]
    installed = timed([*install, f"{ROOT}{INSTALLS[way].removeprefix('.')}"], folder)
    commands = first_picture(way, (ROOT / "README.md").read_text(encoding="utf-8"))
    seconds = [timed(["sh", "-c", f"exec {venv / 'bin'}/{command}"], folder) for command in commands]
    assert (folder / ("demo" if way == "demo" else "duck.png")).exists(), "no picture was drawn"
    size = sum(path.stat().st_size for path in venv.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        "version": subprocess.check_output([venv / "bin" / "dreamcache", "--version"], text=True).strip(),
        "install": INSTALLS[way],
        "commands": commands,
        "seconds": {"venv": made, "install": installed, "commands": seconds},
        "total_seconds": round(made + installed + sum(seconds), 1),
        "packages": len(list(venv.glob("lib/python*/site-packages/*.dist-info"))),
        "environment_mb": round(size / 1e6),
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="record to write, or to add ways to")
    parser.add_argument("--way", action="append", choices=sorted(INSTALLS), help="all by default")
    asked = parser.parse_args()
    record = json.loads(asked.json.read_text()) if asked.json.exists() else {"ways": {}}
    host = describe_host()
    record |= {
        "date": date.today().isoformat(),
        "system": host.system,
        "cpu": host.cpu,
        "cores": host.usable_cores,
    }
    record["python"] = sys.version.split()[0]
    for way in asked.way or INSTALLS:
        with tempfile.TemporaryDirectory(prefix=f"newcomer-{way}-") as folder:
            record["ways"][way] = measure(way, Path(folder))
        asked.json.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(way, record["ways"][way]["total_seconds"], "s")


if __name__ == "__main__":
    main()
