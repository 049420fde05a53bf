"""A base's segmenter becomes a graph that computes what PyTorch does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from drawn_scenes import scene
from onnx import TensorProto, helper
from tiny_synthesis import write_tiny_salient

from dreamcache.export.graphs.session import open_exported
from dreamcache.export.parts.segmenter import export_segmenter
from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.parts.segmenter import FILE, SubjectSegmenter, load_segmenter, save_segmenter
from dreamcache.models.errors import AdapterError
from dreamcache.runtime.bundle.contract import SegmenterSpec
from dreamcache.runtime.bundle.graph_files.contents import stored_tensors
from dreamcache.runtime.reference.salient import open_salient
from dreamcache.runtime.reference.segmenter import find_subject


def test_the_graph_is_the_network(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    assert export_segmenter(base, tmp_path / "none") is None
    torch.manual_seed(0)
    save_segmenter(tmp_path / "base" / FILE, SubjectSegmenter((8, 16, 24)), 32, {})
    base = replace(base, path=tmp_path / "base")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    made = export_segmenter(base, bundle)
    assert made is not None
    spec, db = made
    assert db >= 80
    assert isinstance(spec, SegmenterSpec)
    assert all((bundle / path).is_file() for path in (spec.file, *spec.weights))
    trained = load_segmenter(base.path)
    assert trained is not None
    assert trained.size == 32
    pixels = np.random.default_rng(3).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    received = open_exported("segmenter", bundle / spec.file, spec).run({"picture": pixels})["mask"]
    with torch.no_grad():
        expected = trained.module(torch.from_numpy(pixels)).numpy()
        other = SubjectSegmenter((8, 16, 24))(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(received, expected, atol=1e-5)
    assert np.abs(received - other).max() > 1e-3


@pytest.mark.parametrize("logits", [False, True])
def test_a_given_file_is_what_it_was(tiny_base: Path, tmp_path: Path, logits: bool) -> None:
    """A salient-object model with two outputs, of which the first is read, at times without its sigmoid."""
    given = write_tiny_salient(tmp_path / "isnet.onnx", 0.75, side=48)
    model = onnx.load(given)
    if logits:
        del model.graph.node[-1]
        model.graph.output[0].name = "logits"
    model.graph.output.append(helper.make_tensor_value_info("distance", TensorProto.FLOAT, [1, 1, 48, 48]))
    onnx.save(model, given)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    made = export_segmenter(load_base(tiny_base), bundle, str(given))
    assert made is not None
    spec, db = made
    assert db >= 100
    assert (spec.inputs[0].shape, spec.mean, spec.std) == ((1, 3, 48, 48), (0.5, 0.5, 0.5), (1, 1, 1))
    graph = open_exported("segmenter", bundle / spec.file, spec)
    network = lambda colours: graph.run({"picture": colours})["mask"]  # noqa: E731 (short)
    found = find_subject(scene(), spec, network)
    expected = open_salient(given).find_subject(scene())
    other = open_salient(f"{given}:u2net").saliency(scene())
    assert found is not None
    assert expected is not None
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert np.abs(other - open_salient(given).saliency(scene())).max() > 0.2
    written = onnx.load(bundle / spec.file, load_external_data=False)
    assert [value.name for value in written.graph.output] == ["mask"]
    assert sum(1 for _ in stored_tensors(bundle / spec.file)) == 5


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / FILE
    save_segmenter(path, SubjectSegmenter((8, 16)), 32, {})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(AdapterError, match=r"is no segmenter: .*train it again") as caught:
        load_segmenter(tmp_path)
    assert "\n" not in str(caught.value)
