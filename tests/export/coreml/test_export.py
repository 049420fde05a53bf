"""`dreamcache export --target all` on the tiny base: packages, contract, gates, the page for app developers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

pytest.importorskip("coremltools")

from rich.console import Console

from dreamcache.export import options
from dreamcache.export.command import export
from dreamcache.export.coreml.mil.package import open_package
from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, parse_contract
from dreamcache.runtime.bundle.folder import open_bundle, open_contract
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.cli.inspect import bundle_tables
from dreamcache.runtime.errors import BundleError, SettingsError
from dreamcache.runtime.pipeline import Pipeline

UNSIZED = ("cache", "denoise", "vae_encoder", "vae_decoder")
PACKAGES = ["TextEncoder", "Unet", "VAEDecoder", "VAEEncoder"]


def test_the_layout_is_the_known_one(both: Path) -> None:
    folder = both / "coreml"
    assert sorted(path.stem for path in folder.glob("*.mlpackage")) == PACKAGES
    assert (folder / "vocab.json").read_bytes() == (both / "tokenizer/vocab.json").read_bytes()
    assert (folder / "merges.txt").is_file()
    assert sorted(open_package(folder / "Unet.mlpackage").specification.mlProgram.functions) == [
        "cache",
        "cache_64",
        "denoise",
        "denoise_64",
    ]
    assert not list(folder.rglob("work"))


def test_the_contract_has_it_all(both: Path) -> None:
    bundle = open_bundle(both)
    part = bundle.contract.coreml
    assert part is not None
    assert (part.target, part.attention, part.compute, part.weights) == (
        "iOS18",
        "split_einsum",
        "fp16",
        "fp16",
    )
    assert sorted(part.models) == PACKAGES
    stored = {path for path in both.rglob("coreml/**/*") if path.is_file()}
    assert {path.relative_to(both).as_posix() for path in stored} <= bundle.contract.files.keys()
    sized = {f"{name}{size}" for name in UNSIZED for size in ("", "_64")}
    graphs = sized | {"text_encoder"}
    assert part.graphs.keys() == graphs
    assert part.largest < 65504
    assert part.kept_in_fp32 == ()
    assert part.psnr_db.keys() == graphs | {f"{name} fp16" for name in graphs}
    assert min(part.psnr_db.values()) > 40
    assert all(part.psnr_db[f"{name} fp16"] < part.psnr_db[name] + 1 for name in graphs)
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in part.condition.values())
    assert len(part.trajectory_db) == 4
    assert part.disk_ratio is not None
    weights = {
        name: (both / f"coreml/{name}.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
        for name in ("Unet", "VAEDecoder")
    }
    stored = {record for record in both.glob("unet/weights.data")}
    # Four functions, one copy: half of what the ONNX side stores in 32 bits.
    assert weights["Unet"] < 0.6 * sum(path.stat().st_size for path in stored)


def test_an_edited_package_is_refused(both: Path) -> None:
    contract = json.loads((both / CONTRACT_NAME).read_text())
    contract["coreml"]["models"]["Unet"]["package"] = "coreml/Other.mlpackage"
    with pytest.raises(BundleError, match=r"lists nothing below coreml/Other\.mlpackage"):
        parse_contract(json.dumps(contract))
    contract["coreml"]["models"]["Unet"]["package"] = "../Unet.mlpackage"
    with pytest.raises(BundleError, match="below the bundle"):
        parse_contract(json.dumps(contract))


def test_the_page_for_app_developers(both: Path) -> None:
    page = (both / "coreml/README.md").read_text()
    part = open_bundle(both).contract.coreml
    assert part is not None
    names = [spec.name.replace(".", "_") for spec in part.models["Unet"].functions["denoise"].inputs]
    assert all(f"`{name}`" in page for name in names)
    assert "A prompt becomes 16 ids: 514, its tokens, 515" in page
    assert "Not compiled where this was written" in page
    assert 'functionName = "cache"' in page
    assert "$" not in page


def test_inspect_shows_both_targets(both: Path) -> None:
    console = Console(width=200, record=True)
    for table in bundle_tables(open_bundle(both)):
        console.print(table)
    shown = console.export_text()
    assert "coreml/Unet.mlpackage" in shown
    assert "unet/model.onnx" in shown
    assert "denoise fp16, signal to noise" in shown


@pytest.fixture(scope="module")
def chunked(loud_base: Path, loud_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For an older system, in chunks, with fewer bits, without ONNX, of a base that leaves the range of 16 bits."""
    out = tmp_path_factory.mktemp("chunked") / "bundle"
    export(
        out=out,
        base=str(loud_base),
        adapters=loud_adapters,
        target="coreml",
        coreml=["target=iOS17", "weights=palette6", "chunk_unet=true"],
    )
    return out


def test_chunks_compose_to_the_whole(chunked: Path) -> None:
    part = open_contract(chunked).contract.coreml
    assert part is not None
    chunks = ["UnetCacheChunk1", "UnetCacheChunk2", "UnetChunk1", "UnetChunk2"]
    assert sorted(part.models) == sorted([*PACKAGES[:1], *PACKAGES[2:], *chunks])
    assert [piece.model for piece in part.graphs["denoise"]] == ["UnetChunk1", "UnetChunk2"]
    assert open_package(chunked / "coreml/UnetChunk1.mlpackage").specification.specificationVersion < 9
    # What a palette of 64 costs, and no more: the gates ran the chunks one after the other.
    assert part.psnr_db["denoise"] > 25
    first, second = (part.models[name].functions["main"] for name in ("UnetChunk1", "UnetChunk2"))
    between = {spec.name for spec in first.outputs}
    assert between & {spec.name for spec in second.inputs} == between
    assert [spec.name for spec in second.outputs] == ["prediction"]
    halves = [
        sum(path.stat().st_size for path in (chunked / f"coreml/{name}.mlpackage").rglob("weight.bin"))
        for name in chunks[2:]
    ]
    assert max(halves) < 2 * min(halves)


def test_what_overflows_stays_in_32_bits(chunked: Path) -> None:
    """Without that, an infinity in 16 bits would have failed the gates."""
    part = open_contract(chunked).contract.coreml
    assert part is not None
    assert part.kept_in_fp32
    assert all(name.startswith("Unet/") for name in part.kept_in_fp32)
    assert any("conv" in name or "input" in name or "hidden" in name for name in part.kept_in_fp32)
    assert part.largest <= 65504 / 2
    assert part.psnr_db["denoise fp16"] > 25


def test_the_runner_refuses_packages_alone(chunked: Path) -> None:
    with pytest.raises(BundleError, match=r"Core ML packages only.*--target all"):
        Pipeline.load(chunked)
    checks = list(verify_bundle(chunked))
    assert [check.name for check in checks] == ["contract", "files"]
    assert all(check.passed for check in checks)
    assert not (chunked / "unet").exists()


def test_a_subject_belongs_to_its_packages(chunked: Path) -> None:
    """The fingerprint changes with a package, as it does with a graph."""
    text = (chunked / CONTRACT_NAME).read_text()
    contract = json.loads(text)
    path = next(name for name in contract["files"] if name.startswith("coreml/Unet") and "weight" in name)
    contract["files"][path]["sha256"] = "0" * 64
    with pytest.raises(BundleError, match=r"graph fingerprint .* is expected"):
        parse_contract(json.dumps(contract))
    del contract["coreml"]
    with pytest.raises(BundleError, match="graphs or coreml is expected, received neither"):
        parse_contract(json.dumps(contract))
    assert '"graphs": null' in text


def test_bad_options_cost_nothing(
    small_base: Path, small_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises((ExportError, SettingsError), match=match):
            export(out=tmp_path / "b", base=str(small_base), adapters=small_adapters, **options)
        assert list(tmp_path.iterdir()) == []

    refused(
        "target is 'iOS15': input should be 'iOS16', 'iOS17' or 'iOS18'",
        target="all",
        coreml=["target=iOS15"],
    )
    refused("weights is 'int3': input should be 'fp16', 'int8'", target="all", coreml=["weights=int3"])
    refused("has no value named 'weight'; expected one of target, att", target="all", coreml=["weight=int8"])
    refused("--coreml 'weights': NAME=VALUE is expected", target="all", coreml=["weights"])
    refused("need target=iOS17 or later", target="all", coreml=["target=iOS16", "weights=int8"])
    refused("exactly one of psnr_db and size_mb .* received 0", target="coreml", coreml=["weights=mixed"])
    refused("none with others; received 1 with weights=fp16", target="coreml", coreml=["psnr_db=40"])
    refused("resolution is 50 px", target="coreml", coreml=["resolutions=50"])
    refused("resolutions: 32 is the bundle's own", target="coreml", coreml=["resolutions=64,32"])
    refused(
        "resolutions is '64;96': input should be a valid integer",
        target="coreml",
        coreml=["resolutions=64;96"],
    )
    with pytest.raises(typer.BadParameter, match="belongs to --target coreml or all"):
        export(out=tmp_path / "b", base=str(small_base), adapters=small_adapters, coreml=["target=iOS17"])
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    refused(r"pip install 'dreamcache\[coreml\]'", target="all")


NO_DISK = """
import resource, signal, sys
from pathlib import Path
from dreamcache.runtime.cli.main import main

# A full disk, for files of more than 50 kB.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
main(["export", "--base", sys.argv[1], "--adapters", sys.argv[2], "--target", "coreml", "--out", sys.argv[3]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_one_line_and_leaves_nothing(
    small_base: Path, small_adapters: Path, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", NO_DISK, str(small_base), str(small_adapters), str(tmp_path / "bundle")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("dreamcache: ")
    assert "cannot be written" in last
    assert list(tmp_path.iterdir()) == []
