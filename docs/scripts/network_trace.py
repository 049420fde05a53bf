"""What each command asks of the network: every socket of the internet's families that it or a child opens, by strace.

    python docs/scripts/network_trace.py --work DIR --json docs/results/network.json

Linux with strace. Commands run on the shipped miniature, as small as their options allow. A last row shows that the
method sees a look-up when there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

RUN = [sys.executable, "-m", "dreamcache.runtime.cli"]
TOY = "docs/images/toy.png"
SOCKET = re.compile(r"socket\(AF_INET6?,")
SENT = re.compile(r"(?:connect|sendto|sendmsg)\(.*sa_family=AF_INET6?[,}]")
# Training and evaluation at their smallest.
TINY = "--steps 2 --batch 2"


def commands(work: Path) -> dict[str, str]:
    """A run of each command; later ones read what earlier ones wrote."""
    bundle, subject, adapters = work / "bundle", work / "toy.subject.safetensors", work / "adapters"
    draw = '--prompt "a toy duck in space" --steps 2 --seed 1'
    return {
        "--help": "--help",
        "export": f"export --base mini --out {bundle}",
        "cache": f"cache {bundle} --reference {TOY} --out {subject}",
        "generate": f"generate {bundle} --subject {subject} {draw} --out {work / 'p.png'}",
        "inspect": f"inspect {bundle}",
        "verify": f"verify {bundle}",
        "bench": f"bench {bundle} --quick --steps 2 --json {work / 'bench.json'}",
        "fit": f"fit {bundle} --budget 900M --steps 1",
        "train adapters": f"train adapters --base mini --data world:32 --run {adapters} --preset trial {TINY}",
        "evaluate toys": f"evaluate toys --bundle {bundle} --identities 1 --scenes 1 --steps 2",
        "synthesize world": f"synthesize world {work / 'shards'} --samples 8",
        "demo": f"demo --out {work / 'demo'} --toys 3 --steps 2",
    }


def traced(arguments: list[str], trace: Path) -> dict[str, int]:
    """Exit status of a command, sockets of the internet's families that it opened, and what went to an address.

    A socket that goes nowhere is urllib3's, which asks at import whether the machine has IPv6.
    """
    tracer = ["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg", "-o", str(trace)]
    done = subprocess.run(
        [*tracer, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stderr.decode(errors="replace")[-600:])
    text = trace.read_text(errors="replace")
    found = {"sockets": SOCKET, "connections_or_packets": SENT}
    return {"status": done.returncode} | {name: len(one.findall(text)) for name, one in found.items()}


def main() -> None:
    """Trace every command and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, line in commands(given.work).items():
        sys.stderr.write(f"{name}\n")
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        rows[name] = traced([*RUN, *words], given.work / "trace.txt")
    look_up = [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"]
    rows["a connection, to see that it is seen"] = traced(look_up, given.work / "trace.txt")
    text = json.dumps({"system": os.uname().sysname, "rows": rows}, indent=2) + "\n"
    if given.json is not None:
        given.json.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
