"""One preparation of a reference: PyTorch and a bundle see the same subject in the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dreamcache.models import guidance
from dreamcache.models.bases.pixels import to_pictures, to_tensor
from dreamcache.models.caching import noise_reference
from dreamcache.models.conditioned import Cache
from dreamcache.models.pipeline import CACHE_NOISE_SEED, DreamCachePipeline, draw_noise
from dreamcache.runtime.bundle.contract import GuidanceMode
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.subject import Subject

TOLERANCE = 1e-4


@pytest.fixture(scope="module", name="torch_side")
def _torch_side(tiny_base: Path, tiny_adapters: Path) -> DreamCachePipeline:
    return DreamCachePipeline.load(str(tiny_base), tiny_adapters)


@pytest.fixture(scope="module", name="runner")
def _runner(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle)


def photograph() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea()).resize((225, 150))


def odd_aspect() -> Image.Image:
    picture = Image.new("RGB", (97, 31), "#3c7850")
    noise = np.random.default_rng(0).integers(0, 256, (17, 40, 3), np.uint8)
    picture.paste(Image.fromarray(noise), (50, 9))
    return picture


def transparent() -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (60, 44, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[8:50, 3:20, 3] = 255
    return Image.fromarray(pixels)


def distance(torch_side: DreamCachePipeline, cache: Cache, subject: Subject) -> float:
    """The largest difference of PyTorch's keys and values from the bundle's, over the largest of these."""
    differences, sizes = [], []
    for name, tokens in cache.items():
        adapter = torch_side.conditioned.adapter(name)
        for kind, projection in (("key", adapter.to_k), ("value", adapter.to_v)):
            received: NDArray[np.float32] = subject.tensors[f"{name}.{kind}"]
            expected = projection(tokens).detach().numpy()
            differences.append(np.abs(expected - received).max())
            sizes.append(np.abs(received).max())
    return float(max(differences) / max(sizes))


@pytest.mark.parametrize("draw", [photograph, odd_aspect, transparent])
def test_pytorch_and_the_bundle_see_the_same_subject(
    torch_side: DreamCachePipeline, runner: Pipeline, tmp_path: Path, draw: Callable[[], Image.Image]
) -> None:
    file = tmp_path / "reference.png"
    picture = draw()
    picture.save(file)
    subject = runner.cache(file)
    prepared = prepare_reference(file, size=torch_side.resolution)
    assert prepared.how == subject.background
    seen = to_tensor(np.asarray(prepared.image)[None])
    assert np.array_equal(to_pictures(seen)[0], np.asarray(subject.thumbnail))
    latent = torch_side.base.encode_images(seen).numpy()
    np.testing.assert_allclose(latent, runner.encode(prepared.image), atol=TOLERANCE)
    assert distance(torch_side, torch_side.cache(prepared.image), subject) < TOLERANCE
    # Framed in another way, as PyTorch once did it, the same file is another subject.
    padded = ImageOps.pad(picture.convert("RGB"), (32, 32), color="white")
    assert distance(torch_side, torch_side.cache(padded), subject) > 100 * TOLERANCE


def test_both_draw_the_references_noise_from_one_seed(
    torch_side: DreamCachePipeline, runner: Pipeline
) -> None:
    clean = draw_noise(5, torch_side.latent_shape)
    timestep = torch_side.conditioned.config.cache_timestep

    def noised(seed: int) -> NDArray[np.float32]:
        noise = torch.from_numpy(draw_noise(seed, torch_side.latent_shape))
        found: NDArray[np.float32] = noise_reference(
            torch_side.base.scheduler, torch.from_numpy(clean), noise, timestep
        ).numpy()
        return found

    np.testing.assert_allclose(noised(CACHE_NOISE_SEED), runner.noised(clean), atol=1e-6)
    assert np.abs(noised(CACHE_NOISE_SEED + 1) - runner.noised(clean)).max() > 1e-2


def test_both_know_the_same_guidance_modes() -> None:
    assert get_args(guidance.GuidanceMode) == get_args(GuidanceMode)
    assert set(guidance.BRANCHES) == set(get_args(GuidanceMode))
