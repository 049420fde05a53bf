"""What saves denoiser calls: guidance in an interval of steps, step caching, a subject that is cached once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from dreamcache.runtime import Pipeline, Subject
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.guidance import Branch, Guidance
from dreamcache.runtime.sessions.session import GraphSession, SessionOpener

PROMPT = "a robot on the beach"


class Counting(SessionOpener):
    """The real opener; counts how often each graph is opened and run."""

    @contextmanager
    def open(self, name: str) -> Iterator[GraphSession]:
        counts = CALLS[-1]
        counts[f"open {name}"] = counts.get(f"open {name}", 0) + 1
        with super().open(name) as graph:
            run = graph.run

            def counted(inputs: Any, wanted: Sequence[str] | None = None) -> dict[str, Any]:
                counts[name] = counts.get(name, 0) + 1
                return run(inputs, wanted)

            graph.run = counted  # type: ignore[method-assign]  # watched, not replaced
            yield graph


CALLS: list[dict[str, int]] = [{}]
"""Of each test that asks for `calls`, after those of nobody."""


@pytest.fixture
def calls() -> dict[str, int]:
    CALLS.append({})
    return CALLS[-1]


@pytest.fixture(scope="module")
def pipeline(pristine: Path) -> Pipeline:
    loaded = Pipeline.load(pristine, threads=1)
    return Pipeline(loaded.bundle, Counting(loaded.bundle, ("CPUExecutionProvider",), 1))


@pytest.fixture(scope="module")
def subject(pristine: Path, toy: Path) -> Subject:
    return Pipeline.load(pristine, threads=1).cache(toy)


def final(pipeline: Pipeline, subject: Subject | None, **options: Any) -> np.ndarray:
    *_, last = pipeline.denoise(PROMPT, subject, **{"steps": 10, "seed": 3, **options})
    return last.latent


@pytest.mark.parametrize(("mode", "branches"), [("dual", 3), ("classic", 2)])
def test_outside_the_interval_there_is_one_prediction(
    pipeline: Pipeline, subject: Subject, calls: dict[str, int], mode: Any, branches: int
) -> None:
    full = final(pipeline, subject, guidance_mode=mode)
    assert calls["denoiser"] == 10 * branches
    calls["denoiser"] = 0
    whole = final(pipeline, subject, guidance_mode=mode, guidance_interval=(0.0, 1.0))
    assert calls["denoiser"] == 10 * branches
    assert np.array_equal(full, whole)
    calls["denoiser"] = 0
    some = final(pipeline, subject, guidance_mode=mode, guidance_interval=(0.2, 0.8))
    assert calls["denoiser"] == 6 * branches + 4
    assert np.abs(some - full).max() > 1e-3
    calls["denoiser"] = 0
    none = final(pipeline, subject, guidance_mode=mode, guidance_interval=(0.0, 0.0))
    assert calls["denoiser"] == 10
    assert np.array_equal(none, final(pipeline, subject, guidance_mode="none"))


def test_the_middle_of_a_step_decides() -> None:
    guidance = Guidance("classic", 3.0, 0.4, 1.0, (0.25, 0.5))
    guided = [len(guidance.branches_at(step, 4, True)) == 2 for step in range(4)]
    assert guided == [False, True, False, False]
    assert guidance.branches_at(0, 4, False) == (Branch("prompt", 0.0),)
    assert guidance.branches_at(0, 4, True) == (Branch("prompt", 1.0),)


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)])
def test_a_bad_interval_is_named(pipeline: Pipeline, interval: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match="guidance interval: two fractions"):
        pipeline.denoise(PROMPT, guidance_interval=interval)


def test_whole_steps_come_at_a_uniform_interval(
    pipeline: Pipeline, subject: Subject, calls: dict[str, int]
) -> None:
    final(pipeline, subject, step_cache=3)  # steps 0, 3, 6 and 9 of 10, three branches each
    assert (calls["denoiser"], calls["shallow"]) == (4 * 3, 6 * 3)
    assert (calls["open denoiser"], calls["open shallow"]) == (1, 1)


def test_a_step_cache_of_one_is_the_plain_path(
    pipeline: Pipeline, subject: Subject, calls: dict[str, int]
) -> None:
    assert np.array_equal(final(pipeline, subject, step_cache=1), final(pipeline, subject))
    assert "open shallow" not in calls
    cached = final(pipeline, subject, step_cache=2)
    distance = np.abs(cached - final(pipeline, subject)).max()
    assert 1e-4 < distance < 0.5


def test_each_branch_and_picture_has_its_own_deep_features(
    pipeline: Pipeline, subject: Subject, tiny: ModuleType, tmp_path: Path, toy: Path
) -> None:
    """Several pictures in batches of two, whose last one is padded, are the pictures made alone."""
    wide = Pipeline.load(tiny.build(tmp_path / "wide", batch=2), threads=1)
    together = final(wide, wide.cache(toy), step_cache=3, num_images=3)
    for index in range(3):
        alone = final(pipeline, subject, step_cache=3, seed=3 + index)
        np.testing.assert_allclose(together[index], alone[0], rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_a_shallow_step_at_the_same_inputs_is_the_whole_one(pristine: Path, subject: Subject) -> None:
    """What the shallow graph is given comes from the denoiser's own second output."""
    pipeline = Pipeline.load(pristine, threads=1)
    random = np.random.default_rng(0)
    graphs = pipeline.contract.graphs
    assert graphs.shallow is not None
    feed = {
        "latent": random.standard_normal((1, 4, 4, 4), dtype=np.float32),
        "timestep": np.array([500], np.float32),
        "text": random.standard_normal((1, 8, 6), dtype=np.float32),
        "reference_strength": np.ones(1, np.float32),
        **subject.tensors,
    }
    with pipeline.sessions.open("denoiser") as whole, pipeline.sessions.open("shallow") as shallow:
        given = whole.run(feed)
        again = shallow.run({**feed, "deep": given["deep"]})["prediction"]
        other = shallow.run({**feed, "deep": np.zeros_like(given["deep"])})["prediction"]
    np.testing.assert_allclose(again, given["prediction"], rtol=1e-5, atol=1e-6)
    assert np.abs(other - given["prediction"]).max() > 1e-3


def test_guidance_that_begins_between_whole_steps_runs_whole(
    pipeline: Pipeline, subject: Subject, calls: dict[str, int]
) -> None:
    """Steps 0-4 have one branch, 5-9 three; step 5 is no multiple of 4 but has branches without features."""
    final(pipeline, subject, step_cache=4, guidance_interval=(0.5, 1.0))
    assert calls["denoiser"] == 1 + 1 + 3 + 3
    assert calls["shallow"] == 3 + 0 + 2 * 3 + 3


def test_step_caching_needs_a_shallow_graph(tiny: ModuleType, tmp_path: Path) -> None:
    bare = Pipeline.load(tiny.build(tmp_path / "bare", shallow=False), threads=1)
    assert len(list(bare.denoise(PROMPT, step_cache=1, steps=2, seed=0))) == 2
    with pytest.raises(SettingsError, match="step_cache: this bundle has no shallow graph"):
        bare.denoise(PROMPT, step_cache=2)
    with pytest.raises(SettingsError, match="step_cache: a whole number from 1"):
        bare.denoise(PROMPT, step_cache=0)


def test_strength_0_opens_the_denoiser_and_not_the_plain_graph(
    pipeline: Pipeline, subject: Subject, calls: dict[str, int]
) -> None:
    final(pipeline, subject, strength=0.0)
    assert "open plain" not in calls


def test_a_subject_file_never_opens_the_caching_graph(
    bundle: Path, toy: Path, tmp_path: Path, calls: dict[str, int]
) -> None:
    loaded = Pipeline.load(bundle, threads=1)
    loaded.cache(toy).save(tmp_path / "toy.subject.safetensors")
    pipeline = Pipeline(loaded.bundle, Counting(loaded.bundle, ("CPUExecutionProvider",), 1))
    subject = pipeline.load_subject(tmp_path / "toy.subject.safetensors")
    for needless in ("unet/cache.onnx", "vae_encoder/model.onnx"):
        (bundle / needless).unlink()
    assert len(pipeline.generate(PROMPT, subject, num_images=3, steps=2, seed=0)) == 3
    assert {name: count for name, count in calls.items() if name.startswith("open")} == {
        "open text_encoder": 1,
        "open denoiser": 1,
        "open vae_decoder": 1,
    }
    with pytest.raises(Exception, match=r"vae_encoder/model\.onnx is missing"):
        pipeline.cache(toy)


def test_the_tiny_plain_graph_is_the_stock_model(pristine: Path) -> None:
    names = {
        info.name for info in onnx.load(pristine / "unet/plain.onnx", load_external_data=False).graph.input
    }
    assert names == {"latent", "timestep", "text"}
