"""Latent consistency models: the guidance scale that a UNet takes as an input becomes a constant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler
from tiny_models import MINI_SHAPED, TEXT_WIDTH, save_scheduler, tiny_unet, write_tiny_base

from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.distillation import LCM_GUIDANCE_SCALE, fold_guidance, guidance_embedding
from dreamcache.models.checkpoint import base_fingerprint
from dreamcache.models.errors import AdapterError
from dreamcache.models.walk.unet import walk

LCM_SHAPED = {**MINI_SHAPED, "time_cond_proj_dim": 20}


@pytest.mark.parametrize("width", [20, 21, 256])
def test_the_embedding_is_the_pipelines(width: int) -> None:
    scale = torch.tensor([LCM_GUIDANCE_SCALE - 1.0])
    expected = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None,  # type: ignore[arg-type]
        scale,
        embedding_dim=width,
    )[0]
    # atol: the pipeline's angles, up to 7500, are in single precision.
    received = guidance_embedding(LCM_GUIDANCE_SCALE, width)
    torch.testing.assert_close(received.float(), expected, atol=2e-3, rtol=0)
    assert (guidance_embedding(LCM_GUIDANCE_SCALE + 0.5, width) - received).abs().max() > 0.1


@torch.no_grad()
def test_the_folded_unet_is_the_unet_at_that_scale() -> None:
    unet = tiny_unet(**LCM_SHAPED)
    # Off its initial size, so that the condition is no small thing beside the timestep.
    unet.time_embedding.cond_proj.weight.mul_(3.0)
    latent, text, timestep = torch.randn(2, 4, 8, 8), torch.randn(2, 7, TEXT_WIDTH), torch.tensor([999, 259])
    condition = guidance_embedding(8.5, 20).float().expand(2, -1)
    expected = unet(latent, timestep, text, timestep_cond=condition).sample
    other = unet(
        latent, timestep, text, timestep_cond=guidance_embedding(7.5, 20).float().expand(2, -1)
    ).sample
    before = base_fingerprint(unet)
    fold_guidance(unet, 8.5)
    # float32: the sum moves from the input of a layer into its bias.
    torch.testing.assert_close(unet(latent, timestep, text).sample, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(walk(unet, latent, timestep, text), expected, atol=1e-5, rtol=1e-4)
    assert (other - expected).abs().max() > 1e-3
    assert unet.config.time_cond_proj_dim is None
    assert base_fingerprint(unet) != before
    folded = base_fingerprint(unet)
    fold_guidance(unet, 8.5)
    assert base_fingerprint(unet) == folded


def test_a_base_is_folded_as_it_loads(tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / "lcm", unet=LCM_SHAPED)
    # diffusers would sample it with DDIM, which is neither what its authors do nor what a bundle would.
    with pytest.raises(
        AdapterError, match=r"takes a guidance scale .* is a DDIMScheduler, expected LCMS"
    ) as raised:
        load_base(folder)
    assert "\n" not in str(raised.value)
    assert load_base(folder, sampling="lcm").unet.config.time_cond_proj_dim is None
    save_scheduler(folder, LCMScheduler())
    base = load_base(folder)
    assert base.sampling == "lcm"
    assert base.unet.config.time_cond_proj_dim is None
    assert not any("cond_proj" in name for name in base.unet.state_dict())
    plain = load_base(write_tiny_base(tmp_path / "plain"))
    assert plain.sampling == "standard"


def test_an_embedding_without_bias_is_refused() -> None:
    unet = tiny_unet(**LCM_SHAPED)
    unet.time_embedding.linear_1.bias = None
    with pytest.raises(AdapterError, match="no bias"):
        fold_guidance(unet)
