"""How well subjects are cut out of scenes: GrabCut, the miniature's segmenter and files, on renders with exact masks.

    python docs/scripts/cut_out_scores.py --json docs/results/cut-outs.json

Held-out toys of the drawn world, 64 and 256 px, in its scenes and put into ten photographs of scikit-image.
`--segmenter FILE[:FORM]` adds a file; one with the miniature's network is made, so that a file's way is measured too. A
table is printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from cut_outs import FOLDER, NAMES
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from dreamcache.runtime import Pipeline
from dreamcache.runtime.reference.salient import open_salient
from dreamcache.runtime.reference.segmentation import grabcut
from dreamcache.training.world.dataset import draw_batch

SEED, COUNTS = 98, {64: 300, 256: 100}
SCENES, PHOTOGRAPHS = "drawn scenes", "ten photographs"
GOOD = 0.8
# A part that a square of this share of the picture's side does not fit into is thin.
THIN = 1 / 21
Way = Callable[[Image.Image], Image.Image | None]
Alpha = NDArray[np.float64]


def into_photographs(pictures: NDArray[np.uint8], masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Subjects of pictures [n, h, w, 3] by masks [n, h, w], each put into the middle of one of the photographs."""
    found = []
    for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        with Image.open(FOLDER / NAMES[index % len(NAMES)]) as photograph:
            behind = ImageOps.fit(photograph.convert("RGB"), picture.shape[1::-1])
        found.append(np.asarray(Image.composite(Image.fromarray(picture), behind, Image.fromarray(mask))))
    return np.stack(found)


def by_grabcut(picture: Image.Image) -> Image.Image | None:
    """The rule without a segmenter."""
    found = grabcut(picture)
    return None if found is None else found.foreground


def as_file(pipeline: Pipeline, folder: Path) -> str:
    """The bundle's segmenter as one file, as people have them."""
    spec = pipeline.contract.graphs.segmenter
    assert spec is not None
    onnx.save(onnx.load(pipeline.bundle.path(spec.file)), folder / "mini.onnx")
    return f"{folder / 'mini.onnx'}:modnet"  # the form with its mean and deviation


def scored(way: Way, pictures: NDArray[np.uint8], masks: NDArray[np.uint8]) -> dict[str, float]:
    """Means over pictures [n, h, w, 3] with masks [n, h, w]; of holes, thin parts and soft edges over their pixels."""
    overlaps, parts = [], {name: [0.0, 0] for name in ("holes", "thin", "soft")}
    for picture, mask in zip(pictures, masks, strict=True):
        found = way(Image.fromarray(picture))
        alpha = np.zeros(mask.shape) if found is None else np.asarray(found) / 255
        inside, truth = alpha > 0.5, mask > 127
        overlaps.append((inside & truth).sum() / (inside | truth).sum())
        for name, right in _parts(alpha, mask / 255):
            parts[name][0] += right.sum()
            parts[name][1] += right.size
    share = {name: float(total / max(count, 1)) for name, (total, count) in parts.items()}
    return {
        "iou": float(np.mean(overlaps)),
        "good": float(np.mean(np.asarray(overlaps) > GOOD)),
        "holes_open": share["holes"],
        "thin_found": share["thin"],
        "soft_edge_error": share["soft"],
    }


def _parts(alpha: Alpha, truth: Alpha) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Of the pixels of each part: which are right, and by how much soft edges differ."""
    inside, solid = alpha > 0.5, truth > 0.5
    side = 2 * max(1, round(len(truth) * THIN / 2)) + 1
    yield "holes", ~inside[ndimage.binary_fill_holes(solid) & ~solid]
    yield "thin", inside[solid & ~ndimage.binary_opening(solid, np.ones((side, side)))]
    soft = (truth > 0) & (truth < 1)
    yield "soft", np.abs(alpha - truth)[soft]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Scores of cut-outs.")
    parser.add_argument("--segmenter", action="append", default=[], metavar="FILE[:FORM]")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    mini = Pipeline.load("mini", keep_sessions=True)
    with TemporaryDirectory() as folder:
        made = as_file(mini, Path(folder))
        ways: dict[str, Way] = {"GrabCut": by_grabcut, "the miniature's segmenter": mini.segment}
        ways |= {"the same as a file": open_salient(made).find_subject}
        ways |= {Path(file).name: open_salient(file).find_subject for file in given.segmenter}
        rows = []
        for size, count in COUNTS.items():
            batch = draw_batch(SEED, 0, count, held_out=True, size=size)
            behind = {SCENES: batch.targets, PHOTOGRAPHS: into_photographs(batch.targets, batch.masks)}
            rows += [
                {"size": size, "pictures": count, "behind": place, "way": name}
                | scored(way, pictures, batch.masks)
                for place, pictures in behind.items()
                for name, way in ways.items()
            ]
    given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(
        "| side | pictures | in | way | IoU | above 0.8 | holes open | thin parts found | error of soft edges |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        shares = " | ".join(f"{row[name]:.1%}" for name in ("good", "holes_open", "thin_found"))
        facts = f"{row['size']} px | {row['pictures']} | {row['behind']} | {row['way']} | {row['iou']:.3f}"
        print(f"| {facts} | {shares} | {row['soft_edge_error']:.3f} |")


if __name__ == "__main__":
    main()
