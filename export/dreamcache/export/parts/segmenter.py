"""The segmenter of a base's folder, where there is one, as the bundle's `segmenter/model.onnx`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dreamcache.export.graphs.session import open_exported
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.graphs.trace import export_graph
from dreamcache.export.parity.gates import check_psnr
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.segmenter import MEAN, STD, load_segmenter
from dreamcache.runtime.bundle.contract import SegmenterSpec
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.bundle.tensors import TensorSpec

FILE, WEIGHTS = "segmenter/model.onnx", "segmenter/weights.data"


@torch.no_grad()
def export_segmenter(base: Base, folder: Path) -> tuple[SegmenterSpec, float] | None:
    """Write it below `folder`, in fp32 whatever the bundle's precision: it is small and runs once a reference.

    Returns:
        What the contract says of it, and its dB from PyTorch; None where the base has none.

    Raises:
        ExportError: it does not export, or is not what PyTorch computes.
        AdapterError: the base's file is no segmenter.
    """
    if (trained := load_segmenter(base.path)) is None:
        return None
    size = trained.size
    picture = TensorSpec(
        name="picture", shape=(1, 3, size, size), dtype="float32", meaning="normalised colours"
    )
    mask = TensorSpec(name="mask", shape=(1, 1, size, size), dtype="float32", meaning="the subject, 0 to 1")
    model = export_graph(trained.module, [picture], [mask])
    place = folder / FILE
    place.parent.mkdir()
    write_shared(place.parent, {place.name: model}, Path(WEIGHTS).name)
    spec = SegmenterSpec(
        file=FILE, weights=(WEIGHTS,), inputs=(picture,), outputs=(mask,), mean=MEAN, std=STD
    )
    pixels = np.random.default_rng(0).uniform(-1, 1, picture.shape).astype(np.float32)
    expected = trained.module(torch.from_numpy(pixels)).numpy()
    received = open_exported("segmenter", place, spec).run({picture.name: pixels})[mask.name]
    db = psnr_db(expected, received)
    check_psnr("segmenter", db)
    return spec, db
