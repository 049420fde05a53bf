"""Adapters on a diffusers pipeline: its pictures are our pipeline's, and detached it is itself again."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from tiny_models import write_tiny_adapters, write_tiny_sdxl
from torch import Tensor

from dreamcache.models import attach
from dreamcache.models.bases.base import load_base
from dreamcache.models.config import AdapterConfig
from dreamcache.models.errors import AdapterError
from dreamcache.models.pipeline import DreamCachePipeline, denoise_batch, draw_noise

TOY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
SHAPE = (4, 8, 8)
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "diffusers.md"


def quiet(kind: Any, folder: Path) -> Any:
    pipe = kind.from_pretrained(
        folder, **({"safety_checker": None} if kind is StableDiffusionPipeline else {})
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(name="pipe")
def _pipe(tiny_base: Path) -> Any:
    return quiet(StableDiffusionPipeline, tiny_base)


def draw(pipe: Any, prompt: str = "a robot", **options: Any) -> Tensor:
    """[1, 4, 8, 8] the latent after three steps from the noise of seed 5."""
    noise = torch.from_numpy(draw_noise(5, SHAPE))
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "latents": noise} | options
    drawn: Tensor = pipe(prompt, output_type="latent", **options).images
    return drawn


def nearness_db(one: Tensor, other: Tensor) -> float:
    return float(20 * torch.log10(other.abs().max() / (one - other).pow(2).mean().sqrt().clamp(min=1e-12)))


@pytest.mark.parametrize("fusion", ["spatial_concat", "textual_sum"])
def test_it_draws_what_our_pipeline_draws(pipe: Any, tiny_base: Path, tmp_path: Path, fusion: Any) -> None:
    adapters = write_tiny_adapters(
        tmp_path / "a.safetensors", tiny_base, config=AdapterConfig(fusion, further_timesteps=(100,))
    )
    ours = DreamCachePipeline.load(str(tiny_base), adapters)
    attached = attach(pipe, adapters)
    attached.subject = attached.cache(TOY)
    cache = ours.cache(TOY)
    assert all(torch.equal(attached.subject[site], cache[site]) for site in cache)
    for strength, scale in ((1.0, 3.0), (0.5, 1.0)):
        attached.strength = strength
        mode = "none" if scale == 1.0 else "classic"
        options: Any = {"guidance_mode": mode, "guidance_scale": scale, "strength": strength}
        *_, last = ours.denoise("a robot", cache, steps=3, seed=5, **options)
        assert nearness_db(draw(pipe, guidance_scale=scale), last.latent) >= 100
    *_, stock = ours.denoise("a robot", steps=3, seed=5, guidance_mode="none")
    assert nearness_db(draw(pipe, guidance_scale=1.0), stock.latent) < 80


def test_strength_0_no_subject_and_detached_are_the_stock_pipeline(pipe: Any, tiny_adapters: Path) -> None:
    stock, weights = draw(pipe), {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    attached = attach(pipe, tiny_adapters)
    assert torch.equal(draw(pipe), stock)
    attached.subject = attached.cache(TOY)
    assert not torch.equal(draw(pipe), stock)
    attached.strength = 0
    assert torch.equal(draw(pipe), stock)
    attached.strength = 1
    attached.detach()
    assert torch.equal(draw(pipe), stock)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in pipe.unet.state_dict().items())
    assert all(parameter.requires_grad for parameter in pipe.unet.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.unet.modules())
    attach(pipe, tiny_adapters).detach()


def test_schedulers_sizes_batches_and_callbacks_go_on_working(pipe: Any, tiny_adapters: Path) -> None:
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    stock = draw(pipe)
    attached = attach(pipe, tiny_adapters)
    attached.subject = attached.cache(TOY)
    seen: list[int] = []

    def look(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(index)
        return tensors

    one = draw(pipe, callback_on_step_end=look)
    assert seen == [0, 1, 2]
    assert not torch.equal(one, stock)
    both = torch.from_numpy(draw_noise(5, SHAPE, 2))
    assert nearness_db(draw(pipe, latents=both, num_images_per_prompt=2)[:1], one) >= 100
    wide = pipe("a robot", num_inference_steps=1, width=64, height=32, output_type="latent").images
    assert wide.shape == (1, 4, 8, 16)


def test_a_lora_before_or_after_is_in_picture_and_cache(
    pipe: Any, tiny_base: Path, tiny_adapters: Path
) -> None:
    from peft import LoraConfig

    # Not zeros, so that it changes what is drawn.
    lora = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    attached = attach(pipe, tiny_adapters)
    plain = attached.cache(TOY)
    torch.manual_seed(1)
    pipe.unet.add_adapter(lora)
    attached.subject = attached.cache(TOY)
    # The first site's tokens lie behind blocks that the LoRA changes.
    assert not torch.equal(attached.subject["mid_block.attentions.0"], plain["mid_block.attentions.0"])
    after = draw(pipe)

    before = quiet(StableDiffusionPipeline, tiny_base)
    torch.manual_seed(1)
    before.unet.add_adapter(lora)
    alone = draw(before)
    attached = attach(before, tiny_adapters)
    attached.subject = attached.cache(TOY)
    assert torch.equal(draw(before), after)
    assert not torch.equal(alone, after)
    attached.detach()
    assert torch.equal(draw(before), alone)


def test_sdxl_draws_what_its_parts_in_our_loop_draw(tmp_path: Path) -> None:
    folder = write_tiny_sdxl(tmp_path / "sdxl")
    adapters = write_tiny_adapters(tmp_path / "a.safetensors", folder)
    pipe = quiet(StableDiffusionXLPipeline, folder)
    attached = attach(pipe, adapters)
    cache = attached.subject = attached.cache(TOY)

    ours = DreamCachePipeline.load(str(folder), adapters)
    assert all(torch.equal(tokens, ours.cache(TOY)[site]) for site, tokens in cache.items())
    null, prompted = (ours.base.condition([text], (32, 32), null=text == "") for text in ("", "a robot"))
    added = {name: torch.cat([null.added[name], prompted.added[name]]) for name in null.added}
    noise = torch.from_numpy(draw_noise(5, SHAPE))
    predict = partial(ours.conditioned, added=added)
    mode: Any = {"steps": 3, "guidance_mode": "classic", "guidance_scale": 3.0}
    *_, last = denoise_batch(predict, pipe.scheduler, noise, prompted.text, null.text, cache, **mode)
    assert nearness_db(draw(pipe), last.latent) >= 100
    attached.detach()
    assert nearness_db(draw(pipe), last.latent) < 80


def test_the_example_of_the_guide_runs(
    tiny_base: Path, tiny_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    square = Image.new("RGB", (40, 40), "white")
    square.paste((200, 30, 30), (10, 10, 30, 30))
    square.save("photo.png")
    code = code.replace("FOLDER_OR_ID", str(tiny_base)).replace("adapters.safetensors", str(tiny_adapters))
    exec(compile(code.replace("steps=20", "steps=2"), str(GUIDE), "exec"), {})
    with Image.open("duck.png") as drawn:
        assert drawn.size == (32, 32)


def test_what_cannot_be_attached_is_one_line(pipe: Any, tiny_base: Path, tiny_adapters: Path) -> None:
    attached = attach(pipe, tiny_adapters)
    with pytest.raises(AdapterError, match=r"^the pipeline has adapters already; detach them first$"):
        attach(pipe, tiny_adapters)
    with pytest.raises(AdapterError, match=r"^the cache has sites"):
        attached.subject = {"mid_block.attentions.0": torch.zeros(1, 4, 32)}
    with pytest.raises(ValueError, match=r"^reference: 32 x 32 px RGB is expected, received 16 x 32 RGB"):
        attached.cache(TOY.crop((0, 0, 16, 32)))
    attached.detach()
    half = quiet(StableDiffusionPipeline, tiny_base)
    with torch.no_grad():
        half.vae.quant_conv.bias.fill_(float("inf"))
    with pytest.raises(
        AdapterError, match=r"^the reference's features are not finite numbers in torch.float32"
    ):
        attach(half, tiny_adapters).cache(TOY)
    with pytest.raises(AdapterError, match=r"^Base lacks tokenizer; give"):
        attach(_without(load_base(tiny_base), "tokenizer"), tiny_adapters)
    other = quiet(StableDiffusionPipeline, tiny_base)
    with torch.no_grad():
        other.unet.conv_in.bias.add_(1)
    with pytest.raises(AdapterError, match="belongs to the base"):
        attach(other, tiny_adapters)
    other.unet = torch.nn.Identity()
    with pytest.raises(AdapterError, match="is a Identity, expected UNet2DConditionModel; attach before"):
        attach(other, tiny_adapters)


def _without(base: Any, part: str) -> Any:
    object.__setattr__(base, part, None)
    return base
