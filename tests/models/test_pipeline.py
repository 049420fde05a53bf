"""Guidance formulas and the PyTorch reference pipeline on a tiny base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from dreamcache.models.bases.base import load_base
from dreamcache.models.errors import AdapterError
from dreamcache.models.guidance import BRANCHES, combine
from dreamcache.models.pipeline import DreamCachePipeline, draw_noise


@pytest.fixture(scope="module", name="pipeline")
def _pipeline(tiny_base: Path, tiny_adapters: Path) -> DreamCachePipeline:
    return DreamCachePipeline.load(str(tiny_base), tiny_adapters)


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_dual_guidance_is_the_authors_formula() -> None:
    null, null_ref, text_ref = torch.tensor([1.0]), torch.tensor([10.0]), torch.tensor([100.0])
    assert combine("dual", [null, null_ref, text_ref], 7.5, 0.4).item() == pytest.approx(
        1 + 7.5 * 90 + 0.4 * 9
    )
    assert combine("text_first", [null, null_ref, text_ref], 3.0, 8.0).item() == pytest.approx(
        1 + 3 * 9 + 8 * 90
    )
    assert combine("classic", [null_ref, text_ref], 7.5, 0.4).item() == pytest.approx(10 + 7.5 * 90)
    assert combine("none", [text_ref], 7.5, 0.4).item() == 100.0
    with pytest.raises(ValueError, match="takes 3 predictions, received 2"):
        combine("dual", [null, null_ref], 7.5, 0.4)
    assert {mode: len(branches) for mode, branches in BRANCHES.items()} == {
        "dual": 3,
        "text_first": 3,
        "classic": 2,
        "none": 1,
    }


def test_without_a_cache_it_is_stable_diffusion(pipeline: DreamCachePipeline, tiny_base: Path) -> None:
    stock = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    noise = torch.from_numpy(draw_noise(5, pipeline.latent_shape))
    expected = stock(
        "a robot", num_inference_steps=4, guidance_scale=3.0, latents=noise, output_type="latent"
    ).images
    *_, last = pipeline.denoise("a robot", steps=4, seed=5, guidance_mode="classic", guidance_scale=3.0)
    torch.testing.assert_close(last.latent, expected, atol=1e-4, rtol=1e-4)


def test_same_seed_same_picture_and_the_reference_changes_it(pipeline: DreamCachePipeline) -> None:
    cache = pipeline.cache(picture())
    runs = [
        np.asarray(
            pipeline.generate("a robot", c, steps=3, seed=seed, strength=strength)[0], dtype=np.float32
        )
        for c, seed, strength in (
            (cache, 1, 1.0),
            (cache, 1, 1.0),
            (cache, 2, 1.0),
            (pipeline.cache(picture(1)), 1, 1.0),
            (cache, 1, 0.0),
            (None, 1, 1.0),
        )
    ]
    assert np.array_equal(runs[0], runs[1])
    assert all(np.abs(runs[0] - other).max() > 0 for other in runs[2:])
    assert np.abs(runs[4] - runs[5]).max() <= 1


def test_image_i_of_a_batch_is_the_image_of_seed_plus_i(pipeline: DreamCachePipeline) -> None:
    cache = pipeline.cache(picture())
    *_, both = pipeline.denoise("a robot", cache, steps=2, seed=7, num_images=2)
    *_, second = pipeline.denoise("a robot", cache, steps=2, seed=8)
    torch.testing.assert_close(both.latent[1:], second.latent, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "unprepared", [Image.new("RGB", (32, 24)), Image.new("RGB", (64, 64)), Image.new("RGBA", (32, 32))]
)
def test_a_reference_that_is_not_prepared_is_refused(
    pipeline: DreamCachePipeline, unprepared: Image.Image
) -> None:
    received = f"received {unprepared.width} x {unprepared.height} {unprepared.mode}; prepare it"
    with pytest.raises(ValueError, match=f"^reference: 32 x 32 px RGB is expected, {received}"):
        pipeline.cache(unprepared)


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"num_images": 0}, {"guidance_mode": "triple"}])
def test_bad_settings_are_refused(pipeline: DreamCachePipeline, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments.values())).__str__()):
        next(pipeline.denoise("a", None, **arguments))  # type: ignore[arg-type]


def test_loading_names_what_is_missing(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no base at"):
        load_base(str(tmp_path / "nothing"))
    with pytest.raises(AdapterError, match=r"has no model_index\.json"):
        load_base(tmp_path)
    with pytest.raises(FileNotFoundError, match="no adapters named"):
        DreamCachePipeline.load(str(tiny_base))
    with pytest.raises(AdapterError, match="no adapters file"):
        DreamCachePipeline.load(str(tiny_base), tmp_path / "a.safetensors")
