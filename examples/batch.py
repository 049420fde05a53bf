"""Every subject in every scene: a picture each, and a sheet of all.

    python examples/batch.py mini --reference docs/images/toy.png --prompt "a toy duck in space" --out pictures

The bundle stays open, each reference is cached once, and a picture is written as soon as it is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dreamcache.runtime import DreamCacheError, Pipeline


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures of one size, a row for each subject."""
    width, height = rows[0][0].size
    whole = Image.new("RGB", (width * len(rows[0]), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            whole.paste(picture, (x * width, y * height))
    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", help="folder of a bundle, owner/name on the Hub, or mini")
    parser.add_argument(
        "--reference", action="append", required=True, help="picture of a subject; repeatable"
    )
    parser.add_argument("--prompt", action="append", required=True, help="scene; repeatable")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures, which is made")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps, default 20")
    parser.add_argument("--seed", type=int, default=0, help="seed of every picture, default 0")
    asked = parser.parse_args(arguments)
    try:
        pipe = Pipeline.load(asked.bundle, keep_sessions=True)
        subjects = [pipe.cache(reference) for reference in asked.reference]
        asked.out.mkdir(parents=True)
        rows = []
        for i, subject in enumerate(subjects):
            rows.append([subject.thumbnail.resize(pipe_size(pipe))])
            for j, prompt in enumerate(asked.prompt):
                picture = pipe.generate(prompt, subject, steps=asked.steps, seed=asked.seed)
                picture.save(asked.out / f"subject-{i}-prompt-{j}.png")
                rows[-1].append(picture)
    except (DreamCacheError, OSError) as error:
        raise SystemExit(str(error)) from error
    sheet(rows).save(asked.out / "sheet.png")


def pipe_size(pipe: Pipeline) -> tuple[int, int]:
    """Width and height of the pictures that a bundle draws."""
    shape = pipe.contract.architecture
    return shape.image_width, shape.image_height


if __name__ == "__main__":
    main()
