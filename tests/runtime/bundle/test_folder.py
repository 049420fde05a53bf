"""Damaged bundles: each kind of damage is refused with a line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.contract import CONTRACT_NAME
from dreamcache.runtime.bundle.folder import non_finite_weights, open_bundle
from dreamcache.runtime.bundle.graph_files.contents import stored_tensors
from dreamcache.runtime.bundle.graph_files.tensors import is_finite
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.errors import BundleError, DreamCacheError


def test_a_whole_bundle_opens_and_reports_progress(pristine: Path) -> None:
    seen: list[tuple[int, int]] = []
    bundle = open_bundle(pristine, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (bundle.total_bytes(), bundle.total_bytes())


def _missing(bundle: Path) -> None:
    (bundle / "unet/model.onnx").unlink()


def _truncated(bundle: Path) -> None:
    data = (bundle / "unet/weights.data").read_bytes()
    (bundle / "unet/weights.data").write_bytes(data[:-1])


def _edited(bundle: Path) -> None:
    data = bytearray((bundle / "unet/weights.data").read_bytes())
    data[10] ^= 1
    (bundle / "unet/weights.data").write_bytes(bytes(data))


def _swapped(bundle: Path) -> None:
    one, two = bundle / "unet/cache.onnx", bundle / "unet/model.onnx"
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def _folder_instead(bundle: Path) -> None:
    (bundle / "tokenizer/vocab.json").unlink()
    (bundle / "tokenizer/vocab.json").mkdir()


def _link_that_leaves(bundle: Path) -> None:
    outside = bundle.parent / "outside.json"
    shutil.move(bundle / "tokenizer/vocab.json", outside)
    (bundle / "tokenizer/vocab.json").symlink_to(outside)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing, "unet/model.onnx is missing"),
        (_truncated, r"unet/weights.data: \d+ bytes are expected, received \d+"),
        (_edited, "unet/weights.data was changed: SHA-256"),
        (_swapped, r"unet/(cache|model).onnx: \d+ bytes are expected"),
        (_folder_instead, "tokenizer/vocab.json is not a regular file"),
        (_link_that_leaves, "tokenizer/vocab.json leads out of the bundle"),
    ],
)
def test_damaged_files_are_named(bundle: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        Pipeline.load(bundle)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    checks = list(verify_bundle(bundle))
    assert next(check.name for check in checks if not check.passed) == "files"


def test_swapped_files_of_one_size_are_found_by_their_hash(bundle: Path, tiny: ModuleType) -> None:
    other = tiny.build(bundle.parent / "other", seed=1)
    shutil.copy(other / "unet/weights.data", bundle / "unet/weights.data")
    with pytest.raises(BundleError, match=r"weights\.data was changed"):
        open_bundle(bundle)
    assert open_bundle(bundle, check_hashes=False).contract.architecture.name == "tiny"


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        open_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"has no readable dreamcache\.json"):
        open_bundle(tmp_path)


def test_a_contract_that_is_a_link_out_of_the_bundle(bundle: Path) -> None:
    outside = bundle.parent / "outside.json"
    shutil.move(bundle / CONTRACT_NAME, outside)
    (bundle / CONTRACT_NAME).symlink_to(outside)
    with pytest.raises(BundleError, match="link out of the bundle"):
        open_bundle(bundle)


def test_a_newer_contract_is_refused(bundle: Path, tiny: ModuleType) -> None:
    tiny.edit_contract(bundle, format_version=3)
    with pytest.raises(BundleError, match="newer"):
        open_bundle(bundle)


def _poison(bundle: Path, value: float) -> None:
    """One bad element in a weight that only the conditioned path uses."""
    model = onnx.load(bundle / "unet/model.onnx", load_external_data=False)
    (weight,) = [t for t in model.graph.initializer if t.name == "up_blocks.1.attentions.1.to_out"]
    offset = int({entry.key: entry.value for entry in weight.external_data}["offset"])
    data = bytearray((bundle / "unet/weights.data").read_bytes())
    data[offset : offset + 4] = np.float32(value).tobytes()
    (bundle / "unet/weights.data").write_bytes(bytes(data))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named_though_the_hashes_fit(
    bundle: Path, tiny: ModuleType, toy: Path, value: float
) -> None:
    _poison(bundle, value)
    tiny.seal(bundle)
    opened = open_bundle(bundle)
    broken = "up_blocks.1.attentions.1.to_out"
    assert list(non_finite_weights(opened, opened.contract.graphs.denoiser)) == [broken]
    assert list(non_finite_weights(opened, opened.contract.graphs.cache)) == []
    failed = [check for check in verify_bundle(bundle) if not check.passed]
    assert [check.name for check in failed] == ["weights finite"]
    assert broken in failed[0].detail
    pipeline = Pipeline.load(bundle)
    with pytest.raises(BundleError, match="NaN or infinite"):
        pipeline.generate("a robot", pipeline.cache(toy), steps=2, seed=0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../tokenizer/vocab.json", "which the contract does not name"),
        ("location", "cache.onnx", "which the contract does not name"),
        ("offset", "999999999", "bytes"),
        ("length", "8", "needs 16384 bytes, received 8"),
    ],
)
def test_external_data_must_lie_in_the_declared_file(
    bundle: Path, tiny: ModuleType, key: str, value: str, message: str
) -> None:
    path = bundle / "unet/model.onnx"
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())
    tiny.seal(bundle)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


def test_a_shape_that_asks_for_terabytes_is_refused_before_anything_is_allocated(
    bundle: Path, tiny: ModuleType
) -> None:
    path = bundle / "unet/model.onnx"
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([1 << 20, 1 << 20])
    path.write_bytes(model.SerializeToString())
    tiny.seal(bundle)
    with pytest.raises(BundleError, match="needs 4398046511104 bytes"):
        open_bundle(bundle)


@pytest.mark.parametrize("data", [b"", b"not a graph at all", b"\x3a\xff\xff\xff\xff\x7f"])
def test_a_file_that_is_no_graph_is_refused(bundle: Path, tiny: ModuleType, data: bytes) -> None:
    (bundle / "vae_decoder/model.onnx").write_bytes(data)
    tiny.seal(bundle)
    with pytest.raises(DreamCacheError, match=r"model\.onnx|vae_decoder"):
        Pipeline.load(bundle).decode(np.zeros((1, 4, 4, 4), np.float32))


def test_graph_signatures_are_compared_with_the_contract(bundle: Path, tiny: ModuleType) -> None:
    raw = json.loads((bundle / CONTRACT_NAME).read_text(encoding="utf-8"))
    raw["graphs"]["vae_decoder"]["inputs"][0]["dtype"] = "float16"
    tiny.edit_contract(bundle, graphs=raw["graphs"])
    with pytest.raises(BundleError, match=r"latent_sample \[1, 4, 4, 4\] float16 is expected, received"):
        Pipeline.load(bundle).decode(np.zeros((1, 4, 4, 4), np.float32))
    failed = [check for check in verify_bundle(bundle) if not check.passed]
    assert [check.name for check in failed] == ["graph signatures"]


def test_stored_tensors_reads_what_onnx_reads(pristine: Path, tmp_path: Path) -> None:
    for name in ("unet/model.onnx", "text_encoder/model.onnx"):
        model = onnx.load(pristine / name, load_external_data=False)
        expected = [(t.name, tuple(t.dims), t.data_type) for t in model.graph.initializer]
        assert [(t.name, t.shape, t.data_type) for t in stored_tensors(pristine / name)] == expected
    # Constants inside nodes count too, and half precision and bfloat16 are looked into.
    nodes = []
    for index, kind in enumerate((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT)):
        good = numpy_helper.from_array(np.ones(3, np.float32), f"good{index}")
        raw = {TensorProto.FLOAT16: b"\x00\x7e", TensorProto.BFLOAT16: b"\xc0\x7f"}.get(
            kind, b"\x00\x00\xc0\x7f"
        )
        bad = TensorProto(name=f"bad{index}", data_type=kind, dims=[1], raw_data=raw)
        nodes += [helper.make_node("Constant", [], [t.name], value=t) for t in (good, bad)]
    path = tmp_path / "constants.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], [])).SerializeToString())
    finite = {tensor.name: is_finite(tensor, tmp_path) for tensor in stored_tensors(path)}
    assert finite == {
        "good0": True,
        "bad0": False,
        "good1": True,
        "bad1": False,
        "good2": True,
        "bad2": False,
    }
