"""The first stage: four pictures of every subject for every prompt, each written once, by any number of processes.

    OUT/pictures/<row>/row.json                      what the pictures depend on
    OUT/pictures/<row>/<subject>/subject.json        its prompts, which photograph was the reference, its background
    OUT/pictures/<row>/<subject>/<prompt>-<image>.png

A picture is written under another name and renamed, so an existing file is whole, whenever the run was killed. Seeds
derive from the subject, the prompt and the number of the picture, so they are the same in every row and in any order.

A process claims a subject while it draws its pictures, and passes over those that others have claimed; a claim ends
with its process. Pictures that are drawn together are the same ones in every run, so a batch with a gap is drawn whole.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamcache.runtime.files import replacing, sha256_file
from dreamcache.runtime.progress import Progress
from dreamcache.training.data.shards.distribution import claim
from dreamcache.training.errors import BenchmarkError
from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark, BenchmarkSubject
from dreamcache.training.evaluation.dreambooth.generators import Generator, Taken
from dreamcache.training.evaluation.dreambooth.masked import mask_of

PICTURES, ROW_FILE, SUBJECT_FILE = "pictures", "row.json", "subject.json"
SCHEMA = 1


@dataclass(frozen=True)
class GenerationPlan:
    """What is made, the same for every row.

    images: pictures for each prompt. reference_image: number of the photograph, from 0. masks: a folder with
    <subject>/<photograph>.png, for references and for masked scores.
    """

    images: int = 4
    seed: int = 0
    reference_image: int = 0
    masks: Path | None = None


@dataclass(frozen=True)
class Slot:
    """One picture that the benchmark asks for; prompt and image are numbers from 0."""

    subject: BenchmarkSubject
    prompt: int
    image: int

    @property
    def file_name(self) -> str:
        """Such as 07-2.png."""
        return f"{self.prompt:02d}-{self.image}.png"

    def seed(self, base: int) -> int:
        """In 0 to 2³² − 1."""
        prompt = self.subject.prompts[self.prompt]
        told = f"{base}/{self.subject.name}/{prompt}/{self.image}"
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4], "big")


def slots(benchmark: Benchmark, images: int) -> Iterator[Slot]:
    """Every picture that a row consists of, subject after subject."""
    for subject in benchmark.subjects:
        for prompt in range(len(subject.prompts)):
            for image in range(images):
                yield Slot(subject, prompt, image)


def row_folder(out: Path, row: str) -> Path:
    """The pictures of a row."""
    return out / PICTURES / row


def generate_row(
    generator: Generator, benchmark: Benchmark, plan: GenerationPlan, out: Path, progress: Progress
) -> int:
    """Make the pictures of a row that are not there yet and whose subjects no other process draws; how many were made.

    Raises:
        BenchmarkError: the row's pictures were made from something else or with other settings.
        ImageError: a reference or its mask cannot be used.
        OutputError: a picture cannot be written.
    """
    folder = row_folder(out, generator.name)
    begin_row(folder, generator.describe() | {"seed": plan.seed, "reference_image": plan.reference_image})
    for subject in benchmark.subjects:
        _check_subject(folder / subject.name, subject, plan)
    total = sum(1 for _ in slots(benchmark, plan.images))
    made = done = 0
    for subject in benchmark.subjects:
        before = done
        with claim(folder, zlib.crc32(subject.name.encode())) as ours:
            for drawn, fresh in _draw_subject(generator, subject, plan, folder) if ours else ():
                made, done = made + fresh, done + drawn
                progress(done, total)
        done = before + len(subject.prompts) * plan.images
        progress(done, total)
    return made


def _draw_subject(
    generator: Generator, subject: BenchmarkSubject, plan: GenerationPlan, row: Path
) -> Iterator[tuple[int, int]]:
    """The pictures of a subject that are not there yet: of each batch, how many it has and how many were made."""
    folder = row / subject.name
    for stale in folder.glob(".*.part"):  # of a process that was killed: this one has claimed the subject
        stale.unlink(missing_ok=True)
    taken: Taken | None = None
    for prompt, text in enumerate(subject.prompts):
        for first in range(0, plan.images, generator.batch):
            images = range(first, min(first + generator.batch, plan.images))
            batch = [Slot(subject, prompt, image) for image in images]
            absent = [slot for slot in batch if not (folder / slot.file_name).exists()]
            if absent:
                taken = taken or _take(generator, subject, plan, folder)
                pictures = taken.draw(text, [slot.seed(plan.seed) for slot in batch])
                for slot, picture in zip(batch, pictures, strict=True):
                    if slot in absent:
                        with replacing(folder / slot.file_name, overwrite=True) as beside:
                            picture.save(beside, format="PNG")
            yield len(batch), len(absent)


def pictures_missing(out: Path, row: str, benchmark: Benchmark, images: int) -> int:
    """How many pictures of a row are not there: those of subjects that other processes draw, or drew when they died."""
    folder = row_folder(out, row)
    return sum(
        not (folder / slot.subject.name / slot.file_name).exists() for slot in slots(benchmark, images)
    )


def begin_row(folder: Path, made_from: dict[str, Any]) -> None:
    """Write a row's record, or check that the one which is there is the same.

    Raises: BenchmarkError naming what differs.
    """
    record = json.loads(json.dumps({"schema": SCHEMA, **made_from}))
    place = folder / ROW_FILE
    if place.exists():
        _compare(folder, _flat(read_row(folder)), _flat(record))
    folder.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        write_result(place, record)


def read_row(folder: Path) -> dict[str, Any]:
    """The record of a row. Raises: BenchmarkError when it is absent or damaged."""
    return read_result(folder / ROW_FILE, f"delete {folder} to make its pictures again")


def read_result(path: Path, mend: str) -> dict[str, Any]:
    """A JSON object that this room wrote. Raises: BenchmarkError ending in `mend`."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read ({error}); {mend}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise BenchmarkError(f"{path} is not of the schema {SCHEMA} that is expected; {mend}")
    return record


def write_result(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object as a whole, or not at all. Raises: OutputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite=True) as beside:
        beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _take(generator: Generator, subject: BenchmarkSubject, plan: GenerationPlan, folder: Path) -> Taken:
    reference, mask = _reference(subject, plan)
    taken = generator.take(reference, mask)
    write_result(folder / SUBJECT_FILE, _subject_record(subject, plan) | {"background": taken.background})
    return taken


def _reference(subject: BenchmarkSubject, plan: GenerationPlan) -> tuple[Path, Path | None]:
    """The reference of a subject and its given mask."""
    reference = subject.pictures[plan.reference_image]
    return reference, mask_of(None if plan.masks is None else plan.masks / subject.name, reference)


def _subject_record(subject: BenchmarkSubject, plan: GenerationPlan) -> dict[str, Any]:
    reference, mask = _reference(subject, plan)
    return {
        "schema": SCHEMA,
        "reference": reference.name,
        "reference_sha256": sha256_file(reference),
        "mask_sha256": None if mask is None else sha256_file(mask),
        "prompts": list(subject.prompts),
    }


def _check_subject(folder: Path, subject: BenchmarkSubject, plan: GenerationPlan) -> None:
    """Raises: BenchmarkError when pictures of the subject were made after another reference or other prompts.

    More prompts than before do not count as a difference: a part of the benchmark may be made first.
    """
    if not (folder / SUBJECT_FILE).exists():
        return
    known = read_result(folder / SUBJECT_FILE, f"delete {folder} to make its pictures again")
    known.pop("background", None)
    now = _subject_record(subject, plan)
    both = min(len(known.get("prompts", ())), len(now["prompts"]))
    for record in (known, now):
        record.update({f"prompt {i}": text for i, text in enumerate(record.pop("prompts", ())[:both])})
    _compare(folder, known, now)


def _compare(folder: Path, known: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted({*known, *now}):
        if known.get(name) != now.get(name):
            raise BenchmarkError(
                f"the pictures in {folder} were made with another {name} ({json.dumps(known.get(name))}, now "
                f"{json.dumps(now.get(name))}); choose another --out, or delete that folder"
            )


def _flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested objects as one, so that what differs can be named: {"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat
