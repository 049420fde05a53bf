"""The runner's noise: its own in any batch, and PyTorch's."""

from __future__ import annotations

import numpy as np

from dreamcache.models import pipeline as torch_pipeline
from dreamcache.runtime.bundle.sampling import SchedulerSpec
from dreamcache.runtime.sampling.noise import CACHE_NOISE_SEED, noise_source, noised_reference
from dreamcache.runtime.sampling.schedulers.noise_schedule import signal_levels

SHAPE = (1, 4, 8, 6)


def test_an_image_has_the_same_noise_in_any_batch() -> None:
    both, second = noise_source(7, SHAPE, images=2), noise_source(8, SHAPE)
    for _ in range(2):
        assert np.array_equal(both()[1:], second())
    assert not np.array_equal(both(), both())


def test_runner_and_pytorch_draw_the_same_noise() -> None:
    assert CACHE_NOISE_SEED == torch_pipeline.CACHE_NOISE_SEED
    theirs = torch_pipeline.draw_noise(7, (4, 8, 6), 2)
    assert np.array_equal(noise_source(7, SHAPE, images=2)(), theirs)
    assert not np.array_equal(noise_source(6, SHAPE, images=2)(), theirs)


def test_a_reference_keeps_its_share_of_the_signal() -> None:
    scheduler = SchedulerSpec(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="epsilon"
    )
    latent = np.full(SHAPE, 3.0, np.float32)
    noise = noise_source(CACHE_NOISE_SEED, SHAPE)()
    for timestep in (1, 500):
        signal = signal_levels(scheduler)[timestep]
        expected = np.sqrt(signal) * latent + np.sqrt(1 - signal) * noise
        np.testing.assert_allclose(noised_reference(latent, scheduler, timestep), expected, atol=1e-6)
    assert np.abs(noised_reference(latent, scheduler, 1) - expected).max() > 0.1
