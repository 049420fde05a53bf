"""Schedules and sizes are read as diffusers' pipeline reads them, or refused in one line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from edited_files import edit
from tiny_models import write_tiny_adapters

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.parts.schedule import KNOWN, READ_AS, read_schedule
from dreamcache.models.checkpoint import _fingerprints_of_0_1, base_fingerprint, load_adapters, save_adapters
from dreamcache.models.errors import AdapterError

SHARED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def set_scheduler(folder: Path, kind: str, **config: Any) -> None:
    """Replace the scheduler in both places where a folder names its class."""
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": kind, **config}), encoding="utf-8"
    )
    edit(folder / "model_index.json", scheduler=["diffusers", kind])


def of_diffusers(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def assert_same_schedule(ours: Base, theirs: StableDiffusionPipeline) -> None:
    config = theirs.scheduler.config
    # In single precision, as both compute with it.
    np.testing.assert_allclose(
        ours.scheduler.betas.numpy(), theirs.scheduler.betas.numpy(), rtol=1e-6, atol=0
    )
    for entry in ("prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample"):
        if entry in config:
            assert ours.scheduler.config[entry] == config[entry], entry


@pytest.mark.parametrize("kind", sorted(set(KNOWN) - {"DPMSolverSDEScheduler"}))
def test_what_a_config_leaves_out_is_its_classs_default(folder: Path, kind: str) -> None:
    set_scheduler(folder, kind)
    ours, theirs = load_base(folder), of_diffusers(folder)
    assert type(theirs.scheduler).__name__ == kind
    assert_same_schedule(ours, theirs)
    # DDIM's own are not every class's.
    if kind in ("LCMScheduler", "HeunDiscreteScheduler"):
        assert not np.allclose(ours.scheduler.betas.numpy(), DDIMScheduler().betas.numpy())


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_sample": True},
        {"steps_offset": 0},
        {"steps_offset": 3, "clip_sample": True},
        {"set_alpha_to_one": True},
        {"timestep_spacing": "trailing"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 500},
    ],
)
def test_ddim_as_the_pipeline_repairs_it(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", **changes)
    ours, theirs = load_base(folder), of_diffusers(folder)
    assert_same_schedule(ours, theirs)
    for scheduler in (ours.scheduler, theirs.scheduler):
        scheduler.set_timesteps(20)
    assert torch.equal(ours.scheduler.timesteps, theirs.scheduler.timesteps)
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = ours.scheduler.timesteps[3]
    expected = theirs.scheduler.step(sample * 3, t, sample).prev_sample
    assert torch.equal(ours.scheduler.step(sample * 3, t, sample).prev_sample, expected)
    # Taken literally, an unrepaired clip would be seen here.
    unrepaired = DDIMScheduler.from_config({**theirs.scheduler.config, "clip_sample": True})
    unrepaired.set_timesteps(20)
    assert not torch.equal(unrepaired.step(sample * 3, t, sample).prev_sample, expected)


def test_the_table_of_contents_names_the_class_as_in_diffusers(folder: Path) -> None:
    set_scheduler(folder, "LCMScheduler")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text("{}", encoding="utf-8")
    ours = load_base(folder)
    assert_same_schedule(ours, of_diffusers(folder))
    assert ours.sampling == "lcm"
    # Where both name one, the config's entries are read by the class of the table of contents.
    edit(path, _class_name="PNDMScheduler", beta_end=0.02)
    ours, theirs = load_base(folder), of_diffusers(folder)
    assert ours.schedule["_class_name"] == type(theirs.scheduler).__name__ == "LCMScheduler"
    assert_same_schedule(ours, theirs)
    assert ours.sampling == "lcm"
    edit(folder / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    with pytest.raises(AdapterError, match="is a FlowMatchEulerDiscreteScheduler"):
        load_base(folder)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "is a FlowMatchEulerDiscreteScheduler, expected one of DDIM"),
        ("EDMEulerScheduler", {}, "is a EDMEulerScheduler"),
        ("NoSuchScheduler", {}, "is a NoSuchScheduler"),
        (
            "DDPMScheduler",
            {"beta_schedule": "sigmoid"},
            "has beta_schedule 'sigmoid', expected one of linear",
        ),
        ("DDIMScheduler", {"beta_schedule": 7}, "has beta_schedule 7"),
        ("DDIMScheduler", {"prediction_type": "sample"}, "has prediction_type 'sample', expected one of eps"),
        (
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
            "prediction_type",
        ),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "has use_flow_sigmas True, expected False"),
        ("DDIMScheduler", {"trained_betas": [0.1] * 1000}, r"has trained_betas \[0.1, .*…, expected None"),
        ("DDIMScheduler", {"thresholding": True}, "has thresholding True"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "has timestep_type 'continuous'"),
        (
            "IPNDMScheduler",
            {},
            "is a IPNDMScheduler, .*; copy the scheduler's files of the base that it was made",
        ),
        (
            "DDIMScheduler",
            {"num_train_timesteps": "many"},
            "has num_train_timesteps 'many', expected a whole",
        ),
        ("HeunDiscreteScheduler", {"beta_schedule": "squaredcos_cap_v2"}, None),
        ("LMSDiscreteScheduler", {"beta_schedule": "exp"}, "has beta_schedule 'exp'"),
    ],
)
def test_schedules_that_cannot_be_said_are_refused(
    kind: str, config: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert read_schedule("b", {"_class_name": kind, **config})["beta_schedule"] == config["beta_schedule"]
        return
    with pytest.raises(AdapterError, match=message) as raised:
        read_schedule("b", {"_class_name": kind, **config})
    assert "\n" not in str(raised.value)


def test_every_known_class_is_diffusers_own() -> None:
    assert all(hasattr(diffusers, kind) for kind in (*KNOWN, *READ_AS))


def test_a_class_read_as_another_has_its_defaults() -> None:
    """DPMSolverSDEScheduler is not importable without torchsde."""
    own, other = (
        inspect.signature(getattr(diffusers, kind).__init__).parameters
        for kind in ("SASolverScheduler", READ_AS["SASolverScheduler"])
    )
    shared = (own.keys() & other.keys()) - {"self", "algorithm_type"}
    assert {"beta_start", "beta_schedule", "timestep_spacing", "use_karras_sigmas"} <= shared
    assert {name for name in shared if own[name].default != other[name].default} == set()


@pytest.mark.parametrize(
    ("unet", "vae", "expected"),
    [
        ({"sample_size": [8, 8]}, {}, 8),
        ({"sample_size": None}, {}, 8),
        ({"sample_size": None}, {"sample_size": 64}, 16),
        ({"sample_size": 8, "_diffusers_version": "0.8.1"}, {}, 64),
        ({"sample_size": 8, "_diffusers_version": "0.10.0"}, {}, 8),
        ({"sample_size": 96, "_diffusers_version": "0.8.1"}, {}, 96),
    ],
)
def test_a_size_in_any_form_is_one_number_and_the_same_base(
    folder: Path, tiny_base: Path, unet: dict[str, Any], vae: dict[str, Any], expected: int
) -> None:
    edit(folder / "unet" / "config.json", **unet)
    edit(folder / "vae" / "config.json", **vae)
    ours = load_base(folder)
    assert ours.unet.config.sample_size == expected
    if isinstance(unet["sample_size"], int):
        assert of_diffusers(folder).unet.config.sample_size == expected
    assert base_fingerprint(ours.unet) == base_fingerprint(load_base(tiny_base).unet)


@pytest.mark.parametrize("size", [[8, 12], [8], 0, "8", True, 8.5])
def test_sizes_that_are_none_name_the_entry(folder: Path, size: Any) -> None:
    edit(folder / "unet" / "config.json", sample_size=size)
    with pytest.raises(AdapterError, match=r"has sample_size .*correct unet/config.json") as raised:
        load_base(folder)
    assert "\n" not in str(raised.value)


def test_adapters_outlive_a_size_and_those_of_0_1_go_on_matching(
    folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    edit(folder / "unet" / "config.json", sample_size=None)
    resized = load_base(folder).unet
    new = write_tiny_adapters(tmp_path / "new.safetensors", tiny_base)
    load_adapters(new, resized)
    original = load_base(tiny_base).unet
    # What 0.1 wrote: the size counted.
    of_0_1 = _fingerprints_of_0_1(original)[0]
    assert of_0_1 != base_fingerprint(original)
    save_adapters(tmp_path / "old.safetensors", load_adapters(new, original), base=of_0_1)
    load_adapters(tmp_path / "old.safetensors", resized)
    with torch.no_grad():
        resized.conv_in.bias.add_(0.5)
    for path in ("old.safetensors", "new.safetensors"):
        with pytest.raises(AdapterError, match="belongs to the base"):
            load_adapters(tmp_path / path, resized)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("tokenizer/tokenizer_config.json", {"model_max_length": 9}, "pads prompts to 9 tokens"),
        ("text_encoder/config.json", {"use_attention_mask": True}, "masks padding"),
        ("vae/config.json", {"shift_factor": 0.1}, "shifts its latents"),
    ],
)
def test_parts_that_would_not_draw_diffusers_picture(
    folder: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    edit(folder / part, **changes)
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(folder)
    assert "\n" not in str(raised.value)
