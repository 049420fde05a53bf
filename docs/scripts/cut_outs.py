"""Draw docs/images/cut-outs.png: ten photographs of scikit-image, the mask that was found, the prepared reference.

    python docs/scripts/cut_outs.py --out docs/images/cut-outs.png

Left to right: photograph, mask, reference. What was said of each is printed. `--segmenter FILE[:FORM]`, or `mini` for
the shipped bundle's, finds the mask in the place of GrabCut.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from dreamcache.runtime import Pipeline
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.reference.salient import chosen_segmenter

NAMES = (
    *("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg"),
    *("motorcycle_left.png", "clock_motion.png", "horse.png", "hubble_deep_field.jpg", "coins.png"),
)
FOLDER = Path(skimage.data.__file__).parent
SIDE, GAP, COLUMNS = 128, 4, 2


def row(path: Path, segmenter: str | None) -> Image.Image:
    """One photograph with what was made of it."""
    own = Pipeline.load("mini").segment if segmenter == "mini" else None
    segment, by = chosen_segmenter(None if own else segmenter, own, threads=None)
    prepared = prepare_reference(path, size=SIDE, segment=segment, segmenter=by)
    print(f"{path.name}: {prepared.how}")
    photograph = Image.open(path).convert("RGB")
    photograph.thumbnail((SIDE, SIDE))
    mask = Image.fromarray((prepared.mask * 255).astype(np.uint8))
    tile = Image.new("RGB", (3 * SIDE + 2 * GAP, SIDE), "grey")
    for place, shown in enumerate((photograph, mask, prepared.image)):
        tile.paste(shown, (place * (SIDE + GAP), 0))
    return tile


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description="The sheet of cut-outs.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--segmenter", metavar="FILE[:FORM]")
    given = parser.parse_args()
    rows = [row(FOLDER / name, given.segmenter) for name in NAMES]
    width, height = rows[0].width + 4 * GAP, SIDE + GAP
    sheet = Image.new("RGB", (COLUMNS * width, len(rows) // COLUMNS * height), "grey")
    for index, tile in enumerate(rows):
        sheet.paste(tile, (index % COLUMNS * width, index // COLUMNS * height))
    sheet.quantize(128).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
