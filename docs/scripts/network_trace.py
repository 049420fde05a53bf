"""What each command asks of the network: every socket of the internet's families that it or a child opens, by strace.

    PYTHONPATH=tests/support python docs/scripts/network_trace.py --work DIR --json docs/results/network.json

A run that was stopped keeps its rows; `--only evaluate,train` with the same folder measures those commands alone.
Linux with strace. Commands run on the shipped miniature, as small as their options allow; `convert` on a tiny base with
the released layout, the stages of `synthesize` on tiny models in the true formats. `web` serves at this machine's own
address with a JavaScript runtime that was fetched before, and its page is read once; without --host it asks the system
for its address by a datagram socket that sends nothing. `push` sends on purpose, here to a stand-in of the Hub on this
machine, and is held to that address. `evaluate dreambooth` reads tiny weights of its metrics, where by default it would
fetch the true ones. A command that has no run here ends the script at once. A last row shows that the method sees a
look-up when there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection
from contextlib import nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import torch
import typer
from hub_stand_in import hub_stand_in
from released_layout import as_released
from tiny_metrics import write_tiny_benchmark, write_tiny_clip, write_tiny_dino
from tiny_models import SD15_SHAPED, randomise_adapters, write_tiny_base
from tiny_synthesis import (
    PLACES,
    SUBJECTS,
    TEMPLATE,
    write_tiny_detector,
    write_tiny_llama,
    write_tiny_salient,
    write_tiny_sam,
)

from dreamcache.models.bases.base import load_base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.cli.main import GROUP
from dreamcache.runtime.web.delivery import runtime_files

RUN = [sys.executable, "-m", "dreamcache.runtime.cli"]
TOY = "docs/images/toy.png"
SOCKET = re.compile(r"socket\(AF_INET6?,")
SENT = re.compile(r"(?:connect|sendto|sendmsg)\(.*sa_family=AF_INET6?[,}].*")
STAND_IN = 'sin_port=htons({port}), sin_addr=inet_addr("127.0.0.1")'
RELEASED = "cross_attention-199999.pt"
STOPPED = 130
WITNESS = "a connection, to see that it is seen"
# Training and evaluation at their smallest.
TINY = "--steps 2 --batch 2"


def commands(work: Path) -> dict[str, str]:
    """A run of each command; later ones read what earlier ones wrote."""
    bundle, subject, adapters = work / "bundle", work / "toy.subject.safetensors", work / "adapters"
    draw = '--prompt "a toy duck in space" --steps 2 --seed 1'
    captions, targets, tiny = work / "captions", work / "targets", work / "models"
    lists = f"--subjects {work / 'subjects.txt'} --places {work / 'places.txt'} --template {work / 'template.txt'}"
    anything = "--min-area 0 --max-area 1 --max-border 1 --max-objects 99 --min-confidence 0"
    grounded = f"--detector {tiny / 'detector'} --sam {tiny / 'sam'} --box-threshold 0.5"
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
        "train miniature": f"train miniature all --run {work / 'miniature'} --samples 80 --pairs 0 "
        f"--stylised 0 {TINY}",
        "evaluate dreambooth": f"evaluate dreambooth {tiny / 'dreambooth'} --bundle {bundle} --out {work / 'scores'} "
        f"--images 1 --prompts 1 --steps 2 --dino {tiny / 'dino'} --clip {tiny / 'clip'}",
        "evaluate toys": f"evaluate toys --bundle {bundle} --identities 1 --scenes 1 --steps 2",
        "synthesize world": f"synthesize world {work / 'shards'} --samples 8",
        "synthesize captions": f"synthesize captions {captions} --samples 4 --max-words 12 "
        f"--model {tiny / 'llama'} {lists}",
        "synthesize targets": f"synthesize targets {captions} {targets} --model {work / 'base'} --resolution 32 "
        "--steps 1",
        "synthesize references": f"synthesize references {targets} {work / 'references'} {grounded} {anything}",
        "synthesize references --salient": f"synthesize references {targets} {work / 'salient'} "
        f"--salient {tiny / 'salient.onnx'} {anything}",
        "synthesize check": f"synthesize check {targets}",
        "demo": f"demo --out {work / 'demo'} --toys 3 --steps 2",
        "convert": f"convert {work / RELEASED} --base {work / 'base'} --out {work / 'converted.safetensors'}",
        "ablate": f"ablate timestep --run {work / 'ablation'} --samples 64 --identities 1 --scenes 1 {TINY}",
        "push": "push mini someone/toy",
        "web": f"web {bundle} --http --host 127.0.0.1 --port 0 --records {work / 'records'}",
    }


def missing_commands(runs: Collection[str]) -> set[str]:
    """Commands, and their own subcommands, that none of these runs begins with."""
    names = set()
    for entry in entry_points(group=GROUP):
        command = entry.load()
        found = typer.main.get_command(command) if isinstance(command, typer.Typer) else None
        names |= {f"{entry.name} {sub}" for sub in getattr(found, "commands", {})} or {entry.name}
    return {name for name in names if not any(f"{run} ".startswith(f"{name} ") for run in runs)}


def write_released(work: Path) -> None:
    """A base with Stable Diffusion's blocks, and adapters for it as their authors store them."""
    base = write_tiny_base(work / "base", unet=SD15_SHAPED)
    torch.save(as_released(randomise_adapters(ConditionedUNet(load_base(base).unet))), work / RELEASED)


def write_models(work: Path) -> None:
    """What `synthesize` asks for: tiny models in the true formats, and lists of words."""
    tiny = work / "models"
    tiny.mkdir()
    write_tiny_llama(tiny / "llama")
    write_tiny_detector(tiny / "detector")
    write_tiny_sam(tiny / "sam")
    write_tiny_salient(tiny / "salient.onnx")
    write_tiny_benchmark(tiny / "dreambooth")
    write_tiny_dino(tiny / "dino")
    write_tiny_clip(tiny / "clip")
    for name, lines in (("subjects", SUBJECTS), ("places", PLACES), ("template", (TEMPLATE,))):
        (work / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def traced(arguments: list[str], trace: Path, stand_in: str = "") -> dict[str, int]:
    """Exit status of a command, sockets of the internet's families that it opened, and what went to an address.

    A socket that goes nowhere is urllib3's, which asks at import whether the machine has IPv6. Of a command that
    serves, the page is read once, and Ctrl+C is its end. stand_in: address of a stand-in of the Hub, in the place of
    the Hub's; what went there is counted apart.
    """
    tracer = [
        "strace",
        "-f",
        "--seccomp-bpf",  # else every call of the system stops the process
        "-qq",
        "-s",
        "256",
        "-e",
        "trace=socket,connect,sendto,sendmsg",
        "-o",
        str(trace),
    ]
    started = subprocess.Popen(
        [*tracer, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ
        | ({"HF_ENDPOINT": stand_in, "HF_TOKEN": "made up", "HF_HUB_DISABLE_XET": "1"} if stand_in else {}),
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
    sent = SENT.findall(text)
    home = [one for one in sent if stand_in and STAND_IN.format(port=urlsplit(stand_in).port) in one]
    found = {"status": started.returncode - status, "sockets": len(SOCKET.findall(text))}
    found["connections_or_packets"] = len(sent) - len(home)
    return found | ({"to_the_stand_in": len(home)} if stand_in else {})


def main() -> None:
    """Trace every command and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="Commands that begin so; the record keeps its other rows.", default="")
    given = parser.parse_args()
    missing = missing_commands(commands(given.work))
    if missing:
        parser.error(f"no run is listed of {', '.join(sorted(missing))}")
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "base").exists():  # a second run with --only goes on in the folder of the first
        write_released(given.work)
        write_models(given.work)
    runtime_files(say=sys.stderr.write)
    rows = json.loads(given.json.read_text(encoding="utf-8"))["rows"] if given.only and given.json else {}
    for name, line in commands(given.work).items():
        if not name.startswith(tuple(given.only.split(","))):
            continue
        sys.stderr.write(f"{name}\n")
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        with hub_stand_in({}) if name == "push" else nullcontext("") as address:
            rows[name] = traced([*RUN, *words], given.work / "trace.txt", address)
        keep(rows, given.json)
    look_up = [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"]
    rows[WITNESS] = traced(look_up, given.work / "trace.txt")
    sys.stdout.write(
        keep({name: rows[name] for name in (*commands(given.work), WITNESS) if name in rows}, given.json)
    )


def keep(rows: dict[str, dict[str, int]], place: Path | None) -> str:
    """The record so far as text, which is written too: a run that is stopped keeps what it has."""
    text = json.dumps({"system": os.uname().sysname, "rows": rows}, indent=2) + "\n"
    if place is not None:
        place.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
