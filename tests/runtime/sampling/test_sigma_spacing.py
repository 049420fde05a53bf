"""Karras, exponential and SGM-uniform noise levels equal diffusers', and are refused where diffusers has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sampler_paths import (
    KINDS,
    SD15,
    TOLERANCE,
    changed,
    largest_error,
    our_trajectory,
    their_trajectory,
)

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.schedulers import calls_of_step, make_scheduler

SPACED = ("euler", "heun", "dpm", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "deis")
TIMESTEPS_ALONE = ("ddim", "pndm", "euler_a", "lcm", "tcd")


@pytest.mark.parametrize("kind", SPACED)
@pytest.mark.parametrize("sigma_spacing", ["karras", "exponential"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_sigmas_equal_diffusers(
    kind: Any,
    sigma_spacing: Any,
    prediction_type: str,
    spacing: str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(prediction_type=prediction_type, timestep_spacing=spacing, sigma_spacing=sigma_spacing)
    theirs = their_trajectory(config, kind, steps, monkeypatch)
    assert largest_error(our_trajectory(make_scheduler(config, kind, steps)), theirs) <= TOLERANCE
    plain = changed(prediction_type=prediction_type, timestep_spacing=spacing)
    asked = make_scheduler(plain, kind, steps, sigma_spacing)
    assert largest_error(our_trajectory(asked), theirs) <= TOLERANCE
    if steps > 1:
        assert largest_error(our_trajectory(make_scheduler(plain, kind, steps)), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", SPACED)
@pytest.mark.parametrize("sigma_spacing", ["karras", "exponential"])
@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "linear"},
        {"num_train_timesteps": 600},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_sigmas_of_other_schedules_equal_diffusers(
    kind: Any, sigma_spacing: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(**settings, sigma_spacing=sigma_spacing)
    if kind in ("heun", "deis") and config.rescale_betas_zero_snr:
        with pytest.raises(SettingsError, match="zero terminal SNR"):
            make_scheduler(config, kind, 20)
        return
    if config.beta_schedule == "squaredcos_cap_v2" and kind not in ("euler", "heun"):
        # Whole timesteps cannot tell the first noise levels apart, and diffusers' step counter runs out of them.
        with pytest.raises(SettingsError, match="ask for fewer steps or leave the spacing out"):
            make_scheduler(config, kind, 20)
        with pytest.raises((IndexError, AssertionError)):
            their_trajectory(config, kind, 20, monkeypatch)
        return
    theirs = their_trajectory(config, kind, 20, monkeypatch)
    assert largest_error(our_trajectory(make_scheduler(config, kind, 20)), theirs) <= TOLERANCE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lcm", "tcd")])
def test_sgm_uniform_is_trailing(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = their_trajectory(changed(timestep_spacing="trailing"), kind, 7, monkeypatch)
    ours = our_trajectory(make_scheduler(SD15, kind, 7, "sgm_uniform"))
    assert largest_error(ours, theirs) <= TOLERANCE
    in_config = make_scheduler(changed(sigma_spacing="sgm_uniform"), kind, 7)
    assert largest_error(our_trajectory(in_config), theirs) <= TOLERANCE
    assert largest_error(our_trajectory(make_scheduler(SD15, kind, 7)), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", TIMESTEPS_ALONE)
def test_a_base_with_karras_sigmas_leaves_other_samplers_alone(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(sigma_spacing="karras")
    theirs = their_trajectory(config, kind, 8, monkeypatch)
    assert largest_error(our_trajectory(make_scheduler(config, kind, 8)), theirs) <= TOLERANCE


@pytest.mark.parametrize("kind", TIMESTEPS_ALONE)
@pytest.mark.parametrize("asked", ["karras", "exponential"])
def test_a_spacing_that_diffusers_does_not_have_is_refused(kind: Any, asked: Any) -> None:
    with pytest.raises(SettingsError, match=f"{kind} has timesteps of its own and no {asked} spacing"):
        make_scheduler(SD15, kind, 8, asked)


@pytest.mark.parametrize("kind", ["lcm", "tcd"])
def test_distilled_timesteps_have_no_uniform_spacing(kind: Any) -> None:
    with pytest.raises(SettingsError, match="no sgm_uniform spacing"):
        make_scheduler(SD15, kind, 8, "sgm_uniform")


def test_unknown_spacings_are_refused() -> None:
    with pytest.raises(SettingsError, match="timesteps, karras, exponential, sgm_uniform"):
        make_scheduler(SD15, "euler", 8, "beta")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SPACED)
def test_too_many_noise_levels_are_refused(kind: Any) -> None:
    config = changed(sigma_spacing="exponential", beta_schedule="squaredcos_cap_v2")
    for steps in (600, 1000):
        try:
            timesteps = make_scheduler(config, kind, steps).timesteps
        except SettingsError as error:
            assert "ask for fewer steps" in str(error)  # noqa: PT017
        else:
            assert timesteps[0] > timesteps[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_calls_of_steps_are_those_of_the_sampler(kind: Any, steps: int) -> None:
    scheduler = make_scheduler(SD15, kind, steps)
    calls = [scheduler.step_of(i) for i in range(len(scheduler.timesteps))]
    assert [calls.count(step) for step in range(steps)] == [
        calls_of_step(kind, step, steps) for step in range(steps)
    ]
    more = {"heun": steps - 1, "pndm": int(steps > 1)}
    assert len(calls) == steps + more.get(kind, 0)


def test_new_fields_are_written_only_where_they_say_something() -> None:
    assert not {"sigma_spacing", "original_inference_steps", "eta"} & SD15.model_dump().keys()
    spaced = changed(sigma_spacing="karras", eta=0.0)
    assert SchedulerSpec.model_validate_json(spaced.model_dump_json()) == spaced
    assert "original_inference_steps" not in spaced.model_dump()


@pytest.fixture(autouse=True)
def _no_numeric_surprises() -> Any:
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield
