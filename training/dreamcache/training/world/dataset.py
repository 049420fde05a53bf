"""Samples of the drawn world on disk, in shards that several processes render and a killed run continues.

A shard is an .npz of plain arrays: targets, masks, references (uint8), labels (int64), captions and prompts (text). It
is written under another name and renamed, so an existing shard is whole.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.progress import track
from dreamcache.training.world.render import SIZE
from dreamcache.training.world.samples import PairSample, Sample, draw_pair, draw_sample, draw_stylised

SHARD = 1000

Of = Literal["one", "two", "stylised"]
"""Samples of one toy, of two, or of one in a style."""
DRAW: dict[Of, Callable[..., Sample | PairSample]] = {
    "one": draw_sample, "two": draw_pair, "stylised": draw_stylised,
}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Arrays over n samples: pictures [n, h, w, 3], masks [n, h, w], labels [n, 6], captions and prompts [n].

    Samples of two toys have two masks, references and lines of labels: [n, 2, …].
    """

    targets: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    references: NDArray[np.uint8]
    labels: NDArray[np.int64]
    captions: NDArray[np.str_]
    prompts: NDArray[np.str_]


def shard_path(directory: Path, shard: int) -> Path:
    """Where a shard lies."""
    return directory / f"samples-{shard:05d}.npz"


def write_npz(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write arrays beside `path` and rename them in; a write that fails leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.stem}.{os.getpid()}.partial.npz")
    try:
        np.savez(partial_path, allow_pickle=False, **arrays)
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def draw_batch(
    seed: int, start: int, count: int, *, held_out: bool = False, of: Of = "one", size: int = SIZE
) -> Batch:
    """Samples start … start + count − 1 of the stream `seed`."""
    samples = [DRAW[of](seed, start + i, held_out=held_out, size=size) for i in range(count)]
    return Batch(
        targets=np.stack([s.target for s in samples]),
        masks=np.stack([s.mask for s in samples]),
        references=np.stack([s.reference for s in samples]),
        labels=np.stack([s.labels for s in samples]),
        captions=np.asarray([s.caption for s in samples]),
        prompts=np.asarray([s.prompt for s in samples]),
    )


def draw_parallel(seed: int, samples: int, of: Of, size: int) -> Iterator[Sample | PairSample]:
    """The first `samples` of the stream `seed` in their order; large numbers by all cores, some hundreds at a time."""
    draw = partial(DRAW[of], seed, size=size)
    if samples < SHARD:
        yield from map(draw, range(samples))
        return
    with get_context("spawn").Pool() as pool:
        for start in range(0, samples, SHARD):
            yield from pool.map(draw, range(start, min(start + SHARD, samples)), chunksize=25)


def _render_shard(directory: Path, seed: int, of: Of, size: int, shard: int) -> None:
    path = shard_path(directory, shard)
    if not path.exists():
        write_npz(path, **vars(draw_batch(seed, shard * SHARD, SHARD, of=of, size=size)))


def render_dataset(
    directory: Path,
    samples: int,
    seed: int = 0,
    processes: int | None = None,
    *,
    of: Of = "one",
    size: int = SIZE,
) -> None:
    """Render the first `samples`, in whole shards, of seen identities; shards that exist are kept."""
    shards = range(-(-samples // SHARD))
    if not shards:
        return
    with get_context("spawn").Pool(processes) as pool:
        done = pool.imap_unordered(partial(_render_shard, directory, seed, of, size), shards)
        for _ in track(done, "rendering", total=len(shards)):
            pass


def stored_size(path: Path) -> int:
    """Height in pixels of the pictures of a shard, from its header alone."""
    with zipfile.ZipFile(path) as archive, archive.open("targets.npy") as file:
        np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        shape, _, _ = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
    return int(shape[1])


def read_batch(directory: Path, shard: int, samples: int) -> Batch:
    """One shard.

    Raises FileNotFoundError naming the command that renders the first `samples`.
    """
    path = shard_path(directory, shard)
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `dreamcache train miniature data --samples {samples}` first")
    with np.load(path, allow_pickle=False) as arrays:
        return Batch(**{name: arrays[name] for name in Batch.__dataclass_fields__})


def read_shards(directory: Path, samples: int) -> Iterator[Batch]:
    """The shards that hold the first `samples`.

    Raises FileNotFoundError naming the command that renders them.
    """
    for shard in range(-(-samples // SHARD)):
        yield read_batch(directory, shard, samples)
