"""The whole way on the tiny bundle: repeatability, batches, settings, cancelling, memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from dreamcache.runtime import Pipeline, Subject
from dreamcache.runtime.bundle.contract import SchedulerKind
from dreamcache.runtime.errors import ImageError, SettingsError
from dreamcache.runtime.sampling.schedulers.noise_schedule import signal_levels
from dreamcache.runtime.sessions.providers import ProviderWarning, warn_of_attention

PROMPT = "a robot on the beach"


@pytest.fixture(scope="module")
def pipeline(pristine: Path) -> Pipeline:
    return Pipeline.load(pristine, threads=1)


@pytest.fixture(scope="module")
def subject(pipeline: Pipeline, toy: Path) -> Subject:
    return pipeline.cache(toy)


def _distance(one: Image.Image, two: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(two, np.float32)).mean())


def test_the_same_seed_gives_the_same_picture(pipeline: Pipeline, subject: Subject) -> None:
    one = pipeline.generate(PROMPT, subject, steps=3, seed=7)
    assert one.size == (16, 16)
    assert one.tobytes() == pipeline.generate(PROMPT, subject, steps=3, seed=7).tobytes()
    assert _distance(one, pipeline.generate(PROMPT, subject, steps=3, seed=8)) > 1


def test_reference_text_and_strength_each_count(pipeline: Pipeline, subject: Subject) -> None:
    options: dict[str, Any] = {"steps": 3, "seed": 7, "guidance_scale": 5.0, "reference_guidance_scale": 3.0}
    full = pipeline.generate(PROMPT, subject, **options)
    assert _distance(full, pipeline.generate(PROMPT, **options)) > 0.05
    assert _distance(full, pipeline.generate("the toy", subject, **options)) > 0.05
    assert _distance(full, pipeline.generate(PROMPT, subject, strength=0.3, **options)) > 0.01
    stock = pipeline.generate(PROMPT, subject, strength=0.0, **options)
    assert stock.tobytes() == pipeline.generate(PROMPT, **options).tobytes()


@pytest.mark.parametrize(
    "scheduler",
    ["ddim", "euler", "dpm", "lcm", "euler_a", "heun", "dpmpp_2m_sde", "unipc", "deis", "tcd", "pndm"],
)
@pytest.mark.parametrize("batch", [2, 4])
def test_any_batch_of_the_graph_gives_the_same_pictures(
    pipeline: Pipeline,
    subject: Subject,
    tiny: ModuleType,
    tmp_path: Path,
    toy: Path,
    batch: int,
    scheduler: SchedulerKind,
) -> None:
    wide = Pipeline.load(tiny.build(tmp_path / "wide", batch=batch), threads=1)
    pictures = wide.generate(PROMPT, wide.cache(toy), num_images=3, steps=3, seed=5, scheduler=scheduler)
    for index, picture in enumerate(pictures):
        alone = pipeline.generate(PROMPT, subject, steps=3, seed=5 + index, scheduler=scheduler)
        assert np.abs(np.asarray(alone, np.int16) - np.asarray(picture, np.int16)).max() <= 1


def test_a_number_of_pictures_is_a_list(pipeline: Pipeline, subject: Subject) -> None:
    pictures = pipeline.generate(PROMPT, subject, num_images=1, steps=1, seed=7)
    assert isinstance(pictures, list)
    assert pictures[0].tobytes() == pipeline.generate(PROMPT, subject, steps=1, seed=7).tobytes()


def test_the_reference_is_noised_to_the_cache_timestep(pipeline: Pipeline) -> None:
    latent = np.ones((1, 4, 4, 4), np.float32)
    noise = np.random.default_rng(0).standard_normal((1, 4, 4, 4), dtype=np.float32)
    signal = signal_levels(pipeline.contract.scheduler)[1]
    expected = np.sqrt(signal) * latent + np.sqrt(1 - signal) * noise
    np.testing.assert_allclose(pipeline.noised(latent), expected, rtol=1e-6)


def test_latents_are_scaled_and_shifted_both_ways(pipeline: Pipeline, pristine: Path, toy: Path) -> None:
    spec = pipeline.contract.graphs.vae_encoder
    session = onnxruntime.InferenceSession(str(pristine / spec.file), providers=["CPUExecutionProvider"])
    image = Image.open(toy).convert("RGB").resize((16, 16))
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    moments = session.run(None, {"sample": pixels})[0]
    np.testing.assert_allclose(pipeline.encode(image), (moments[:, :4] - 0.1) * 0.5, rtol=1e-5, atol=1e-6)


def test_steps_come_one_by_one_with_previews(pipeline: Pipeline, subject: Subject) -> None:
    steps = list(pipeline.denoise(PROMPT, subject, steps=4, seed=1))
    assert [(step.index, step.total) for step in steps] == [(index, 4) for index in range(4)]
    timesteps = [step.timestep for step in steps]
    assert timesteps == sorted(timesteps, reverse=True)
    assert steps[0].preview.shape == steps[0].latent.shape == (1, 4, 4, 4)
    final = pipeline.decode(steps[-1].latent)[0]
    assert final.tobytes() == pipeline.generate(PROMPT, subject, steps=4, seed=1).tobytes()


def _open_sessions() -> int:
    gc.collect()
    return sum(isinstance(thing, onnxruntime.InferenceSession) for thing in gc.get_objects())


def test_only_the_running_stage_is_in_memory(pipeline: Pipeline, toy: Path) -> None:
    before = _open_sessions()
    subject = pipeline.cache(toy)
    assert _open_sessions() == before
    steps = pipeline.denoise(PROMPT, subject, steps=4, seed=1)
    next(steps)
    assert _open_sessions() == before + 1
    steps.close()  # type: ignore[attr-defined]  # cancelling
    assert _open_sessions() == before


def test_kept_sessions_give_the_same_pictures(pipeline: Pipeline, pristine: Path, toy: Path) -> None:
    before = _open_sessions()
    kept = Pipeline.load(pristine, threads=1, keep_sessions=True)
    subject = kept.cache(toy)
    pictures = [kept.generate(PROMPT, subject, steps=2, seed=7).tobytes() for _ in range(2)]
    assert pictures == [pipeline.generate(PROMPT, subject, steps=2, seed=7).tobytes()] * 2
    assert _open_sessions() == before + 5
    del kept
    assert _open_sessions() == before


def test_stages_report_their_seconds(pristine: Path, toy: Path) -> None:
    seen: list[str] = []
    pipeline = Pipeline.load(
        pristine, observe=lambda stage, seconds: seen.append(stage) if seconds > 0 else None
    )
    pipeline.generate(PROMPT, pipeline.cache(toy), steps=2, seed=0)
    assert seen == ["vae_encode", "cache", "text", "step", "step", "vae_decode"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: .* received 0"),
        ({"steps": -3}, "steps: .* received -3"),
        ({"steps": 2.5}, "steps: .* received 2.5"),
        ({"steps": 1001}, "steps: .* received 1001"),
        ({"seed": -1}, "seed: .* received -1"),
        ({"seed": 1.5}, "seed: .* received 1.5"),
        ({"num_images": 0}, "num_images: .* received 0"),
        ({"scheduler": "plms"}, "scheduler: .* received 'plms'"),
        ({"guidance_mode": "triple"}, "guidance mode: .* received 'triple'"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
    ],
)
def test_settings_are_refused_before_anything_runs(
    pipeline: Pipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        pipeline.denoise(PROMPT, **options)


def test_defaults_come_from_the_contract(pipeline: Pipeline, subject: Subject) -> None:
    chosen = pipeline.generate(PROMPT, subject, seed=1, steps=4, guidance_scale=3.0, scheduler="ddim")
    assert chosen.tobytes() == pipeline.generate(PROMPT, subject, seed=1).tobytes()
    zero = pipeline.generate(PROMPT, subject, seed=1, guidance_scale=0.0)
    assert zero.tobytes() != chosen.tobytes()


def test_providers_and_threads_are_checked(pristine: Path) -> None:
    assert Pipeline.load(pristine, providers=["CPU"]).sessions.providers == ("CPUExecutionProvider",)
    assert Pipeline.load(pristine, providers=["CPUExecutionProvider"], threads=2).sessions.threads == 2
    with pytest.raises(
        SettingsError, match=r"provider 'abacus' is not in this onnxruntime, which has: .*cpu"
    ):
        Pipeline.load(pristine, providers=["abacus"])
    with pytest.raises(SettingsError, match="at least one provider"):
        Pipeline.load(pristine, providers=[])
    with pytest.raises(SettingsError, match="threads"):
        Pipeline.load(pristine, threads=0)


@pytest.mark.parametrize(
    ("attention", "provider", "warned"),
    [
        ("multi_head_attention", "CoreMLExecutionProvider", 1),
        ("plain", "CoreMLExecutionProvider", 0),
        ("multi_head_attention", "CPUExecutionProvider", 0),
    ],
)
def test_attention_that_a_provider_lacks_is_said(
    pipeline: Pipeline, attention: str, provider: str, warned: int
) -> None:
    contract = pipeline.contract.model_copy(update={"attention": attention})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warn_of_attention(contract, [provider])
    assert [warning.category for warning in seen] == [ProviderWarning] * warned


def test_a_reference_that_is_absent(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        pipeline.cache(tmp_path / "absent.png")


def test_pictures_are_made_where_there_is_no_torch(pristine: Path, toy: Path) -> None:
    program = f"""
import sys
for name in ("torch", "transformers", "diffusers", "onnx"):
    sys.modules[name] = None
import dreamcache.runtime
heavy = [n for n in ("onnxruntime", "numpy", "pydantic", "tokenizers") if n in sys.modules]
assert not heavy, heavy
import dreamcache.runtime.cli.main, dreamcache.runtime.cli.generate, dreamcache.runtime.checks
from dreamcache.runtime import Pipeline
pipe = Pipeline.load({str(pristine)!r}, threads=1)
image = pipe.generate("a robot", pipe.cache({str(toy)!r}), steps=2, seed=0)
assert image.size == (16, 16)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
