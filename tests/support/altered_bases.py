"""Bases altered in one thing each, and the judge of each: equal to diffusers' pipeline, or refused in one line."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_models import add_tokens, save_as_transformers_5

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.parts.schedule import KNOWN
from dreamcache.models.errors import AdapterError
from dreamcache.models.unet import walk

PROMPTS = ["a robot", "", "a <my-toy> on a cat, 1990"]
STEPS, GUIDANCE = 4, 7.5
EQUAL_DB = 55.0
# DPMSolverSDEScheduler and others need packages that are not installed here.
SCHEDULERS = sorted(KNOWN)
OTHERS = ("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "IPNDMScheduler", "ScoreSdeVeScheduler")


class AlteredBase(NamedTuple):
    """One alteration of a folder, in place."""

    name: str
    alter: Callable[[Path], object]


class Outcome(NamedTuple):
    """Of one altered base. db: of the picture against diffusers'; line: of the refusal."""

    case: str
    outcome: str
    db: float | None = None
    line: str | None = None


def entry(file: str, **changes: Any) -> AlteredBase:
    """Entries of a JSON file replaced."""
    words = ", ".join(f"{name} {json.dumps(value)[:40]}" for name, value in changes.items())
    return AlteredBase(f"{file}: {words}", lambda folder: _edit(folder / file, changes))


def scheduler(kind: str, **config: Any) -> AlteredBase:
    """Another scheduler class with a config that leaves all but `config` out."""

    def alter(folder: Path) -> None:
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({"_class_name": kind, **config}), encoding="utf-8")
        _edit(folder / "model_index.json", {"scheduler": ["diffusers", kind]})

    return AlteredBase(f"{kind} {json.dumps(config) if config else 'with its defaults'}", alter)


def weight(file: str, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> AlteredBase:
    """Stored weights replaced."""

    def alter(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return AlteredBase(name, alter)


def altered_bases() -> Iterator[AlteredBase]:
    """All of them."""
    ddim = "scheduler/scheduler_config.json"
    yield AlteredBase("unchanged", lambda _: None)
    yield from (scheduler(kind) for kind in (*SCHEDULERS, *OTHERS))
    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for kind in ("PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"):
        for prediction in ("epsilon", "v_prediction", "sample"):
            yield scheduler(kind, prediction_type=prediction, **usual)
    for changes in (
        {"clip_sample": True},
        {"steps_offset": 0},
        {"set_alpha_to_one": True},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "linspace"},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"beta_end": 1.5},
        {"num_train_timesteps": 500},
        {"trained_betas": [0.001] * 1000},
        {"thresholding": True},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    ):
        yield entry(ddim, **changes)
    for size in (8, [8, 8], [8, 12], None, 0):
        yield entry("unet/config.json", sample_size=size)
    for name, value in (
        ("center_input_sample", True),
        ("flip_sin_to_cos", False),
        ("attention_type", "gated"),
        ("class_embed_type", "timestep"),
        ("_class_name", "UNetMotionModel"),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
    ):
        yield entry("unet/config.json", **{name: value})
    for name, value in (
        ("scaling_factor", 0.5),
        ("shift_factor", 0.1),
        ("force_upcast", False),
        ("_class_name", "AutoencoderTiny"),
    ):
        yield entry("vae/config.json", **{name: value})
    yield entry("text_encoder/config.json", hidden_act="gelu")
    yield entry("text_encoder/config.json", use_attention_mask=True)
    yield entry("tokenizer/tokenizer_config.json", model_max_length=9)
    yield AlteredBase(
        "tokenizer of transformers 5", lambda folder: save_as_transformers_5(folder / "tokenizer")
    )
    yield AlteredBase("an added token", lambda folder: add_tokens(folder, "<my-toy>"))
    unet, vae = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
    yield weight(unet, "UNet without conv_in", lambda tensors: tensors.pop("conv_in.weight"))
    yield weight(unet, "UNet with a weight more", lambda tensors: tensors.update(spare=torch.zeros(1)))
    yield weight(
        unet, "UNet with a scale", lambda tensors: tensors.update({"conv_in.scale_weight": torch.ones(1)})
    )
    yield weight(vae, "a NaN in the VAE", lambda tensors: tensors["encoder.conv_in.bias"].fill_(math.nan))
    yield weight(
        unet, "UNet in 16 bits", lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()})
    )


def judged(case: AlteredBase, base: Path, folder: Path) -> Outcome:
    """Alter a copy of `base` at `folder`, load it, and compare with diffusers where it loads."""
    shutil.copytree(base, folder)
    case.alter(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = load_base(folder)
    except AdapterError as error:
        line = str(error).replace(str(folder), "BASE")
        return Outcome(case.name, "refused" if "\n" not in line else "several lines", None, line)
    if not (folder / "tokenizer" / "vocab.json").is_file():
        # The transformers installed cannot read the newer form, which holds the same tokenizer.
        shutil.copytree(base / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    wanted = theirs.tokenizer(PROMPTS, padding="max_length", max_length=16, truncation=True).input_ids
    got = ours.tokenizer(PROMPTS, padding="max_length", max_length=16, truncation=True).input_ids
    same = got == wanted and torch.allclose(ours.scheduler.betas, theirs.scheduler.betas, rtol=1e-6, atol=0)
    config = theirs.scheduler.config
    stated = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "linspace", **config}
    theirs.scheduler = DDIMScheduler.from_config(
        {name: value for name, value in stated.items() if name != "_use_default_values"}
    )
    db = decibels_from_diffusers(ours, theirs)
    same = same and torch.equal(ours.scheduler.timesteps, theirs.scheduler.timesteps)
    return Outcome(case.name, "equal" if same and db >= EQUAL_DB else "different", round(db, 1))


def decibels_from_diffusers(base: Base, pipeline: Any) -> float:
    """How close a base's picture is to a pipeline's, whose scheduler is DDIM."""
    pipeline.set_progress_bar_config(disable=True)
    return _decibels(_ours(base), _theirs(pipeline, int(base.unet.config.sample_size)))


def _noise(side: int) -> torch.Tensor:
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _ours(base: Any) -> torch.Tensor:
    latent = _noise(int(base.unet.config.sample_size))
    text = base.encode_text(["", PROMPTS[0]])
    if base.sampling == "lcm" and base.unet.config.time_cond_proj_dim is not None:
        raise AssertionError("the guidance scale is folded as a base loads")
    base.scheduler.set_timesteps(STEPS)
    for timestep in base.scheduler.timesteps:
        null, prompted = walk(base.unet, latent.repeat(2, 1, 1, 1), timestep, text).chunk(2)
        latent = base.scheduler.step(null + GUIDANCE * (prompted - null), timestep, latent).prev_sample
    return torch.clamp(base.decode_latents(latent) / 2 + 0.5, 0, 1)[0].permute(1, 2, 0)


def _theirs(pipeline: Any, side: int) -> torch.Tensor:
    # A size that diffusers' call cannot read is given to it.
    pixels = side * pipeline.vae_scale_factor
    drawn = pipeline(
        PROMPTS[0],
        height=pixels,
        width=pixels,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=_noise(side),
        output_type="np",
    )
    return torch.from_numpy(drawn.images[0])


def _decibels(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    error = float(((ours - theirs) ** 2).mean())
    return 99.0 if error == 0 else min(99.0, -10 * math.log10(error)) if math.isfinite(error) else 0.0


def _edit(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
