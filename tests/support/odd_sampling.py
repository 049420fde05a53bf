"""Further altered bases: odd samplers, and a tiny SDXL with other samplers, configs and parts left out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from altered_bases import DPM, EULER, UNIPC, USUAL, AlteredBase, entry, scheduler

INDEX = "model_index.json"
SAMPLING: tuple[tuple[str, dict[str, Any]], ...] = (
    (EULER, {"sigma_max": 10.0}),
    (EULER, {"num_train_timesteps": 1001}),
    (EULER, {"beta_schedule": "squaredcos_cap_v2"}),
    (EULER, {"trained_betas": [0.001] * 1000}),
    (EULER, {"steps_offset": 3, "timestep_spacing": "leading"}),
    ("EulerAncestralDiscreteScheduler", {"rescale_betas_zero_snr": True}),
    ("DDIMScheduler", {"clip_sample_range": 2.0, "clip_sample": True}),
    ("DDIMScheduler", {"sample_max_value": 2.0}),
    ("DDIMScheduler", {"dynamic_thresholding_ratio": 0.9}),
    ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}),
    (DPM, {"solver_order": 1}),
    (DPM, {"final_sigmas_type": "sigma_min"}),
    (DPM, {"use_exponential_sigmas": True}),
    (DPM, {"use_beta_sigmas": True}),
    (DPM, {"variance_type": "learned_range"}),
    (DPM, {"lambda_min_clipped": -5.1}),
    (DPM, {"thresholding": True}),
    (DPM, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    (DPM, {"flow_shift": 3.0}),
    (UNIPC, {"solver_order": 3}),
    (UNIPC, {"solver_order": 1}),
    (UNIPC, {"lower_order_final": False}),
    (UNIPC, {"use_beta_sigmas": True}),
    (UNIPC, {"final_sigmas_type": "sigma_min"}),
    (UNIPC, {"rescale_betas_zero_snr": True}),
    (UNIPC, {"thresholding": True}),
    ("DEISMultistepScheduler", {"solver_type": "bh1"}),
    ("DEISMultistepScheduler", {"use_exponential_sigmas": True}),
    ("DEISMultistepScheduler", {"lower_order_final": False}),
    ("HeunDiscreteScheduler", {"use_beta_sigmas": True}),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
    ("LCMScheduler", {"rescale_betas_zero_snr": True}),
    ("LCMScheduler", {"timestep_spacing": "linspace"}),
    ("LCMScheduler", {"thresholding": True}),
    ("LCMScheduler", {"prediction_type": "sample"}),
    ("TCDScheduler", {"clip_sample": True}),
    ("TCDScheduler", {"timestep_scaling": 5.0}),
    ("DDPMScheduler", {"variance_type": "learned"}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("FlowMatchHeunDiscreteScheduler", {}),
    ("FlowMatchLCMScheduler", {}),
    ("CosineDPMSolverMultistepScheduler", {}),
    ("CogVideoXDDIMScheduler", {}),
    ("CMStochasticIterativeScheduler", {}),
    ("DPMSolverMultistepInverseScheduler", {}),
    ("UnCLIPScheduler", {}),
    ("RePaintScheduler", {}),
    ("KarrasVeScheduler", {}),
    ("VQDiffusionScheduler", {}),
    ("DDPMWuerstchenScheduler", {}),
    ("MyScheduler", {}),
)


def odd_sampling() -> Iterator[AlteredBase]:
    """All of them."""
    yield from (scheduler(kind, **{**USUAL, **config}) for kind, config in SAMPLING)
    yield from _sdxl()


def _sdxl() -> Iterator[AlteredBase]:
    def of(case: AlteredBase) -> AlteredBase:
        return case._replace(name=f"SDXL, {case.name}", kind="sdxl")

    karras = {"use_karras_sigmas": True}
    velocity = {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    }
    yield AlteredBase("SDXL, unchanged", lambda _: None, "sdxl")
    for kind, config in (
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("EulerDiscreteScheduler", velocity),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
        ("EulerDiscreteScheduler", karras),
        (DPM, karras),
        (DPM, {"algorithm_type": "sde-dpmsolver++", **karras}),
        ("DDIMScheduler", {"clip_sample": False, "steps_offset": 1}),
        ("DDIMScheduler", {"steps_offset": 0, "clip_sample": False, "set_alpha_to_one": True}),
        ("LCMScheduler", {}),
        ("TCDScheduler", {}),
        (UNIPC, {}),
        ("HeunDiscreteScheduler", {}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("EDMEulerScheduler", {}),
        ("EDMDPMSolverMultistepScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {}),
    ):
        yield of(scheduler(kind, **{**USUAL, **config}))
    for file, changes in (
        (INDEX, {"force_zeros_for_empty_prompt": False}),
        (INDEX, {"force_zeros_for_empty_prompt": None}),
        (INDEX, {"text_encoder": [None, None], "tokenizer": [None, None]}),
        (INDEX, {"text_encoder_2": ["transformers", "CLIPTextModel"]}),
        (INDEX, {"_class_name": "StableDiffusionPipeline"}),
        (INDEX, {"_class_name": "StableDiffusionXLControlNetPipeline"}),
        (INDEX, {"_class_name": "StableDiffusionXLPAGPipeline"}),
        (INDEX, {"image_encoder": [None, None], "feature_extractor": [None, None]}),
        (INDEX, {"unet": ["diffusers", "UNetMotionModel"]}),
        ("vae/config.json", {"force_upcast": True}),
        ("vae/config.json", {"scaling_factor": 0.13025}),
        ("vae/config.json", {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4}),
        ("unet/config.json", {"addition_time_embed_dim": None}),
        ("unet/config.json", {"sample_size": None}),
        ("unet/config.json", {"sample_size": [8, 8]}),
        ("text_encoder_2/config.json", {"num_hidden_layers": 1}),
        ("text_encoder/config.json", {"num_hidden_layers": 1}),
        ("tokenizer_2/tokenizer_config.json", {"pad_token": "<|endoftext|>"}),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 9}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}),
    ):
        yield of(entry(file, **changes))
    for part in ("text_encoder_2", "tokenizer_2", "text_encoder"):
        yield of(AlteredBase(f"no {part}", lambda folder, part=part: shutil.rmtree(folder / part)))
    yield of(AlteredBase("no model_index.json", lambda folder: (folder / INDEX).unlink()))
