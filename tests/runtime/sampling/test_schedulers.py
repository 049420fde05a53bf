"""Every sampler equals diffusers' over a whole trajectory, and the wrong configuration does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sampler_paths
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_paths import (
    DISTILLED,
    KINDS,
    SD15,
    SHAPE,
    STOCHASTIC,
    TOLERANCE,
    changed,
    fresh_noises,
    largest_error,
    our_trajectory,
    start,
    their_trajectory,
)

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.schedulers import make_scheduler

NO_ZERO_SNR = ("heun", "deis", "pndm")
# Where these end, some noise is left: at the first training timestep.
ENDS_ABOVE_ZERO = ("deis", "tcd")


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
    ours = our_trajectory(make_scheduler(config, kind, steps))
    assert largest_error(ours, their_trajectory(config, kind, steps, monkeypatch)) <= TOLERANCE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in DISTILLED])
@pytest.mark.parametrize("steps", [100, 333, 700])
def test_equals_diffusers_over_many_steps(kind: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind in STOCHASTIC and steps > 333:
        pytest.skip("both sides round every sample to float32, and 700 of them add up to the tolerance")
    ours = our_trajectory(make_scheduler(SD15, kind, steps))
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
    if kind in NO_ZERO_SNR and config.rescale_betas_zero_snr:
        with pytest.raises(SettingsError, match=f"{kind} expects a schedule that ends with some signal"):
            make_scheduler(config, kind, 20)
        return
    ours = our_trajectory(make_scheduler(config, kind, 20))
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
    if kind in DISTILLED and wrong.keys() & {"steps_offset", "timestep_spacing"}:
        pytest.skip("the timesteps of LCM and TCD are those of their distillation")
    ours = our_trajectory(make_scheduler(changed(**wrong), kind, 20))
    assert largest_error(ours, their_trajectory(SD15, kind, 20, monkeypatch)) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_other_noise_changes_the_path(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = their_trajectory(SD15, kind, 4, monkeypatch)
    monkeypatch.setattr(sampler_paths, "fresh_noises", lambda: lambda: np.zeros(SHAPE, np.float32))
    assert largest_error(our_trajectory(make_scheduler(SD15, kind, 4)), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_noise_needs_a_source_except_in_the_last_step(kind: Any) -> None:
    scheduler = make_scheduler(SD15, kind, 4)
    with pytest.raises(SettingsError, match=f"noise: {kind} adds noise"):
        scheduler.step(start(), 0, start(), None)
    assert scheduler.step(start(), 3, start(), None).shape == SHAPE


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_noise_of_tcd_equals_diffusers(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(eta=eta)
    theirs = their_trajectory(config, "tcd", 8, monkeypatch, eta=eta)
    assert largest_error(our_trajectory(make_scheduler(config, "tcd", 8)), theirs) <= TOLERANCE
    assert largest_error(our_trajectory(make_scheduler(SD15, "tcd", 8)), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", DISTILLED)
def test_steps_of_another_distillation_equal_diffusers(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(original_inference_steps=100)
    theirs = their_trajectory(config, kind, 8, monkeypatch)
    assert largest_error(our_trajectory(make_scheduler(config, kind, 8)), theirs) <= TOLERANCE
    assert largest_error(our_trajectory(make_scheduler(SD15, kind, 8)), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_denoiser_finds_the_clean_latent(kind: Any, prediction_type: str) -> None:
    config = changed(prediction_type=prediction_type, set_alpha_to_one=True, timestep_spacing="trailing")
    if kind == "pndm" and prediction_type == "v_prediction":
        pytest.skip("it adds up predictions of different timesteps, which agree for noise alone")
    # PNDM's also needs strides that are equal.
    scheduler = make_scheduler(config, kind, 10 if kind == "pndm" else 12)
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
    end = levels[0] if kind in ENDS_ABOVE_ZERO else 1.0
    expected = np.sqrt(end) * clean + np.sqrt(1 - end) * noise
    np.testing.assert_allclose(sample, expected, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_trajectory_does_not_remember_the_first(kind: Any) -> None:
    scheduler = make_scheduler(SD15, kind, 8)
    np.testing.assert_array_equal(our_trajectory(scheduler)[-1], our_trajectory(scheduler)[-1])


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
        scheduler = make_scheduler(config, kind, steps)
    except SettingsError:
        assert steps > 50 if kind in DISTILLED else steps > 300
        return
    timesteps = scheduler.timesteps
    if kind == "heun":
        # Each but the first is told twice: the end of one step and the start of the next.
        np.testing.assert_array_equal(timesteps[1::2], timesteps[2::2])
        timesteps = timesteps[::2]
    if kind == "pndm" and steps > 1:
        assert timesteps[1] == timesteps[2]
        timesteps = np.delete(timesteps, 1)
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
        make_scheduler(SD15, "plms", 20)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DISTILLED)
def test_what_was_never_distilled_is_refused(kind: Any) -> None:
    with pytest.raises(SettingsError, match="at most 50"):
        make_scheduler(SD15, kind, 51)
    with pytest.raises(SettingsError, match="at least 50 training timesteps"):
        make_scheduler(changed(num_train_timesteps=40), kind, 4)
    assert len(make_scheduler(changed(original_inference_steps=100), kind, 51).timesteps) == 51


@pytest.mark.parametrize("kind", ["ddim", "lcm", "tcd"])
def test_noise_prediction_is_refused_where_no_signal_is_left(kind: Any) -> None:
    config = changed(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(SettingsError, match="v_prediction"):
        make_scheduler(config, kind, 10)


@pytest.fixture(autouse=True)
def _no_numeric_surprises() -> Iterator[None]:
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield
