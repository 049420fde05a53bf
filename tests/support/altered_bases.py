"""Bases altered in one thing each, for `judged_bases.Judge`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from edited_files import edit
from safetensors.torch import load_file, save_file
from tiny_models import add_tokens, save_as_transformers_5

from dreamcache.models.bases.parts.schedule import KNOWN

SCHEDULERS = sorted(KNOWN)
USUAL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VELOCITY = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
DPM, UNIPC, EULER = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"
# Carried over to the bundle's own sampler, or refused.
SAMPLING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("PNDMScheduler", {"skip_prk_steps": True, "prediction_type": "v_prediction"}),
    ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing"}),
    # Overlooked by a class that has no such entry.
    ("PNDMScheduler", {"skip_prk_steps": True, "rescale_betas_zero_snr": True}),
    (EULER, {"use_karras_sigmas": True}),
    (EULER, {"use_exponential_sigmas": True}),
    (EULER, {"timestep_spacing": "trailing"}),
    (EULER, VELOCITY),
    (EULER, {"interpolation_type": "log_linear"}),
    (EULER, {"final_sigmas_type": "sigma_min"}),
    (EULER, {"use_karras_sigmas": True, "sigma_min": 0.1}),
    (EULER, {"use_beta_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading"}),
    ("EulerAncestralDiscreteScheduler", VELOCITY),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", {"clip_sample": True}),
    (DPM, {"use_karras_sigmas": True}),
    (DPM, {"algorithm_type": "sde-dpmsolver++"}),
    (DPM, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    (DPM, VELOCITY),
    (DPM, {"solver_type": "logrho"}),
    (DPM, {"solver_type": "heun"}),
    (DPM, {"solver_order": 3}),
    (DPM, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    (DPM, {"use_lu_lambdas": True}),
    (DPM, {"euler_at_final": True}),
    (DPM, {"lower_order_final": False}),
    (DPM, {"use_karras_sigmas": True, "sigma_max": 9.0}),
    (UNIPC, {"use_karras_sigmas": True}),
    (UNIPC, {"use_exponential_sigmas": True}),
    (UNIPC, VELOCITY),
    (UNIPC, {"predict_x0": False}),
    (UNIPC, {"disable_corrector": [0]}),
    ("DEISMultistepScheduler", {"timestep_spacing": "leading"}),
    ("DEISMultistepScheduler", {"solver_order": 1}),
    ("LCMScheduler", {"original_inference_steps": 100}),
    ("LCMScheduler", {"timestep_scaling": 1.0}),
    ("LCMScheduler", {"clip_sample": True, "set_alpha_to_one": False}),
    ("TCDScheduler", {"original_inference_steps": 100}),
    ("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
)
OTHERS = ("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "IPNDMScheduler", "ScoreSdeVeScheduler")
OTHERS += ("DPMSolverSDEScheduler", "SASolverScheduler")


class AlteredBase(NamedTuple):
    """One alteration of a folder, in place.

    Attributes:
        name: of the case.
        alter: changes a copy of a tiny base.
        kind: which one.
        joins: what `alter` also wrote beside the folder, in `joined_file(folder)`.
        own_graphs: whether its graphs cannot be the unaltered base's: judged by the page's script alone.
        given: weight of a LoRA or token of a textual inversion.
    """

    name: str
    alter: Callable[[Path], object]
    kind: Literal["sd", "sdxl"] = "sd"
    joins: Literal["lora", "textual_inversion"] | None = None
    own_graphs: bool = False
    given: str | None = None


def joined_file(folder: Path) -> Path:
    """Where a case leaves what is joined to its base."""
    return folder.with_name(f"{folder.name}-joined.safetensors")


def entry(file: str, **changes: Any) -> AlteredBase:
    """Entries of a JSON file replaced."""
    words = ", ".join(f"{name} {json.dumps(value)[:40]}" for name, value in changes.items())
    return AlteredBase(f"{file}: {words}", lambda folder: edit(folder / file, **changes))


def scheduler(kind: str, **config: Any) -> AlteredBase:
    """Another scheduler class with a config that leaves all but `config` out."""

    def alter(folder: Path) -> None:
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({"_class_name": kind, **config}), encoding="utf-8")
        edit(folder / "model_index.json", scheduler=["diffusers", kind])

    said = {name: value for name, value in config.items() if USUAL.get(name) != value}
    return AlteredBase(f"{kind} {json.dumps(said) if said else 'with its defaults'}", alter)


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
    for kind in ("PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"):
        for prediction in ("epsilon", "v_prediction", "sample"):
            yield scheduler(kind, prediction_type=prediction, **USUAL)
    yield from (scheduler(kind, **config, **USUAL) for kind, config in SAMPLING)
    yield entry("model_index.json", scheduler=["diffusers", EULER])
    yield entry("model_index.json", scheduler=["diffusers", "LMSDiscreteScheduler"])
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
