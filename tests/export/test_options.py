"""A bundle made from Python, without the command line; and what its options refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_synthesis import write_tiny_salient

from dreamcache.export import OnnxOptions, Source, export_bundle
from dreamcache.export.errors import ExportError
from dreamcache.export.options import Approximations, CoreMLOptions
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.parity import MIN_PSNR_DB
from dreamcache.runtime.errors import SettingsError


def test_a_bundle_is_made_from_python(tiny_base: Path, tiny_adapters: Path, tmp_path: Path) -> None:
    source = Source.load(str(tiny_base), tiny_adapters)
    segmenter = write_tiny_salient(tmp_path / "u2net.onnx", 2.0, side=32)
    contract = export_bundle(
        source,
        tmp_path / "bundle",
        onnx=OnnxOptions(attention="plain", segmenter=str(segmenter)),
        approximations=Approximations(reference_downsample=2),
    )
    assert open_bundle(tmp_path / "bundle").contract == contract
    assert (contract.precision, contract.attention, contract.coreml) == ("fp32", "plain", None)
    assert [site.tokens for site in contract.architecture.sites] == [16, 16, 16, 16]
    assert min(contract.parity.psnr_db.values()) >= MIN_PSNR_DB
    assert contract.graphs.segmenter is not None
    assert contract.graphs.segmenter.mean == pytest.approx((0.485, 0.456, 0.406))
    assert contract.format_version == 2, "version 0.1 refuses what it does not know"
    assert contract.parity.psnr_db["segmenter"] >= 100
    with pytest.raises(SettingsError, match=r"no salient-object model at 'nowhere\.onnx'"):
        export_bundle(source, tmp_path / "none", onnx=OnnxOptions(segmenter="nowhere.onnx"))
    with pytest.raises(
        ExportError, match=r"^options for ONNX, Core ML or both are expected, received neither"
    ):
        export_bundle(source, tmp_path / "none", onnx=None)
    with pytest.raises(ExportError, match="several references go with --target onnx and --attention mha"):
        export_bundle(source, tmp_path / "none", onnx=OnnxOptions(attention="plain"), max_references=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "u2net.onnx"]


def test_options_are_checked_where_they_are_made() -> None:
    with pytest.raises(ExportError, match="--precision int4 is not exported"):
        OnnxOptions("int4")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="need target=iOS17 or later, received iOS16"):
        CoreMLOptions(target="iOS16", weights="palette6")
    with pytest.raises(ExportError, match=r"exactly one of psnr_db and size_mb .* received 2"):
        CoreMLOptions(weights="mixed", psnr_db=40, size_mb=100)
    assert CoreMLOptions(weights="mixed", size_mb=100).default_format == "int8"
    assert CoreMLOptions(resolutions=(64, 96)).resolutions == (64, 96)
