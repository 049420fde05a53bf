"""Compressed weights: smaller files, worse numbers in that order, read back by the interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("coremltools")

from dreamcache.export.coreml.convert import convert_graph, merge_functions
from dreamcache.export.coreml.mil.blobs import unpack
from dreamcache.export.coreml.mil.interpreter import Interpreter
from dreamcache.export.coreml.mil.package import open_package
from dreamcache.export.coreml.mil.program import Function, read_program
from dreamcache.export.coreml.weights.compress import compress_package
from dreamcache.export.errors import ExportError
from dreamcache.export.options import WEIGHT_FORMATS, WeightFormat
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.bundle.tensors import TensorSpec

SPEC = TensorSpec(name="x", shape=(1, 16, 6, 6), dtype="float32", meaning="anything")
OUT = TensorSpec(name="y", shape=(1, 8, 6, 6), dtype="float32", meaning="anything")


class Small(nn.Module):
    """A convolution and two products."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).permute(0, 2, 3, 1)
        return self.down(functional.silu(self.up(tokens))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compress") / "exact.mlpackage"
    convert_graph(Small(), (SPEC,), (OUT,), place)
    return place


def read(place: Path) -> Function:
    return read_program(open_package(place))["main"]


def weight_bytes(place: Path) -> int:
    return next(place.rglob("weight.bin")).stat().st_size


def psnr(function: Function) -> float:
    x = torch.randn(1, 16, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = Small()(x).numpy()
    return psnr_db(expected, Interpreter(function).run({"x": x.numpy()})["y"])


def test_smaller_is_worse_and_in_order(exact: Path, tmp_path: Path) -> None:
    found = {}
    for kind in WEIGHT_FORMATS:
        place = tmp_path / f"{kind}.mlpackage"
        compress_package(exact, place, {}, kind)
        found[kind] = (weight_bytes(place), psnr(read(place)))
    sizes, decibels = zip(*found.values(), strict=True)
    assert list(sizes) == sorted(sizes, reverse=True)
    assert list(decibels) == sorted(decibels, reverse=True)
    assert decibels[0] > 60
    assert decibels[1] > 40
    assert 10 < decibels[3] < decibels[2] - 6
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[3] < 0.4 * sizes[0]


def test_single_weights_take_formats_of_their_own(exact: Path, tmp_path: Path) -> None:
    named = [one.outputs[0].name for one in read(exact).operations if one.type == "const"]
    (up,) = [name for name in named if name.startswith("up_weight")]
    formats: dict[str, WeightFormat] = {up: "palette6"}
    compress_package(exact, tmp_path / "one.mlpackage", formats, "fp16")
    kinds = [
        one.type for one in read(tmp_path / "one.mlpackage").operations if one.type.startswith("constexpr")
    ]
    assert kinds == ["constexpr_lut_to_dense"]
    compress_package(exact, tmp_path / "rest.mlpackage", {up: "fp16"}, "int8")
    kinds = [
        one.type for one in read(tmp_path / "rest.mlpackage").operations if one.type.startswith("constexpr")
    ]
    assert kinds == ["constexpr_blockwise_shift_scale"]
    assert psnr(read(tmp_path / "rest.mlpackage")) > 40


def test_compressed_packages_merge(exact: Path, tmp_path: Path) -> None:
    for kind in ("int8", "palette6"):
        compress_package(exact, tmp_path / f"{kind}.mlpackage", {}, kind)  # type: ignore[arg-type]
    places = {kind: tmp_path / f"{kind}.mlpackage" for kind in ("int8", "palette6")}
    merge_functions(places, tmp_path / "both.mlpackage", "int8")
    functions = read_program(open_package(tmp_path / "both.mlpackage"))
    for kind, place in places.items():
        assert psnr(functions[kind]) == pytest.approx(psnr(read(place)))
    # The tools refuse what was merged already.
    with pytest.raises(ExportError, match=r"both.mlpackage does not compress"):
        compress_package(tmp_path / "both.mlpackage", tmp_path / "again.mlpackage", {}, "int8")


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_values_that_share_bytes(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 1 << bits, 37)
    stream = [(value >> bit) & 1 for value in values for bit in range(bits)]
    packed = np.packbits(np.array(stream, np.uint8), bitorder="little")
    np.testing.assert_array_equal(unpack(packed, bits, 37), values)
    if bits == 4:
        np.testing.assert_array_equal(unpack(packed, 4, 37, signed=True), (values ^ 8) - 8)
