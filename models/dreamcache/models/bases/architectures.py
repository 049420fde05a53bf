"""Known architectures: the configs of every part, for bases with random weights and for single checkpoints.

Sources, the published config.json files: sd15: stable-diffusion-v1-5/stable-diffusion-v1-5. sd21, sd21-base:
stabilityai/stable-diffusion-2-1 and -2-1-base. bk-sdm-*: Nota-NetsPresso/BK-SDM, src/unet_config
(arXiv 2305.15798). small-sd, tiny-sd: segmind/distill-sd, which removes the same blocks as BK-SDM's base and
tiny. lcm: SimianLuo/LCM_Dreamshaper_v7 (arXiv 2310.04378). sd-turbo: stabilityai/sd-turbo. sdxl:
stabilityai/stable-diffusion-xl-base-1.0 (arXiv 2307.01952).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import CLIPTextConfig

_SD15: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SD21_BASE: dict[str, Any] = {
    **_SD15,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_BK_BASE: dict[str, Any] = {**_SD15, "layers_per_block": 1}
_BK_TINY: dict[str, Any] = {
    **_BK_BASE,
    "mid_block_type": None,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
}

_SDXL: dict[str, Any] = {
    **_SD15,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}

_CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
_OPEN_CLIP_H: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
_OPEN_CLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}

_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}

VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_SDXL_VAE: dict[str, Any] = {**VAE_CONFIG, "sample_size": 1024, "scaling_factor": 0.13025}

TEXT_LENGTH = 77
VOCABULARY = 49408


@dataclass(frozen=True)
class Known:
    """One architecture of the table.

    Attributes:
        unet: arguments of `UNet2DConditionModel`.
        text: arguments of `CLIPTextConfig`.
        scheduler: a scheduler_config.json.
        vae: arguments of `AutoencoderKL`.
        second_text: of a second text encoder's config; None where there is none.
    """

    unet: dict[str, Any]
    text: dict[str, Any]
    scheduler: dict[str, Any]
    vae: dict[str, Any] = field(default_factory=lambda: VAE_CONFIG)
    second_text: dict[str, Any] | None = None


_V_PREDICTION = {**_SCHEDULER, "prediction_type": "v_prediction"}
_TURBO = {**_SCHEDULER, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
_EULER = {**_SCHEDULER, "_class_name": "EulerDiscreteScheduler"}
_LCM = {**_SCHEDULER, "_class_name": "LCMScheduler"}

ARCHITECTURES: dict[str, Known] = {
    "sd15": Known(_SD15, _CLIP_L, _SCHEDULER),
    "sd21": Known({**_SD21_BASE, "sample_size": 96, "upcast_attention": True}, _OPEN_CLIP_H, _V_PREDICTION),
    "sd21-base": Known(_SD21_BASE, _OPEN_CLIP_H, _SCHEDULER),
    "bk-sdm-base": Known(_BK_BASE, _CLIP_L, _SCHEDULER),
    "bk-sdm-small": Known({**_BK_BASE, "mid_block_type": None}, _CLIP_L, _SCHEDULER),
    "bk-sdm-tiny": Known(_BK_TINY, _CLIP_L, _SCHEDULER),
    "small-sd": Known(_BK_BASE, _CLIP_L, _SCHEDULER),
    "tiny-sd": Known(_BK_TINY, _CLIP_L, _SCHEDULER),
    "lcm": Known({**_SD15, "time_cond_proj_dim": 256}, _CLIP_L, _LCM),
    "sd-turbo": Known(_SD21_BASE, _OPEN_CLIP_H, _TURBO),
    "sdxl": Known(_SDXL, _CLIP_L, _EULER, _SDXL_VAE, _OPEN_CLIP_G),
}

UNET_CONFIGS: dict[str, dict[str, Any]] = {name: known.unet for name, known in ARCHITECTURES.items()}


def known_architecture(name: str) -> Known:
    """The table's entry.

    Raises:
        ValueError: unknown architecture; names the known ones.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture is {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def text_config(text: Mapping[str, Any], **tokens: int) -> CLIPTextConfig:
    """A text encoder's config; `tokens` are the special ids where they are not CLIP's own."""
    return CLIPTextConfig(vocab_size=VOCABULARY, max_position_embeddings=TEXT_LENGTH, **{**text, **tokens})
