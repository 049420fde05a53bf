"""Few-step bases: how they are recognised, and the guidance of latent consistency models made a constant.

A latent consistency model (Luo et al. 2023, arXiv 2310.04378, section 4.3) takes the guidance scale as an
input of its time embedding: linear_1(t + P·g(w)), with g sinusoids as in variational diffusion models. At a
fixed scale that is linear_1(t) + W1·P·g(w), so the scale folds into the bias of linear_1 and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from dreamcache.models.errors import AdapterError

Sampling = Literal["standard", "lcm", "turbo", "tcd", "hyper"]
"""How a base wants to be sampled: with guidance in many steps, or without in a few.

``turbo`` is Euler and ``hyper`` DDIM with trailing timesteps, ``lcm`` and ``tcd`` have the distillation's.
"""

TRAILING: tuple[Sampling, ...] = ("turbo", "hyper")
"""Those that begin at the last timestep."""


@dataclass(frozen=True)
class FewSteps:
    """How a LoRA that makes few steps suffice wants to be sampled, by its authors.

    Attributes:
        sampling: the way.
        steps: how many.
        guidance_scale: of the text; 1 is none.
        eta: share of fresh noise of TCD; 0.3 is what `TCDScheduler.step` has.
    """

    sampling: Sampling
    steps: int = 4
    guidance_scale: float = 1.0
    eta: float = 0.3


_CONSISTENT = ("LCMScheduler", "TCDScheduler")
_NO_TURBO = ("rescale_betas_zero_snr", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

LCM_GUIDANCE_SCALE = 8.5
"""The scale that diffusers' pipeline of latent consistency models uses by default."""


def recognise_sampling(unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Sampling:
    """How a base wants to be sampled, by its configs.

    ``lcm``: the UNet takes a guidance scale, or the scheduler is LCM's or TCD's. ``turbo``: Euler with trailing
    timesteps on an ordinary noise schedule, as SD-Turbo ships; a zero-terminal schedule with trailing
    timesteps is an ordinary base, and so is one whose noise levels lie apart from its timesteps.
    """
    kind = str(scheduler.get("_class_name"))
    if unet.get("time_cond_proj_dim") is not None or kind in _CONSISTENT:
        return "lcm"
    trailing = scheduler.get("timestep_spacing") == "trailing"
    if kind.startswith("Euler") and trailing and not any(map(scheduler.get, _NO_TURBO)):
        return "turbo"
    return "standard"


def check_distilled(name: str, unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Raises: AdapterError for a UNet that takes a guidance scale beside a scheduler of other models."""
    kind = str(scheduler.get("_class_name"))
    if unet.get("time_cond_proj_dim") is not None and kind not in _CONSISTENT:
        raise AdapterError(
            f"the UNet of {name} takes a guidance scale (time_cond_proj_dim), as latent consistency models do, and its "
            f"scheduler is a {kind}, expected {' or '.join(_CONSISTENT)}; give --sampling lcm, or its own scheduler's "
            "files"
        )


def guidance_embedding(scale: float, width: int) -> Tensor:
    """g(w) of the module's text, [width] in float64, for w = scale - 1.

    Args:
        scale: guidance scale, in the sense where 1 is none.
        width: even or odd; an odd one ends in a zero.
    """
    half = width // 2
    frequencies = torch.exp(
        -torch.log(torch.tensor(10000.0, dtype=torch.float64)) * torch.arange(half) / (half - 1)
    )
    angles = (scale - 1.0) * 1000.0 * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))


@torch.no_grad()
def fold_guidance(unet: UNet2DConditionModel, scale: float = LCM_GUIDANCE_SCALE) -> Tensor | None:
    """Make a UNet that takes a guidance scale into an ordinary one at that scale, in place.

    A UNet that takes none is left alone.

    Returns:
        P·g(w) [c] in float64, for `follow_guidance`; None where there was nothing to fold.

    Raises:
        AdapterError: its time embedding has no bias to fold into.
    """
    width = unet.config.time_cond_proj_dim
    if width is None:
        return None
    embedding = unet.time_embedding
    if embedding.linear_1.bias is None:
        raise AdapterError(
            "the UNet's time embedding has no bias, which a fixed guidance scale needs; give another base"
        )
    condition = guidance_embedding(scale, int(width)).to(embedding.cond_proj.weight.device)
    projected: Tensor = embedding.cond_proj.weight.double() @ condition
    _shift_bias(unet, embedding.linear_1.weight, projected)
    embedding.cond_proj = None
    unet.register_to_config(time_cond_proj_dim=None)
    return projected


@torch.no_grad()
def follow_guidance(unet: UNet2DConditionModel, before: Tensor, projected: Tensor) -> None:
    """Make the folded guidance that of linear_1's new weights, in place, where a LoRA changed them.

    Args:
        unet: that `fold_guidance` folded.
        before: linear_1's weights until then.
        projected: what `fold_guidance` returned.
    """
    _shift_bias(unet, unet.time_embedding.linear_1.weight - before, projected)


def _shift_bias(unet: UNet2DConditionModel, weight: Tensor, projected: Tensor) -> None:
    bias = unet.time_embedding.linear_1.bias
    bias.add_((weight.double() @ projected).to(bias.dtype))
