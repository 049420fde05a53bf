"""Where triplets come from: shards, a folder of plain files, or the drawn world.

A source is read once, in order, to be encoded (`encoded.py`); training itself never opens a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.reference.images import load_image
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.training.world.dataset import Of, draw_parallel, read_shards

Picture = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
WORLD = "world:"
MOST_DRAWN = 10_000_000
"""Samples of the drawn world in one training; as many take a desktop days to draw."""


class Triplet(Protocol):
    """One sample; r is the source's resolution."""

    @property
    def key(self) -> str:
        """Names the sample in messages."""

    @property
    def caption(self) -> str:
        """Of the target."""

    @property
    def target(self) -> Picture:
        """uint8 [r, r, 3]."""

    @property
    def reference(self) -> Picture:
        """The subject on white, uint8 [r, r, 3], or several, [n, r, r, 3]; augmented later."""


class TripletSource(Protocol):
    """What reads triplets in an order that is always the same, and knows what it reads without reading it."""

    @property
    def resolution(self) -> int:
        """Side of the pictures in pixels."""

    @property
    def fingerprint(self) -> str:
        """Changes when any sample does."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Triplet]: ...


class PlainTriplet(NamedTuple):
    """A triplet in memory."""

    key: str
    caption: str
    target: Picture
    reference: Picture


@dataclass(frozen=True)
class DrawnWorld:
    """The first `samples` of the drawn world's stream `seed`, of one toy or of two."""

    samples: int
    resolution: int
    of: Of = "one"
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Samples depend on the stream and their number alone."""
        return f"world-{self.seed}-{self.samples}" + ("" if self.of == "one" else f"-{self.of}")

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[PlainTriplet]:
        for number, drawn in enumerate(draw_parallel(self.seed, self.samples, self.of, self.resolution)):
            yield PlainTriplet(f"{number:08d}", drawn.prompt, drawn.target, drawn.reference)


@dataclass(frozen=True)
class StoredWorld(DrawnWorld):
    """The same samples where they were rendered before: `folder` holds their shards."""

    folder: Path = Path()

    def __iter__(self) -> Iterator[PlainTriplet]:
        numbers = iter(range(self.samples))
        for batch in read_shards(self.folder, self.samples):
            drawn = zip(batch.prompts, batch.targets, batch.references, strict=True)
            # numbers last, so that none is taken for a shard's end; the last shard holds more than is asked for
            for (prompt, target, reference), number in zip(drawn, numbers, strict=False):
                yield PlainTriplet(f"{number:08d}", str(prompt), target, reference)


class TripletFolder:
    """NAME.txt, NAME.target.png and NAME.reference.png of each sample (or .jpg, .webp), sorted by name.

    Targets are cut to their middle square and scaled to `resolution`; references are prepared as at generation, so that
    training sees the same subjects.
    """

    def __init__(self, folder: Path, resolution: int) -> None:
        """Raises: SettingsError when there is no sample, or one lacks a picture."""
        self.resolution = resolution
        self._samples = [
            (path, _beside(path, "target"), _beside(path, "reference"))
            for path in sorted(folder.glob("*.txt"))
        ]
        if not self._samples:
            raise SettingsError(
                f"{folder}: shards, or NAME.txt, NAME.target.png and NAME.reference.png of each sample are "
                "expected, received none; name the folder of the data"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names and contents of all files, and the resolution."""
        digest = hashlib.sha256(f"{self.resolution} prepared".encode())
        for paths in self._samples:
            for path in paths:
                digest.update(f"{path.name}\0{sha256_file(path)}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[PlainTriplet]:
        """Raises: ImageError naming a picture that cannot be read."""
        side = (self.resolution, self.resolution)
        for text, target, reference in self._samples:
            yield PlainTriplet(
                text.stem,
                text.read_text(encoding="utf-8").strip(),
                np.asarray(ImageOps.fit(load_image(target).rgb, side)),
                np.asarray(prepare_reference(reference, size=self.resolution).image),
            )


def open_source(name: str, resolution: int) -> TripletSource:
    """The source behind `--data`: a folder of shards or of plain files, or world:N for N drawn samples.

    resolution: in pixels, which shards must have, plain files are scaled to, and the drawn world is drawn at.
    Raises: SettingsError, or a source's own error, when it is absent, incomplete or of another resolution.
    """
    source: TripletSource
    if name.startswith(WORLD):
        source = DrawnWorld(_world_counts(name)[0], resolution)
    elif (Path(name) / "index.json").is_file():
        source = _open_shards(Path(name))
    else:
        source = TripletFolder(Path(name), resolution)
    if source.resolution != resolution:
        raise SettingsError(
            f"{name}: {resolution} x {resolution} px are expected, received {source.resolution} x "
            f"{source.resolution}; give data of that size, or train with --set resolution={source.resolution}"
        )
    return source


def open_pairs(name: str, resolution: int) -> TripletSource | None:
    """Samples with two subjects behind `--data`: the M of world:N+M; None of what has none.

    Raises: SettingsError for numbers that are none.
    """
    count = _world_counts(name)[1] if name.startswith(WORLD) else 0
    return DrawnWorld(count, resolution, "two") if count else None


def _world_counts(name: str) -> tuple[int, int]:
    """N and M of world:N or world:N+M."""
    ones, plus, twos = name.removeprefix(WORLD).partition("+")
    counts = [ones, twos] if plus else [ones]
    decimal = all(one.isascii() and one.isdecimal() for one in counts)
    if decimal and any(len(one) > 12 or int(one) > MOST_DRAWN for one in counts):
        raise SettingsError(
            f"the data is {name[:40]!r}: at most {MOST_DRAWN:,} samples are expected; give fewer"
        )
    if not decimal or int(ones) < 1:
        raise SettingsError(
            f"the data is {name!r}; expected {WORLD}N with N samples, such as world:2000, or {WORLD}N+M with M more of "
            "two toys"
        )
    return int(ones), int(twos or 0)


def _open_shards(folder: Path) -> TripletSource:
    try:
        from dreamcache.training.data.shards.distribution import ProcessRank
        from dreamcache.training.data.shards.triplets import TripletDataset
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{folder}: to read shards {error.name} is expected, which is not installed; install it with: "
            'pip install "dreamcache[synthesize]"'
        ) from error
    # every process reads all and encodes its part: the shards are not dealt out here
    return TripletDataset(folder, process=ProcessRank())


def _beside(text: Path, kind: str) -> Path:
    for suffix in SUFFIXES:
        if (path := text.with_name(f"{text.stem}.{kind}{suffix}")).is_file():
            return path
    raise SettingsError(
        f"{text}: {text.stem}.{kind}.png is expected in the same folder, received none; add it or delete the caption"
    )
