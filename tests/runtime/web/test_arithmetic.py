"""The page's arithmetic in Node is Python's: noise of a seed, guidance, every sampler over whole trajectories."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from page_files import ask_page

from dreamcache.runtime.bundle.contract import GuidanceMode, SchedulerKind, SchedulerSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.guidance import Branch, Guidance
from dreamcache.runtime.sampling.noise import noise_source, noised_reference
from dreamcache.runtime.sampling.schedulers import make_scheduler
from dreamcache.runtime.sampling.trajectory import trajectory

COUNT = 48
SPECS = {
    "sd15": {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "steps_offset": 1},
    "v": {"beta_schedule": "linear", "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "linspace": {
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "set_alpha_to_one": True,
        "clip_sample": True,
        "clip_sample_range": 2.0,
    },
    "cosine": {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "epsilon",
        "sigma_spacing": "karras",
        "eta": 0.7,
    },
    "exponential": {
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "sigma_spacing": "exponential",
    },
    "karras": {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "sigma_spacing": "karras"},
    "sgm": {
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "sigma_spacing": "sgm_uniform",
        "eta": 0.0,
    },
    "zero": {
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
}
KINDS: tuple[SchedulerKind, ...] = get_args(SchedulerKind)


def spec(name: str) -> SchedulerSpec:
    return SchedulerSpec(**{"beta_start": 0.00085, "beta_end": 0.012, **SPECS[name]})  # type: ignore[arg-type]


def complete(config: SchedulerSpec) -> dict[str, Any]:
    """With the fields that the contract's text leaves out."""
    return {name: getattr(config, name) for name in SchedulerSpec.model_fields}


class Linear:
    """A denoiser whose prediction both sides can compute to the bit."""

    has_reference = True

    def predict(self, latent: Any, timestep: float, branches: Any, step: int = 0) -> list[Any]:  # noqa: ARG002
        places = np.arange(latent.size).reshape(latent.shape) % 7
        return [
            ((latent * ((places - k) / 8).astype(np.float32)).astype(np.float64) + timestep / 1024).astype(
                np.float32
            )
            for k in range(len(branches))
        ]


def guidance_case(mode: str = "dual") -> dict[str, Any]:
    return {"mode": mode, "guidance_scale": 1.75, "reference_guidance_scale": 0.4, "strength": 0.8}


def expected_trajectory(config: SchedulerSpec, kind: SchedulerKind, steps: int, seed: int) -> Any:
    try:
        scheduler = make_scheduler(config, kind, steps)
    except SettingsError:
        return None
    noise = noise_source(seed, (1, 1, 1, COUNT))
    found = trajectory(Linear(), scheduler, Guidance(**guidance_case()), noise)  # type: ignore[arg-type]
    latents = [x.ravel() for step in found for x in (step.latent, step.preview)]
    return scheduler.timesteps, np.array(latents, np.float64)


@pytest.mark.parametrize("name", SPECS)
def test_every_sampler_follows_pythons_trajectory(name: str) -> None:
    config = spec(name)
    runs = [(kind, steps, 7 + steps) for kind in KINDS for steps in (1, 4, 16)]
    cases = [
        {
            **{
                "ask": "trajectory",
                "scheduler": complete(config),
                "kind": kind,
                "steps": steps,
                "seed": seed,
            },
            **{"guidance": guidance_case(), "count": COUNT},
        }
        for kind, steps, seed in runs
    ]
    ran = 0
    for (kind, steps, seed), answer in zip(runs, ask_page(cases), strict=True):
        wanted = expected_trajectory(config, kind, steps, seed)
        assert ("error" in answer) == (wanted is None), (kind, steps, answer)
        if wanted is None:
            continue
        timesteps, latents = wanted
        np.testing.assert_allclose(answer["timesteps"], timesteps, rtol=1e-6, err_msg=f"{kind} {steps}")
        received = np.array(answer["latents"])
        assert received.shape == latents.shape
        scale = np.abs(latents).max()
        assert np.abs(received - latents).max() < 1e-5 * scale, (kind, steps)
        ran += 1
    assert ran >= 20
    # another sampler's trajectory is not this one's
    other, mine = expected_trajectory(config, "ddim", 4, 11), expected_trajectory(config, "euler", 4, 11)
    assert np.abs(other[1] - mine[1]).max() > 1e-3


def test_the_noise_of_a_seed_is_numpys() -> None:
    seeds = (0, 7, 2**32 + 5, 2**63 - 1)
    answers = ask_page(
        [{"ask": "noise", "seed": str(seed), "count": 4096, "draws": 2} for seed in seeds]
        + [
            {
                **{"ask": "noised", "latent": [0.5] * COUNT, "scheduler": complete(spec("sd15"))},
                "timestep": 1,
            }
        ]
    )
    for seed, answer in zip(seeds, answers, strict=False):
        draw = noise_source(seed, (1, 1, 1, 4096))
        expected = np.array([draw().ravel(), draw().ravel()])
        # a value in the tails may differ in its last bit, as logarithms do between machines
        assert (np.array(answer, np.float32) != expected).sum() <= 2
        np.testing.assert_allclose(answer, expected, rtol=2e-7)
    assert answers[0] != answers[1]
    latent = np.full((1, 1, 1, COUNT), 0.5, np.float32)
    np.testing.assert_allclose(answers[-1], noised_reference(latent, spec("sd15"), 1).ravel(), rtol=1e-6)


def test_guidance_is_pythons() -> None:
    generator = np.random.default_rng(3)
    predictions = generator.standard_normal((3, COUNT)).astype(np.float32)
    modes: tuple[GuidanceMode, ...] = get_args(GuidanceMode)
    cases, wanted = [], []
    for mode in modes:
        for reference in (True, False):
            ours = Guidance(**guidance_case(mode))
            asked = ours.branches(reference)
            cases.append({"ask": "branches", "guidance": guidance_case(mode), "reference": reference})
            wanted.append([Branch(one.text, one.strength) for one in asked])
            given = predictions[: len(asked)]
            listed = [one.tolist() for one in given]
            cases.append({"ask": "combine", "guidance": guidance_case(mode), "predictions": listed})
            wanted.append(ours.combine(list(given)))
    for case, answer, want in zip(cases, ask_page(cases), wanted, strict=True):
        if case["ask"] == "branches":
            assert [Branch(**one) for one in answer] == want
        else:
            np.testing.assert_array_equal(np.array(answer, np.float32), want)
