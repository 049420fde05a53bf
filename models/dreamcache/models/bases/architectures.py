"""Known architectures: the configs of every part, for bases with random weights and for single checkpoints.

Sources, the published config.json files: sd15: stable-diffusion-v1-5/stable-diffusion-v1-5. sd21, sd21-base:
stabilityai/stable-diffusion-2-1 and -2-1-base. bk-sdm-*: Nota-NetsPresso/BK-SDM, src/unet_config
(arXiv 2305.15798). small-sd, tiny-sd: segmind/distill-sd, which removes the same blocks as BK-SDM's base and
tiny. lcm: SimianLuo/LCM_Dreamshaper_v7 (arXiv 2310.04378). sd-turbo: stabilityai/sd-turbo.
"""

from __future__ import annotations

from dataclasses import dataclass
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

TEXT_LENGTH = 77
VOCABULARY = 49408


@dataclass(frozen=True)
class Known:
    """One architecture of the table.

    Attributes:
        unet: arguments of `UNet2DConditionModel`.
        text: arguments of `CLIPTextConfig`.
        scheduler: a scheduler_config.json.
    """

    unet: dict[str, Any]
    text: dict[str, Any]
    scheduler: dict[str, Any]


_V_PREDICTION = {**_SCHEDULER, "prediction_type": "v_prediction"}
_TURBO = {**_SCHEDULER, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
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


def text_config(known: Known, **tokens: int) -> CLIPTextConfig:
    """The text encoder's config; `tokens` are the special ids where they are not CLIP's own."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY, max_position_embeddings=TEXT_LENGTH, **{**known.text, **tokens}
    )
