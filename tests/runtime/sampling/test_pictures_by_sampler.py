"""Pictures by each sampler: Heun's two calls a step, refusals before anything runs, spacing asked for by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamcache.runtime import Pipeline, Subject
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.denoiser import Denoiser

PROMPT = "a robot on the beach"


@pytest.fixture(scope="module")
def pipeline(pristine: Path) -> Pipeline:
    return Pipeline.load(pristine, threads=1)


@pytest.fixture(scope="module")
def subject(pipeline: Pipeline, toy: Path) -> Subject:
    return pipeline.cache(toy)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The timesteps at which the denoiser is asked."""
    timesteps: list[float] = []
    predict = Denoiser.predict

    def noting(denoiser: Denoiser, latent: Any, timestep: float, *rest: Any) -> Any:
        timesteps.append(timestep)
        return predict(denoiser, latent, timestep, *rest)

    monkeypatch.setattr(Denoiser, "predict", noting)
    return timesteps


def test_heun_asks_twice_a_step_and_shows_one_preview_a_step(
    pipeline: Pipeline, subject: Subject, asked: list[float]
) -> None:
    steps = list(pipeline.denoise(PROMPT, subject, steps=4, seed=1, scheduler="heun"))
    assert len(asked) == 7
    assert [(step.index, step.total) for step in steps] == [(index, 4) for index in range(4)]
    assert [step.timestep for step in steps] == [asked[0], asked[2], asked[4], asked[6]]
    # The last step ends where it believes the picture to be.
    np.testing.assert_allclose(steps[-1].preview, steps[-1].latent, atol=1e-4)
    asked.clear()
    euler = list(pipeline.denoise(PROMPT, subject, steps=4, seed=1, scheduler="euler"))
    assert asked == [step.timestep for step in euler] == [step.timestep for step in steps]
    assert np.abs(euler[-1].latent - steps[-1].latent).max() > 1e-3


@pytest.mark.parametrize("scheduler", ["euler_a", "dpmpp_2m_sde", "tcd"])
def test_stochastic_samplers_repeat_with_the_seed(
    pipeline: Pipeline, subject: Subject, scheduler: Any
) -> None:
    one, same, other = (
        pipeline.generate(PROMPT, subject, steps=4, seed=seed, scheduler=scheduler).tobytes()
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_a_sampler_that_cannot_be_is_refused_before_anything_runs(pipeline: Pipeline) -> None:
    with pytest.raises(SettingsError, match="no karras spacing"):
        pipeline.denoise(PROMPT, steps=4, scheduler="ddim", sigma_spacing="karras")
    with pytest.raises(SettingsError, match="at most 50"):
        pipeline.denoise(PROMPT, steps=51, scheduler="tcd")


def test_sigma_spacing_changes_the_picture(pipeline: Pipeline, subject: Subject) -> None:
    plain, same, karras = (
        pipeline.generate(PROMPT, subject, steps=4, seed=1, scheduler="euler", sigma_spacing=spacing)
        for spacing in (None, "timesteps", "karras")
    )
    assert plain.tobytes() == same.tobytes() != karras.tobytes()
