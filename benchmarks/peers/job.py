"""What a peer's process is told, how it keeps time, and what it answers. Standard library alone: every venv has it.

    python -m peers.SCRIPT JOB.json

The process times itself; its memory is read from outside, from its first moment to its last.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import TypeVar

Result = TypeVar("Result")

PROMPTS = ("a toy robot on the beach", "")
"""What classic guidance needs embedded for a picture: the prompt and the null text."""


@dataclass(frozen=True)
class Job:
    """One case.

    Attributes:
        method: what of the script to run.
        precision: fp32, bf16 or int8.
        engine: ONNX Runtime or OpenVINO, where a script knows both.
        base: diffusers folder.
        prepared: the folder that `peers.prepare` fills.
        reference: the subject's picture.
        bundle: of DreamCache, where the script reads one.
        repeats: samples of a UNet call, after one that is kept apart.
        threads: None leaves the number to the library.
        out: where the answer goes.
    """

    method: str
    precision: str
    engine: str
    base: str
    prepared: str
    reference: str
    bundle: str | None
    repeats: int
    threads: int | None
    out: str


@dataclass
class Stages:
    """Raw samples in seconds, by stage.

    load, subject (once for each subject), text, call (one UNet call for one guidance branch), reference_call (of a
    second UNet), guided_step (both branches, where a pipeline is timed as a whole), decode.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)

    def time(self, stage: str, call: Callable[[], Result]) -> Result:
        """Run once and keep the seconds."""
        begin = time.perf_counter()
        result = call()
        self.samples.setdefault(stage, []).append(time.perf_counter() - begin)
        return result

    def repeat(self, stage: str, call: Callable[[], object], repeats: int) -> None:
        """Run once as `first_STAGE`, then `repeats` times as the stage."""
        self.time(f"first_{stage}", call)
        for _ in range(repeats):
            self.time(stage, call)

    def split(self, ends: Sequence[float], whole: float) -> None:
        """guided_step and rest of a picture timed as a whole; ends: when each of its steps ended, in seconds.

        The first step cannot be told from the text before it, so an average step stands for it.
        """
        steps = [end - start for start, end in pairwise(ends)]
        self.samples["guided_step"] = steps
        self.samples["rest"] = [whole - (ends[-1] - ends[0]) - mean(steps)]


def read_job() -> Job:
    """The job that the command line names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def write_job(job: Job, path: Path) -> None:
    """Write the job for `read_job` of another process."""
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")


def answer(
    job: Job, stages: Stages, disk_bytes: int, libraries: Iterable[str], notes: Iterable[str] = ()
) -> None:
    """Write what was measured. disk_bytes: of all that the method needs. notes: what the figures leave open."""
    versions = {}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    found = {"stages": stages.samples, "disk_bytes": disk_bytes, "libraries": versions, "notes": list(notes)}
    Path(job.out).write_text(json.dumps(found), encoding="utf-8")


def size_of(*places: Path) -> int:
    """Bytes of files, and of all files below folders."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())
