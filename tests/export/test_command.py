"""The command's refusals: each one line, before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from tiny_models import tiny_unet

from dreamcache.export import command_options
from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.export.options import CoreMLOptions
from dreamcache.models.bases.random_base import random_base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.cli.main import main
from dreamcache.runtime.errors import DreamCacheError, OutputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "mini", "target": "tflite"}, "--target tflite"),
        ({"base": "mini", "precision": "int4"}, "--precision int4"),
        ({"base": "mini", "attention": "flash"}, "--attention flash"),
        ({"architecture": "sd9"}, "sd15, sd21"),
        ({"base": "mini", "vae": "taesd"}, "taesd has random weights and goes with --architecture"),
        ({"base": "mini", "vae": "nowhere"}, "--vae: no VAE at 'nowhere'"),
        ({"base": "nowhere"}, "adapters file trained on nowhere"),
        ({"base": "nowhere", "adapters": Path("a.safetensors")}, "no base at 'nowhere'"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as raised:
        export(out=tmp_path / "bundle", **arguments)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, DreamCacheError)
    assert isinstance(raised.value, RuntimeError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [{}, {"base": "mini", "architecture": "sd15"}])
def test_exactly_one_model_is_named(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(typer.BadParameter, match="exactly one"):
        export(out=tmp_path / "bundle", **arguments)


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("--coreml-weights", "is now --coreml weights=FORMAT"),
        ("--chunk-unet", "is now --coreml chunk_unet=true"),
        ("--reference-tokens=0.5", "is gone"),
        ("--base", "is given twice"),
    ],
)
def test_an_old_spelling_is_answered_with_the_new_one(
    spelling: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", "--base", "mini", "--out", str(tmp_path / "b"), spelling, "int8"])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"dreamcache: {spelling.partition('=')[0]} {said}")
    assert told.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["inspect", "nowhere", spelling])
    assert said not in capsys.readouterr().err


def test_every_value_of_coreml_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "coreml.md").read_text(encoding="utf-8")
    for name, field in CoreMLOptions.model_fields.items():
        assert f"| `{name}` |" in page
        assert field.description
    shown = command_options.CoreMLValues.__metadata__[0].help  # type: ignore[attr-defined]
    assert [name for name in CoreMLOptions.model_fields if name not in shown] == []


@pytest.mark.parametrize(("option", "value"), [("resolution", 30), ("resolution", 0), ("batch", 0)])
def test_impossible_sizes(
    tiny_base: Path, tiny_adapters: Path, tmp_path: Path, option: str, value: int
) -> None:
    sizes: dict[str, Any] = {option: value}
    with pytest.raises(ExportError, match=f"{option} is {value}"):
        export(out=tmp_path / "bundle", base=str(tiny_base), adapters=tiny_adapters, **sizes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\n  \n", "holds no prompts; give one a line"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_calibration_without_prompts(tmp_path: Path, content: bytes | None, message: str) -> None:
    prompts = tmp_path / "prompts.txt"
    if content is not None:
        prompts.write_bytes(content)
    with pytest.raises(ExportError, match=f"--calibration-prompts: .*{message}") as raised:
        export(out=tmp_path / "bundle", base="mini", precision="int8", calibration_prompts=prompts)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "bundle").exists()


def test_prompts_belong_to_int8(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a robot")
    with pytest.raises(typer.BadParameter, match="belongs to --precision int8"):
        export(out=tmp_path / "bundle", base="mini", calibration_prompts=tmp_path / "prompts.txt")
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(typer.BadParameter, match="Core ML's converter reads no ONNX"):
        export(out=tmp_path / "b", base="mini", target="coreml", segmenter="u2net.onnx")


def test_the_output_folder_must_have_a_parent(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        export(out=tmp_path / "a" / "bundle", base="mini")


def test_random_adapters_change_the_prediction() -> None:
    from dreamcache.export.source import random_adapters
    from dreamcache.models.bases.base import Base

    base = Base(None, None, None, tiny_unet(), None, None)  # type: ignore[arg-type]
    moved = random_adapters(base)
    start = ConditionedUNet(tiny_unet())
    site = start.sites[0].name
    assert (moved.adapter(site).fuse.weight - start.adapter(site).fuse.weight).abs().max() > 0.01
    assert torch.equal(random_adapters(base).adapter(site).fuse.weight, moved.adapter(site).fuse.weight)


def test_unknown_architectures_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sd15, sd21"):
        random_base("sd9", tmp_path)
