"""Nothing is sent: onnxruntime's telemetry is off in every process of ours, before its first import."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest
import tiny_bundle
from PIL import Image

from dreamcache.runtime.sessions.overflow import _PRODUCT
from dreamcache.training.data.command import synthesize

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks where onnxruntime keeps its id on Linux"
)

# Whatever imports onnxruntime by itself, in a module of each root; and the root alone, for a caller's own import.
_ENTRIES = {
    "runtime": "from dreamcache.runtime import Pipeline",
    "runtime session": "from dreamcache.runtime.sessions.overflow import guard_entries; guard_entries()",
    "command line": "import dreamcache.runtime.cli.main",
    "export": "import dreamcache.export.graphs.session",
    "training": "import dreamcache.training",
    "benchmarks": "import dreamcache.benchmarks.process.worker",
}
_OPEN_AND_LEAVE = f"""
import onnxruntime
onnxruntime.InferenceSession({_PRODUCT!r}, providers=["CPUExecutionProvider"])
"""


def _left_behind(program: str, home: Path, **environment: str) -> list[str]:
    """The files that a process leaves in an empty home folder: the telemetry's device id and queue are there."""
    home.mkdir()
    # onnxruntime keeps still by itself where it sees a build server, which a user's machine is not
    quiet = {"ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS", "TF_BUILD"}
    kept = {name: value for name, value in os.environ.items() if name not in quiet}
    kept |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")} | environment
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(path.name for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("entry", _ENTRIES)
def test_no_entry_lets_onnxruntime_keep_an_id(entry: str, tmp_path: Path) -> None:
    assert _left_behind(_ENTRIES[entry] + _OPEN_AND_LEAVE, tmp_path / "home") == []


def test_the_record_of_the_system_calls_has_no_connection() -> None:
    """Of `docs/scripts/network_trace.py`, whose last row must show one."""
    docs = Path(__file__).parents[1] / "docs"
    record = json.loads((docs / "results/network.json").read_text())
    *commands, witness = record["rows"].items()
    missing = run_path(str(docs / "scripts/network_trace.py"))["missing_commands"]
    rows = [name for name, _ in commands]
    assert missing(rows) == set()
    assert missing([name for name in rows if name not in ("push", "train miniature")]) == {
        "push",
        "train miniature",
    }
    stages = {
        f"synthesize {stage.callback.__name__}" for stage in synthesize.registered_commands if stage.callback
    }
    assert {name for name, _ in commands} >= stages
    assert record["rows"]["push"]["to_the_stand_in"] > 0
    assert {name: row for name, row in commands if row["status"] or row["connections_or_packets"]} == {}
    assert witness[1]["connections_or_packets"] == 1


def test_an_id_would_be_noticed(tmp_path: Path) -> None:
    """What the tests above would see: a variable that the user set is the user's own choice."""
    left = _left_behind(_ENTRIES["runtime"] + _OPEN_AND_LEAVE, tmp_path / "home", ORT_DISABLE_TELEMETRY="0")
    assert "deviceid" in left


def test_onnxruntime_by_itself_keeps_one(tmp_path: Path) -> None:
    assert "deviceid" in _left_behind(_OPEN_AND_LEAVE, tmp_path / "home")


_COMMANDS = """
import sys
from dreamcache.runtime.cli.main import main
bundle, toy, work = sys.argv[1:]
subject, picture = f"{work}/a.subject.safetensors", f"{work}/a.png"
for command in (
    ["--help"],
    ["cache", bundle, "--reference", toy, "--out", subject],
    ["generate", bundle, "--subject", subject, "--prompt", "a toy", "--steps", "1", "--out", picture],
    ["inspect", bundle],
    ["inspect", picture],
    ["verify", bundle],
    ["fit", bundle, "--budget", "4G", "--steps", "1"],
):
    try:
        main(command)
    except SystemExit as left:
        assert not left.code, (command, left.code)
"""
_CONNECTION = re.compile(r"(?:socket|connect|sendto)\((?:AF_INET|[^)]*(?:sa_family=AF_INET|/nscd/))")


def _connections(program: str, tmp_path: Path, *arguments: str) -> list[str]:
    """The calls of a program and its children that reach for a network or a resolver."""
    log = tmp_path / "calls"
    trace = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(log)]
    if shutil.which("strace") is None or subprocess.run([*trace, "true"], check=False).returncode:
        pytest.skip("calls are counted with strace")
    command = [*trace, sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return _CONNECTION.findall(log.read_text(encoding="utf-8"))


def test_no_command_opens_a_connection_or_resolves_a_name(tmp_path: Path) -> None:
    bundle, toy = tiny_bundle.build(tmp_path / "bundle"), tmp_path / "toy.png"
    picture = Image.new("RGB", (40, 40), "white")
    picture.paste("red", (8, 8, 32, 32))
    picture.save(toy)
    assert _connections(_COMMANDS, tmp_path, str(bundle), str(toy), str(tmp_path)) == []


def test_a_connection_would_be_noticed(tmp_path: Path) -> None:
    program = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    assert len(_connections(program, tmp_path)) == 2
