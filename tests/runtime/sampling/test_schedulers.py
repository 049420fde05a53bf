"""Every sampler equals diffusers' over a whole trajectory, and the wrong configuration does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.schedulers import Scheduler, make_scheduler

KINDS = ("ddim", "euler", "dpm", "lcm")
SHAPE = (2, 4, 6, 5)
TOLERANCE = 1e-5
# Spacing, offset and final alpha as in the scheduler config of Stable Diffusion 1.5.
SD15 = SchedulerSpec(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="epsilon",
    steps_offset=1,
)

THEIRS: dict[str, Any] = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpm": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
}


def changed(**settings: Any) -> SchedulerSpec:
    return SchedulerSpec(**(SD15.model_dump() | settings))


def start() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(SHAPE, dtype=np.float32)


def fresh_noises() -> Callable[[], NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    return lambda: rng.standard_normal(SHAPE, dtype=np.float32)


def denoise(sample: NDArray[np.float32], timestep: float) -> NDArray[np.float32]:
    """A smooth, bounded, nonlinear stand-in for a denoiser."""
    wave = np.sin(1.3 * sample + 0.002 * timestep) + 0.3 * np.tanh(np.roll(sample, 1, axis=-1))
    return np.asarray(0.8 * wave, dtype=np.float32)


def trajectory(scheduler: Scheduler) -> list[NDArray[np.float32]]:
    noise = fresh_noises()
    sample = (start() * scheduler.init_noise_sigma).astype(np.float32)
    samples = [sample]
    for i, timestep in enumerate(scheduler.timesteps):
        prediction = denoise(scheduler.scale_input(sample, i), float(timestep))
        sample = scheduler.step(prediction, i, sample, noise)
        assert sample.dtype == np.float32
        samples.append(sample)
    return samples


def their_trajectory(
    config: SchedulerSpec, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> list[NDArray[np.float64]]:
    """Diffusers' own steps in float64: in float32 they round by more than the tolerance where the noise is 10⁴."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = THEIRS[kind].from_config(config.model_dump())
    scheduler.set_timesteps(steps)
    noise = fresh_noises()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: torch.from_numpy(noise())
    )
    sample = torch.from_numpy(start()).double() * scheduler.init_noise_sigma
    samples = [sample.numpy()]
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        prediction = torch.from_numpy(denoise(scaled.numpy().astype(np.float32), float(timestep)))
        sample = scheduler.step(prediction.double(), timestep, sample).prev_sample.double()
        samples.append(sample.numpy())
    return samples


def largest_error(ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float64]]) -> float:
    assert len(ours) == len(theirs)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 4, 7, 20, 50])
def test_equals_diffusers(
    kind: Any,
    prediction_type: str,
    beta_schedule: str,
    spacing: str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(prediction_type=prediction_type, beta_schedule=beta_schedule, timestep_spacing=spacing)
    ours = trajectory(make_scheduler(config, kind, steps))
    assert largest_error(ours, their_trajectory(config, kind, steps, monkeypatch)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["ddim", "euler", "dpm"])
@pytest.mark.parametrize("steps", [100, 333, 700])
def test_equals_diffusers_over_many_steps(kind: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = trajectory(make_scheduler(SD15, kind, steps))
    assert largest_error(ours, their_trajectory(SD15, kind, steps, monkeypatch)) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"set_alpha_to_one": True, "steps_offset": 0},
        {"clip_sample": True, "clip_sample_range": 0.7},
        {"num_train_timesteps": 600},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ],
    ids=lambda settings: "-".join(settings),
)
def test_other_settings_equal_diffusers(
    kind: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(**settings)
    ours = trajectory(make_scheduler(config, kind, 20))
    assert largest_error(ours, their_trajectory(config, kind, 20, monkeypatch)) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"beta_schedule": "linear"},
        {"prediction_type": "v_prediction"},
        {"beta_end": 0.02},
        {"steps_offset": 20},
        {"timestep_spacing": "trailing"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_configuration_is_far_off(
    kind: Any, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "lcm" and wrong.keys() & {"steps_offset", "timestep_spacing"}:
        pytest.skip("the timesteps of LCM are those of its distillation")
    ours = trajectory(make_scheduler(changed(**wrong), kind, 20))
    assert largest_error(ours, their_trajectory(SD15, kind, 20, monkeypatch)) > 100 * TOLERANCE


def test_other_noise_changes_the_path_of_lcm(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = their_trajectory(SD15, "lcm", 4, monkeypatch)
    monkeypatch.setitem(globals(), "fresh_noises", lambda: lambda: np.zeros(SHAPE, np.float32))
    assert largest_error(trajectory(make_scheduler(SD15, "lcm", 4)), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_denoiser_finds_the_clean_latent(kind: Any, prediction_type: str) -> None:
    config = changed(prediction_type=prediction_type, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler = make_scheduler(config, kind, 12)
    clean = np.random.default_rng(5).standard_normal(SHAPE)
    levels = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    sample = (start() * scheduler.init_noise_sigma).astype(np.float32)
    for i, timestep in enumerate(scheduler.timesteps):
        seen, level = scheduler.scale_input(sample, i), levels[int(timestep)]
        noise = (seen - np.sqrt(level) * clean) / np.sqrt(1 - level)
        perfect = (
            noise if prediction_type == "epsilon" else np.sqrt(level) * noise - np.sqrt(1 - level) * clean
        )
        prediction = perfect.astype(np.float32)
        np.testing.assert_allclose(scheduler.predicted_original(prediction, i, sample), clean, atol=2e-4)
        sample = scheduler.step(prediction, i, sample, fresh_noises())
    np.testing.assert_allclose(sample, clean, atol=2e-4)


def test_a_second_trajectory_does_not_remember_the_first() -> None:
    scheduler = make_scheduler(SD15, "dpm", 8)
    np.testing.assert_array_equal(trajectory(scheduler)[-1], trajectory(scheduler)[-1])


@given(
    kind=st.sampled_from(KINDS),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    steps=st.integers(1, 1000),
    offset=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_timesteps_fall_inside_the_training_range_or_steps_are_refused(
    kind: Any, spacing: str, steps: int, offset: int
) -> None:
    config = changed(timestep_spacing=spacing, steps_offset=offset)
    try:
        timesteps = make_scheduler(config, kind, steps).timesteps
    except SettingsError:
        assert steps > 50 if kind == "lcm" else steps > 300
        return
    assert timesteps.shape == (steps,)
    assert timesteps.dtype == np.float32
    assert np.all(np.diff(timesteps) < 0)
    assert timesteps[0] <= 999
    assert timesteps[-1] >= 0


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, 20.0, float("nan"), True, "20", None])
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_steps_are_refused(kind: Any, steps: Any) -> None:
    with pytest.raises(SettingsError, match="whole number from 1 to 1000"):
        make_scheduler(SD15, kind, steps)


def test_numpy_integers_are_steps() -> None:
    assert len(make_scheduler(SD15, "ddim", np.int64(5)).timesteps) == 5  # type: ignore[arg-type]


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(SettingsError, match="ddim, euler, dpm, lcm"):
        make_scheduler(SD15, "heun", 20)  # type: ignore[arg-type]


def test_lcm_refuses_what_was_never_distilled() -> None:
    with pytest.raises(SettingsError, match="at most 50"):
        make_scheduler(SD15, "lcm", 51)
    with pytest.raises(SettingsError, match="at least 50 training timesteps"):
        make_scheduler(changed(num_train_timesteps=40), "lcm", 4)
    scheduler = make_scheduler(SD15, "lcm", 4)
    with pytest.raises(SettingsError, match="noise"):
        scheduler.step(start(), 0, start(), None)


@pytest.mark.parametrize("kind", ["ddim", "lcm"])
def test_noise_prediction_is_refused_where_no_signal_is_left(kind: Any) -> None:
    config = changed(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(SettingsError, match="v_prediction"):
        make_scheduler(config, kind, 10)


@pytest.fixture(autouse=True)
def _no_numeric_surprises() -> Iterator[None]:
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield
