"""The same pictures from ONNX Runtime and from the saved Core ML programs, run in PyTorch in emulated 16 bits.

    dreamcache export --base mini --target all --out b
    python docs/scripts/coreml_pictures.py b --out docs/images/coreml.png

Every stage of the second group, text encoder to VAE decoder, is the `.mlpackage` that an app would load; the sampler
and everything around the graphs are the runner's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dreamcache.export.coreml.graph import CoreMLGraph, Interpreted, open_coreml_graph
from dreamcache.runtime.bundle.folder import Bundle, open_bundle
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sessions.session import SessionOpener
from dreamcache.training.evaluation.sheets import Column, draw_sheet
from dreamcache.training.evaluation.toys.benchmark import draw_cases
from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter

GRAPHS = {"denoiser": "denoise"}


class PackageOpener(SessionOpener):
    """Opens the packages where the runner asks for ONNX graphs; each is read once."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, ())
        object.__setattr__(self, "opened", {})

    opened: dict[str, CoreMLGraph]

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """See `SessionOpener.open`."""
        part = self.bundle.contract.coreml
        assert part is not None, "export with --target all"
        graph = GRAPHS.get(name, name)
        if graph not in self.opened:
            self.opened[graph] = open_coreml_graph(self.bundle.folder, part, graph, Interpreted("fp16"))
        yield self.opened[graph]


def main() -> None:
    """Draw both, and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--identities", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=3)
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    cases = draw_cases(given.identities, given.scenes, size=bundle.contract.architecture.image_height)
    painters = {
        "ONNX Runtime, fp32": BundlePainter(Pipeline.load(given.bundle, keep_sessions=True)),
        "Core ML packages, emulated fp16": BundlePainter(Pipeline(bundle, PackageOpener(bundle))),
    }
    pictures = {title: painter(cases, "dreamcache") for title, painter in painters.items()}
    rows = range(0, len(cases), given.scenes)
    columns = [Column("reference", [[cases[first].reference] for first in rows])]
    columns += [
        Column(title, [list(drawn[first : first + given.scenes]) for first in rows])
        for title, drawn in pictures.items()
    ]
    draw_sheet(columns, given.out, "The same seeds: ONNX Runtime, and the saved Core ML programs")
    exact, rounded = (drawn.astype(np.float32) for drawn in pictures.values())
    print(f"{given.out}: {psnr_db(exact, rounded):.1f} dB between the two, {len(cases)} pictures")


if __name__ == "__main__":
    main()
