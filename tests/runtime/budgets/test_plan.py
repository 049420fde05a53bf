"""Peaks predicted from the contract, plans that fit a budget, and factors fitted to measured peaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcache.runtime.budgets.plan import parse_bytes, plan_memory, predict_peaks, stage_quantities
from dreamcache.runtime.bundle.contract import Contract, FileRecord
from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.cli import main as cli
from dreamcache.runtime.errors import SettingsError


@pytest.fixture(scope="module")
def contract(pristine: Path) -> Contract:
    return open_contract(pristine).contract


@pytest.fixture(scope="module")
def large(contract: Contract) -> Contract:
    """The same with a gigabyte of UNet weights."""
    files = {**contract.files, "unet/weights.data": FileRecord(size=10**9, sha256="0" * 64)}
    return contract.model_copy(update={"files": files})


def test_a_stage_is_described_by_the_contract(contract: Contract) -> None:
    stage = stage_quantities(contract, "denoise")
    assert stage.mapped == contract.files["unet/weights.data"].size
    # The widest features: 16 pixels of the narrowest site's 4 channels, floats; two sites' keys and values.
    assert stage.unet == 4 * 16 * 4
    assert stage.held == 2 * 4 * (4 * 8 + 16 * 4)
    assert stage.attention == 4 * 16**2  # written out in the contract's attention "plain"
    fused = contract.model_copy(update={"attention": "multi_head_attention"})
    assert stage_quantities(fused, "denoise").attention == 0
    deep = stage_quantities(contract, "denoise", shallow=True)
    assert deep.held == stage.held + 3 * 4 * 2 * 16
    assert stage_quantities(contract, "text").inline == contract.files["text_encoder/model.onnx"].size


def test_weights_count_in_speed_and_not_in_memory(large: Contract) -> None:
    fast, small = (predict_peaks(large, profile)["denoise"] for profile in ("speed", "memory"))
    assert 0.8e9 < fast < 1.2e9
    assert small < 0.1e9


def test_the_fastest_plan_that_fits_is_chosen(large: Contract) -> None:
    generous = plan_memory(large, 2e9)
    assert (generous.profile, generous.tiled, generous.batch) == ("speed", False, 1)
    modest = plan_memory(large, 0.5e9)
    assert modest.profile == "memory"
    assert modest.peak <= 0.5e9 < generous.peak
    assert "profile memory" in modest.summary()
    assert f"about {modest.peak / 1e6:.0f} MB" in modest.summary()
    assert set(plan_memory(large, 2e9, caches=True).peaks) == {*modest.peaks, "vae_encode", "cache"}


def test_below_the_floor_nothing_is_chosen(large: Contract) -> None:
    with pytest.raises(
        SettingsError, match=r"at least \d+ MB is expected \(profile memory, .*received 10 MB"
    ):
        plan_memory(large, 10e6)
    floor = max(predict_peaks(large, "memory").values())
    assert plan_memory(large, floor).profile == "memory"
    with pytest.raises(SettingsError):
        plan_memory(large, floor - 1)


@pytest.mark.parametrize(
    ("text", "size"), [("600M", 6e8), ("600", 6e8), ("1.5G", 1.5e9), ("1500mb", 1.5e9), ("80000k", 8e7)]
)
def test_amounts_of_memory(text: str, size: float) -> None:
    assert parse_bytes(text, "--max-ram") == pytest.approx(size)


@pytest.mark.parametrize("text", ["", "M", "much", "-5M", "0", "inf", "nan", "6e400M"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--max-ram: an amount of memory such as 600M"):
        parse_bytes(text, "--max-ram")


def _generate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["generate", *map(str, arguments)])
    return int(left.value.code or 0)


def test_max_ram_says_what_it_chose(
    pristine: Path,
    toy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DREAMCACHE_CACHE", str(tmp_path / "kept"))
    common = (pristine, "--prompt", "a robot", "--reference", toy, "--steps", 2, "--seed", 1)
    assert _generate(*common, "--max-ram", "600M", "--out", tmp_path / "a.png") == 0
    said = capsys.readouterr().err
    assert "plan for 600 MB: profile speed, VAE decoded whole, batch 1" in said
    assert _generate(*common, "--max-ram", "5M", "--out", tmp_path / "b.png") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "received 5 MB" in said
    assert not (tmp_path / "b.png").exists()
    assert _generate(*common, "--max-ram", "600M", "--provider", "openvino", "--out", tmp_path / "c.png") == 1
    assert "memory is known for the CPU provider only" in capsys.readouterr().err
    assert _generate(*common, "--profile", "memory", "--out", tmp_path / "d.png") == 0
    assert (tmp_path / "kept").is_dir()
    with pytest.raises(SystemExit) as left:
        cli.main(
            [
                "cache",
                str(pristine),
                "--reference",
                str(toy),
                "--profile",
                "small",
                "--out",
                "a.subject.safetensors",
            ]
        )
    assert left.value.code == 1
    assert "profile: one of speed, memory" in capsys.readouterr().err
    assert _generate(*common, "--profile", "small", "--out", tmp_path / "e.png") == 1
    assert "profile: one of speed, memory" in capsys.readouterr().err


def test_the_savings_are_options_of_generate(pristine: Path, toy: Path, tmp_path: Path) -> None:
    common = (pristine, "--prompt", "a robot", "--reference", toy, "--steps", 4, "--seed", 1)
    pictures = {}
    for name, more in {
        "full": (),
        "same": ("--guidance-interval", 0, 1, "--step-cache", 1),
        "less": ("--guidance-interval", 0.3, 0.7, "--step-cache", 2),
    }.items():
        place = tmp_path / f"{name}.png"
        assert _generate(*common, *more, "--out", place) == 0
        pictures[name] = place.read_bytes()
    assert pictures["full"] == pictures["same"]
    assert pictures["full"] != pictures["less"]
