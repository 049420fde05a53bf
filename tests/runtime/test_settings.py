"""Settings of other types are refused by name, and those without effect are said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.settings import SettingsWarning


@pytest.fixture(scope="module")
def pipeline(pristine: Path) -> Pipeline:
    return Pipeline.load(pristine)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": ["a", "b"]}, "prompt: one text is expected, received list"),
        ({"prompt": None}, "prompt: one text is expected, received NoneType"),
        ({"prompt": b"\xff"}, "prompt: one text is expected, received bytes"),
        ({"prompt": "\udcff"}, r"prompt: text that UTF-8 can hold .* half a character \('.udcff'\); read"),
        ({"negative_prompt": 3}, "negative_prompt: one text is expected, received int"),
        ({"subject": "toy.png"}, "subject: a Subject is expected, received str"),
        ({"subject": Path("toy.subject.safetensors")}, "a Subject is expected, received .*Path"),
        ({"subject": [None]}, "a Subject is expected, received NoneType"),
        ({"guidance_interval": (0.2,)}, r"received \(0.2,\)"),
        ({"guidance_interval": 0.5}, "two fractions of the steps"),
        ({"guidance_interval": "01"}, "two fractions of the steps"),
        ({"guidance_interval": ("0", "1")}, "guidance interval: a number is expected, received '0'"),
        ({"guidance_interval": (float("nan"), 1)}, "0 to 1 and rising"),
        ({"guidance_scale": "7"}, "guidance_scale: a number is expected, received '7'"),
        ({"strength": [1]}, "strength: a number is expected"),
        ({"strength": True}, "strength: a number is expected, received True"),
        ({"reference_guidance_scale": 1j}, "reference_guidance_scale: a number is expected"),
        ({"steps": "4"}, "steps: a whole number"),
        ({"seed": 1.5}, "seed: a whole number"),
        ({"scheduler": 4}, "scheduler: one of"),
        ({"guidance_mode": ["dual"]}, "guidance mode: one of"),
        ({"sigma_spacing": 0}, "sigma spacing: one of"),
        ({"num_images": "2"}, "num_images: a whole number"),
    ],
)
def test_other_types_are_refused_by_name(pipeline: Pipeline, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        pipeline.denoise(**{"prompt": "a toy", "steps": 1, **changed})


def test_what_the_signature_promises_is_taken(pipeline: Pipeline, toy: Path) -> None:
    subject = pipeline.cache(toy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in (
            {"negative_prompt": None, "guidance_interval": None, "steps": np.int64(1)},
            {"guidance_interval": [0, np.float32(1)], "guidance_scale": np.float64(2), "strength": 1},
            {"negative_prompt": "snow", "guidance_mode": "classic"},
            {"reference_guidance_scale": 1.5, "guidance_mode": "dual"},
        ):
            assert len(list(pipeline.denoise("a toy", (subject,), **{"steps": 1, "seed": 0, **options}))) == 1


@pytest.mark.parametrize(
    ("options", "with_subject", "said"),
    [
        (
            {"negative_prompt": "snow", "guidance_mode": "none"},
            True,
            "negative_prompt has no effect: guidance is off",
        ),
        ({"negative_prompt": "snow", "guidance_interval": (0.9, 0.9)}, True, "guidance is off"),
        (
            {"negative_prompt": "x", "guidance_mode": "classic", "guidance_scale": 1.0},
            True,
            "scale of 1 cancels it",
        ),
        ({"guidance_scale": 3.0, "guidance_mode": "none"}, True, "guidance_scale has no effect"),
        ({"guidance_interval": (0.0, 0.5), "guidance_mode": "none"}, True, "guidance_interval has no effect"),
        ({"reference_guidance_scale": 2.0, "guidance_mode": "classic"}, True, "guidance is classic"),
        ({"reference_guidance_scale": 2.0}, False, "there is no subject"),
        ({"strength": 0.5}, False, "strength has no effect: there is no subject"),
    ],
)
def test_settings_without_effect_are_said_in_one_line(
    pipeline: Pipeline, toy: Path, options: dict[str, Any], with_subject: bool, said: str
) -> None:
    """And truly have none: the same latent without them."""
    subject = pipeline.cache(toy) if with_subject else None
    with pytest.warns(SettingsWarning, match=said) as warned:
        steps = pipeline.denoise("a toy", subject, steps=2, seed=1, **options)
    assert len(warned) == 1
    name = said.partition(" ")[0] if " has no effect" in said else next(iter(options))
    rest = {key: value for key, value in options.items() if key != name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = pipeline.denoise("a toy", subject, steps=2, seed=1, **rest)
    for one, other in zip(steps, plain, strict=True):
        np.testing.assert_allclose(one.latent, other.latent, atol=1e-5)
