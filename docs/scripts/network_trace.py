"""What each command asks of the network: every socket of the internet's families that it or a child opens, by strace.

    PYTHONPATH=tests/support python docs/scripts/network_trace.py --work DIR --json docs/results/network.json

Linux with strace. Commands run on the shipped miniature, as small as their options allow; `convert` on a tiny base with
the released layout. `web` serves at this machine's own address with a JavaScript runtime that was fetched before, and
its page is read once; without --host it asks the system for its address by a datagram socket that sends nothing. Not
here: `push`, which sends on purpose, and what needs weights of the Hub (`evaluate dreambooth`, other stages of
`synthesize`). A last row shows that the method sees a look-up when there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import torch
from released_layout import as_released
from tiny_models import SD15_SHAPED, randomise_adapters, write_tiny_base

from dreamcache.models.bases.base import load_base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.web.delivery import runtime_files

RUN = [sys.executable, "-m", "dreamcache.runtime.cli"]
TOY = "docs/images/toy.png"
SOCKET = re.compile(r"socket\(AF_INET6?,")
SENT = re.compile(r"(?:connect|sendto|sendmsg)\(.*sa_family=AF_INET6?[,}]")
RELEASED = "cross_attention-199999.pt"
STOPPED = 130
# Training and evaluation at their smallest.
TINY = "--steps 2 --batch 2"


def commands(work: Path) -> dict[str, str]:
    """A run of each command; later ones read what earlier ones wrote."""
    bundle, subject, adapters = work / "bundle", work / "toy.subject.safetensors", work / "adapters"
    draw = '--prompt "a toy duck in space" --steps 2 --seed 1'
    return {
        "--help": "--help",
        "doctor": "doctor",
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
        "convert": f"convert {work / RELEASED} --base {work / 'base'} --out {work / 'converted.safetensors'}",
        "ablate": f"ablate timestep --run {work / 'ablation'} --samples 64 --identities 1 --scenes 1 {TINY}",
        "web": f"web {bundle} --http --host 127.0.0.1 --port 0 --records {work / 'records'}",
    }


def write_released(work: Path) -> None:
    """A base with Stable Diffusion's blocks, and adapters for it as their authors store them."""
    base = write_tiny_base(work / "base", unet=SD15_SHAPED)
    torch.save(as_released(randomise_adapters(ConditionedUNet(load_base(base).unet))), work / RELEASED)


def traced(arguments: list[str], trace: Path) -> dict[str, int]:
    """Exit status of a command, sockets of the internet's families that it opened, and what went to an address.

    A socket that goes nowhere is urllib3's, which asks at import whether the machine has IPv6. Of a command that
    serves, the page is read once, and Ctrl+C is its end.
    """
    tracer = ["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg", "-o", str(trace)]
    started = subprocess.Popen(
        [*tracer, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    status = 0
    if "web" in arguments:
        assert started.stdout is not None
        with urlopen(next(line.strip() for line in started.stdout if line.startswith("http://"))) as page:
            assert page.status == 200
        os.killpg(started.pid, signal.SIGINT)
        status = STOPPED
    _, said = started.communicate()
    if started.returncode != status:
        sys.stderr.write(said[-600:])
    text = trace.read_text(errors="replace")
    found = {"sockets": SOCKET, "connections_or_packets": SENT}
    return {"status": started.returncode - status} | {
        name: len(one.findall(text)) for name, one in found.items()
    }


def main() -> None:
    """Trace every command and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    write_released(given.work)
    runtime_files(say=sys.stderr.write)
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
