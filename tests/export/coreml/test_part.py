"""`dreamcache export --target all` on the tiny base: packages, contract, gates, the page for app developers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("coremltools")

from rich.console import Console

from dreamcache.export import command
from dreamcache.export.command import export
from dreamcache.export.coreml.package import open_package
from dreamcache.export.errors import ExportError
from dreamcache.export.gates import CONDITION_TOLERANCE, MAX_DISK_RATIO
from dreamcache.runtime.bundle import open_bundle
from dreamcache.runtime.contract import CONTRACT_NAME, parse_contract
from dreamcache.runtime.description import describe
from dreamcache.runtime.errors import BundleError

PACKAGES = ["TextEncoder", "Unet", "VAEDecoder", "VAEEncoder"]


@pytest.fixture(scope="module")
def both(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both") / "bundle"
    export(
        out=out, base=str(tiny_base), adapters=tiny_adapters, target="all", coreml_attention="split_einsum"
    )
    return out


def test_the_layout_is_the_known_one(both: Path) -> None:
    folder = both / "coreml"
    assert sorted(path.stem for path in folder.glob("*.mlpackage")) == PACKAGES
    assert (folder / "vocab.json").read_bytes() == (both / "tokenizer/vocab.json").read_bytes()
    assert (folder / "merges.txt").is_file()
    assert sorted(open_package(folder / "Unet.mlpackage").specification.mlProgram.functions) == [
        "cache",
        "denoise",
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
    graphs = {"cache", "denoise", "text_encoder", "vae_encoder", "vae_decoder"}
    assert part.psnr_db.keys() == graphs | {f"{name} fp16" for name in graphs}
    assert min(part.psnr_db.values()) > 40
    assert all(part.psnr_db[f"{name} fp16"] < part.psnr_db[name] + 1 for name in graphs)
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in part.condition.values())
    assert len(part.trajectory_db) == 4
    assert part.disk_ratio is not None
    # The tiny model's description outweighs its weights.
    assert part.disk_ratio < MAX_DISK_RATIO + 0.5


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
    assert "Not compiled where this was written" in page
    assert 'functionName = "cache"' in page
    assert "$" not in page


def test_inspect_shows_both_targets(both: Path) -> None:
    console = Console(width=200, record=True)
    for table in describe(open_bundle(both)):
        console.print(table)
    shown = console.export_text()
    assert "coreml/Unet.mlpackage" in shown
    assert "unet/model.onnx" in shown
    assert "denoise fp16, signal to noise" in shown


def test_older_systems_get_two_packages(tiny_base: Path, tiny_adapters: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(out=out, base=str(tiny_base), adapters=tiny_adapters, target="all", coreml_target="iOS17")
    part = open_bundle(out).contract.coreml
    assert part is not None
    assert sorted(part.models) == sorted([*PACKAGES, "UnetCache"])
    assert open_package(out / "coreml/Unet.mlpackage").specification.specificationVersion < 9
    assert "unetCacheURL" in (out / "coreml/README.md").read_text()


def test_bad_options_cost_nothing(
    tiny_base: Path, tiny_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, **options: str) -> None:
        with pytest.raises(ExportError, match=match):
            export(out=tmp_path / "b", base=str(tiny_base), adapters=tiny_adapters, **options)  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []

    refused("--coreml-target iOS15 is not exported", target="all", coreml_target="iOS15")
    refused("--coreml-weights int3 is not exported", target="all", coreml_weights="int3")
    refused("choose such a target", target="all", coreml_target="iOS16", coreml_weights="int8")
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    refused(r"pip install 'dreamcache\[coreml\]'", target="all")
