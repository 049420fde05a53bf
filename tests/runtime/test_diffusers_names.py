"""The names that diffusers' pipelines have for settings are taken, and mean the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreamcache.runtime import Pipeline, SettingsError

PROMPT = "a robot"


@pytest.fixture(scope="module")
def pipeline(pristine: Path) -> Pipeline:
    return Pipeline.load(pristine, threads=1)


def seeded(seed: int) -> object:
    """What of torch.Generator is used."""
    return SimpleNamespace(initial_seed=lambda: seed)


def test_their_names_draw_the_same_picture(pipeline: Pipeline) -> None:
    ours = pipeline.generate(PROMPT, steps=2, seed=3)
    assert pipeline.generate(PROMPT, num_inference_steps=2, generator=seeded(3)) == ours
    assert pipeline.generate(PROMPT, num_inference_steps=2, generator=3) == ours
    assert pipeline.generate(PROMPT, num_inference_steps=2, generator=seeded(4)) != ours
    several: Any = pipeline.generate(PROMPT, num_inference_steps=2, generator=3, num_images_per_prompt=2)
    assert [isinstance(one, Image.Image) for one in several] == [True, True]
    assert several[0] == ours


def test_the_callback_sees_every_step_and_can_end_the_drawing(pipeline: Pipeline) -> None:
    seen: list[tuple[int, float]] = []

    def look(pipe: Pipeline, index: int, timestep: float, given: dict[str, Any]) -> dict[str, Any]:
        assert pipe is pipeline
        assert given["latents"].shape[0] == 1
        seen.append((index, timestep))
        if len(seen) > 3:
            raise InterruptedError
        return given

    pipeline.generate(PROMPT, steps=3, seed=3, callback_on_step_end=look)
    assert [index for index, _ in seen] == [0, 1, 2]
    assert np.all(np.diff([timestep for _, timestep in seen]) < 0)
    with pytest.raises(InterruptedError):
        pipeline.generate(PROMPT, steps=3, seed=3, callback_on_step_end=look)


@pytest.mark.parametrize(
    "options", [{"steps": 2, "num_inference_steps": 2}, {"generator": object()}, {"seed": 1, "generator": 1}]
)
def test_two_names_at_once_and_other_generators_are_refused(pipeline: Pipeline, options: Any) -> None:
    with pytest.raises(SettingsError, match="expected, received"):
        pipeline.generate(PROMPT, **options)
