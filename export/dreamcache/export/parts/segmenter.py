"""The bundle's `segmenter/model.onnx`: the segmenter of a base's folder, or a salient-object model that is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dreamcache.export.declare.components import declare_segmenter
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.session import open_exported
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.graphs.trace import export_graph
from dreamcache.export.parity.gates import check_psnr
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.segmenter import MEAN, STD, load_segmenter
from dreamcache.runtime.bundle.contract import SegmenterSpec
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.reference.salient import (
    FORMS,
    SalientModel,
    as_probability,
    is_probability,
    open_salient,
)

FILE, WEIGHTS = "segmenter/model.onnx", "segmenter/weights.data"
Written = tuple[SegmenterSpec, float]
"""What the contract says of it, and its dB from what it was made of."""


@torch.no_grad()
def export_segmenter(base: Base, folder: Path, given: str | None = None) -> Written | None:
    """Write it below `folder`, in fp32 whatever the bundle's precision: it is small and runs once a reference.

    Args:
        base: whose folder may have one.
        folder: of the unfinished bundle.
        given: ``FILE.onnx`` or ``FILE.onnx:FORM`` in its place.

    Returns:
        None where there is none.

    Raises:
        ExportError: it does not export, or is not what PyTorch or the given file computes.
        AdapterError: the base's file is no segmenter.
        SettingsError: the given file cannot be used.
    """
    if given is not None:
        return _bundled(open_salient(given), folder)
    if (trained := load_segmenter(base.path)) is None:
        return None
    spec = _declared((trained.size, trained.size), MEAN, STD)
    model = export_graph(trained.module, spec.inputs, spec.outputs)
    pixels = np.random.default_rng(0).uniform(-1, 1, spec.inputs[0].shape).astype(np.float32)
    return _written(model, folder, spec, [pixels], trained.module(torch.from_numpy(pixels)).numpy())


def _bundled(salient: SalientModel, folder: Path) -> Written:
    """The given file's graph with fixed sizes, its first output alone, and a sigmoid where it gives logits."""
    form = FORMS[salient.form]
    spec = _declared(salient.size, form.mean, form.std)
    fed = [picture.astype(np.float32) for picture in _pictures(spec)]
    planes = [salient.run(picture) for picture in fed]
    if planes[0].shape != salient.size:
        raise ExportError(
            f"--segmenter {salient.path}: a mask as large as its picture, {list(salient.size)}, is expected, received "
            f"{list(planes[0].shape)}; give it to `dreamcache cache --segmenter` instead"
        )
    model = ir.load(salient.path)
    graph = model.graph
    mask, picture = graph.outputs[0], next(value for value in graph.inputs if value.name == salient.given)
    graph.outputs.clear()
    if not all(is_probability(plane) for plane in planes):
        sigmoid = ir.Node("", "Sigmoid", [mask])
        graph.append(sigmoid)
        mask = sigmoid.outputs[0]
    graph.outputs.append(mask)
    RemoveUnusedNodesPass()(model)
    graph.inputs[:] = [picture]  # older exporters list weights among the inputs
    for value, tensor in ((picture, spec.inputs[0]), (mask, spec.outputs[0])):
        value.name, value.shape, value.type = (
            tensor.name,
            ir.Shape(tensor.shape),
            ir.TensorType(ir.DataType.FLOAT),
        )
    expected = np.stack([as_probability(plane) for plane in planes])[:, None]
    return _written(model, folder, spec, fed, expected)


def _written(
    model: ir.Model,
    folder: Path,
    spec: SegmenterSpec,
    fed: list[NDArray[np.float32]],
    expected: NDArray[np.float32],
) -> Written:
    """The file, compared on pictures with what is expected of it."""
    place = folder / FILE
    place.parent.mkdir()
    write_shared(place.parent, {place.name: model}, Path(WEIGHTS).name)
    graph = open_exported("segmenter", place, spec)
    received = [graph.run({spec.inputs[0].name: picture})[spec.outputs[0].name] for picture in fed]
    db = psnr_db(expected, np.concatenate(received))
    check_psnr("segmenter", db)
    return spec, db


def _declared(
    size: tuple[int, int], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> SegmenterSpec:
    tensors = declare_segmenter(size, mean, std)
    return SegmenterSpec(
        file=FILE, weights=(WEIGHTS,), inputs=tensors.inputs, outputs=tensors.outputs, mean=mean, std=std
    )


def _pictures(spec: SegmenterSpec) -> list[NDArray[np.float64]]:
    """Noise, and a square of one colour on it, as the network reads them."""
    colours = np.random.default_rng(0).uniform(0, 1, spec.inputs[0].shape)
    height, width = colours.shape[2:]
    square = colours.copy()
    square[..., height // 4 : height // 2, width // 4 : width // 2] = [[[1.0]], [[0.1]], [[0.1]]]
    mean, std = (np.reshape(numbers, (1, 3, 1, 1)) for numbers in (spec.mean, spec.std))
    return [(picture - mean) / std for picture in (colours, square)]
