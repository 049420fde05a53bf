"""What `dreamcache generate` writes: one picture after the other, each on disk before the next begins."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dreamcache.runtime.cli.words import shown
from dreamcache.runtime.errors import OutputError
from dreamcache.runtime.files import claim_file, replacing
from dreamcache.runtime.progress import progress_bar
from dreamcache.runtime.settings import checked_images

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.settings import Settings
    from dreamcache.runtime.subject import Subject

_EVERY = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Places:
    """pictures: a file each. preview: one that is drawn anew every `every` steps, as its name says."""

    pictures: tuple[Path, ...]
    overwrite: bool
    preview: Path | None = None
    every: int = 0


def claimed_places(
    out: Path, count: int, overwrite: bool, preview: Path | None, read: Sequence[Path | None] = ()
) -> Places:
    """The files, where one can be written, before anything is drawn. read: pictures that are not to be replaced.

    Raises: OutputError; SettingsError for a count.
    """
    for option, place in (("--out", out), ("--preview", preview)):
        if place is not None and place.suffix.lower() != ".png":
            raise OutputError(f"{option}: a name that ends in .png is expected, received {place.name}")
    count = checked_images(count)
    pictures = [out] if count == 1 else [out.with_stem(f"{out.stem}-{index}") for index in range(count)]
    every = 0
    if preview is not None:
        found = _EVERY.search(preview.stem)
        every = int(found[1]) if found else 0
        if every < 1 or _same_file(preview) in map(_same_file, pictures):
            raise OutputError(
                f"--preview: a name of its own that ends in the number of steps is expected, as in every-5.png, "
                f"received {preview.name}"
            )
        claim_file(preview, overwrite)
    for place in [*pictures, *([preview] if preview else [])]:
        if any(one is not None and _is(place, one) for one in read):
            raise OutputError(
                f"{place} is read for the picture and is not replaced by it; choose another name"
            )
    return Places(tuple(claim_file(place, overwrite) for place in pictures), overwrite, preview, every)


def _is(place: Path, picture: Path) -> bool:
    try:
        return os.path.samestat(place.lstat(), picture.stat())
    except (OSError, ValueError):  # one of the two is not there
        return False


def _same_file(place: Path) -> str:
    """A name that two places share where they may be one file: whatever links lead there, upper case or lower."""
    return os.path.normcase(place.absolute().parent.resolve() / place.name).casefold()


def draw_pictures(
    pipeline: Pipeline,
    prompt: str,
    subjects: Sequence[Subject],
    settings: Settings,
    asked: dict[str, Any],
    places: Places,
    tiled: bool | None,
    with_text: bool,
) -> None:
    """Draw and write picture after picture; picture i has the seed of the settings + i, as in one batch."""
    from dreamcache.runtime.cli.picture_text import drawn_with

    total, done = settings.steps * len(places.pictures), 0
    with progress_bar("drawing") as advance, _keeping(places) as written:
        for index, place in enumerate(places.pictures):
            seed, final = settings.seed + index, None
            for step in pipeline.denoise(prompt, subjects, num_images=1, **{**asked, "seed": seed}):
                final, done = step.latent, done + 1
                if places.preview and (step.index + 1) % places.every == 0 and step.index + 1 < step.total:
                    write_png(pipeline.decode(step.preview, tiled)[0], places.preview, overwrite=True)
                advance(done, total)
            assert final is not None
            text = drawn_with(pipeline.contract, prompt, settings, pipeline.sessions.math, seed)
            image = pipeline.decode(final, tiled)[0]
            write_png(image, place, places.overwrite, text.as_png() if with_text else None)
            written.append(place)


def write_png(image: Image.Image, place: Path, overwrite: bool, text: PngInfo | None = None) -> None:
    """Write one picture completely or not at all. Raises: OutputError."""
    with replacing(place, overwrite) as temporary:
        image.save(temporary, "PNG", pnginfo=text)


@contextmanager
def _keeping(places: Places) -> Iterator[list[Path]]:
    """What was written when the block is stopped stays, and is named on stderr."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        if len(places.pictures) > 1:
            which = f": {written[0]} to {written[-1]}" if written else ""
            said = f"dreamcache: {len(written)} of {len(places.pictures)} pictures are written{which}"
            typer.echo(shown(said), err=True)
        raise
