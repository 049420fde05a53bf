"""Few steps: LoRAs known by name or header, SDXL-Turbo and Lightning: each is diffusers' picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
)
from joined_files import UNET_LAYERS, as_kohya, lora_matrices
from safetensors.torch import load_file, save_file
from stock_pictures import EQUAL_DB, PROMPT, SEED
from tiny_models import MINI_SHAPED, save_scheduler, tiny_unet, write_tiny_base, write_tiny_sdxl

from dreamcache.export.declare.settings import DeclaredSettings, declare_settings
from dreamcache.export.errors import ExportError
from dreamcache.export.source import Source, random_adapters
from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.distillation import LCM_GUIDANCE_SCALE, FewSteps, guidance_embedding
from dreamcache.models.bases.joined.additions import Additions
from dreamcache.models.bases.joined.few_steps import recognise_few_steps
from dreamcache.models.checkpoint import base_fingerprint, save_adapters
from dreamcache.models.config import AdapterConfig
from dreamcache.models.errors import AdapterError
from dreamcache.models.walk.unet import walk
from dreamcache.runtime.bundle.sampling import GuidanceDefaults
from dreamcache.runtime.sampling.noise import noise_source
from dreamcache.runtime.sampling.schedulers import make_scheduler

Load = Callable[..., tuple[Source, DeclaredSettings]]


@pytest.fixture(name="load")
def _load(tiny_base: Path, tiny_adapters: Path) -> Load:
    def load(*loras: Path, **options: Any) -> tuple[Source, DeclaredSettings]:
        additions = Additions(loras=tuple(map(str, loras)))
        source = Source.load(str(tiny_base), tiny_adapters, additions=additions, **options)
        return source, declare_settings(source.base, source.conditioned.config, source.metadata)

    return load


@pytest.fixture(name="lora")
def _lora(tmp_path: Path) -> Callable[[str], Path]:
    def written(name: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(as_kohya(lora_matrices(tiny_unet(**MINI_SHAPED), UNET_LAYERS[:3]), {}), path)
        return path

    return written


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lcm-lora-sdv1-5", FewSteps("lcm")),
        ("LCM_LoRA_Weights_SD15", FewSteps("lcm")),
        ("models--latent-consistency--lcm-lora-sdv1-5/snapshots/0/pytorch_lora_weights", FewSteps("lcm")),
        ("TCD-SD15-LoRA", FewSteps("tcd")),
        ("Hyper-SD15-2steps-lora", FewSteps("hyper", 2)),
        ("Hyper-SD15-8steps-CFG-lora", FewSteps("hyper", 8, guidance_scale=5.0)),
        ("Hyper-SD15-1step-lora", FewSteps("tcd", eta=1.0)),
        ("lcm/style", None),
        ("calcium", None),
        ("hyperrealism_v2", None),
    ],
)
def test_names(name: str, expected: FewSteps | None, lora: Callable[[str], Path]) -> None:
    assert recognise_few_steps(lora(name)) == expected


def test_headers(lora: Callable[[str], Path]) -> None:
    path = lora("speed")
    save_file(load_file(path), path, metadata={"modelspec.title": "My LCM LoRA"})
    assert recognise_few_steps(path) == FewSteps("lcm")


@pytest.mark.parametrize(
    ("name", "kind", "theirs", "said"),
    [
        ("lcm-lora", LCMScheduler, {}, {}),
        ("TCD-LoRA", TCDScheduler, {}, {"eta": 0.3}),
        ("Hyper-SD15-1step", TCDScheduler, {}, {"eta": 1.0}),
        ("Hyper-SD15-4steps", DDIMScheduler, {"timestep_spacing": "trailing"}, {}),
        ("Hyper-SD15-8steps-CFG", DDIMScheduler, {"timestep_spacing": "trailing"}, {"guidance_scale": 5.0}),
    ],
)
def test_pictures_are_diffusers(
    name: str,
    kind: Any,
    theirs: dict[str, Any],
    said: dict[str, float],
    load: Load,
    lora: Callable[[str], Path],
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole trajectories, as the model cards' lines of diffusers draw them."""
    source, settings = load(lora(name))
    scale = said.get("guidance_scale", 1.0)
    assert settings.guidance.steps == (8 if "8" in name else 4)
    assert (settings.guidance.mode, settings.guidance.guidance_scale) == (
        "none" if scale == 1 else "dual",
        scale,
    )
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.load_lora_weights(str(lora(name)))
    pipeline.fuse_lora()
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **theirs)
    eta = {"eta": said["eta"]} if "eta" in said else {}
    drawn = _theirs(pipeline, monkeypatch, settings.guidance.steps, guidance_scale=scale, **eta)
    assert decibels(_ours(source.base, settings), drawn) >= EQUAL_DB
    # What the same steps give that are sampled as the base was.
    other = GuidanceDefaults(mode=settings.guidance.mode, guidance_scale=scale, steps=settings.guidance.steps)
    plain = settings.scheduler.model_copy(update={"timestep_spacing": "leading"})
    changed = replace(settings, guidance=other, scheduler=plain)
    assert decibels(_ours(source.base, changed), drawn) < 50


def _theirs(pipeline: Any, monkeypatch: pytest.MonkeyPatch, steps: int, **options: float) -> Any:
    """diffusers' picture of the runner's noise."""
    noise = noise_source(SEED, (1, 4, 8, 8))
    start = torch.from_numpy(noise().copy())
    module = import_module(type(pipeline.scheduler).__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(noise()))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(PROMPT, num_inference_steps=steps, latents=start, output_type="np", **options).images[0]


@torch.no_grad()
def _ours(base: Base, settings: DeclaredSettings, steps: int | None = None) -> Any:
    """The base's picture in PyTorch, sampled by the runner's own code as the contract says."""
    guidance = settings.guidance
    draw = noise_source(SEED, (1, 4, 8, 8))
    scheduler = make_scheduler(settings.scheduler, guidance.scheduler, steps or guidance.steps)
    latent, texts = draw() * scheduler.init_noise_sigma, base.condition(["", PROMPT], (32, 32))
    for i, timestep in enumerate(scheduler.timesteps):
        scaled = torch.from_numpy(scheduler.scale_input(latent, i)).float().repeat(2, 1, 1, 1)
        time = torch.tensor(float(timestep))
        null, prompted = base.unet(scaled, time, texts.text, added_cond_kwargs=texts.added).sample.chunk(2)
        predicted = null + guidance.guidance_scale * (prompted - null)
        latent = scheduler.step(predicted.numpy(), i, latent, draw)
    decoded = base.decode_latents(torch.from_numpy(np.asarray(latent, np.float32)))
    return torch.clamp(decoded / 2 + 0.5, 0, 1)[0].permute(1, 2, 0).numpy()


def decibels(ours: Any, theirs: Any) -> float:
    """PSNR of pictures of 0 to 1."""
    return float(min(99.0, -10 * np.log10(np.mean((ours - theirs) ** 2) + 1e-12)))


@pytest.fixture(scope="module", name="sdxl")
def _sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny")


@pytest.mark.parametrize(
    ("kind", "saved", "steps"),
    [
        # SDXL-Turbo's own scheduler config.
        (EulerAncestralDiscreteScheduler, True, 1),
        (EulerAncestralDiscreteScheduler, True, 4),
        # Lightning's UNet in a folder with its scheduler, and in one with the base's own.
        (EulerDiscreteScheduler, True, 2),
        (EulerDiscreteScheduler, True, 8),
        (EulerDiscreteScheduler, False, 4),
    ],
)
def test_turbo_and_lightning_of_sdxl(
    kind: Any, saved: bool, steps: int, sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
    theirs.scheduler = kind.from_config(theirs.scheduler.config, timestep_spacing="trailing")
    folder = sdxl
    if saved:
        folder = shutil.copytree(sdxl, tmp_path / "base")
        save_scheduler(folder, theirs.scheduler)
    base = load_base(folder, sampling=None if saved else "turbo")
    assert base.sampling == "turbo"
    settings = declare_settings(base, AdapterConfig(), {})
    said = settings.guidance
    own = "euler" if kind is EulerDiscreteScheduler else "euler_a"
    assert (said.mode, said.steps, said.scheduler) == ("none", 4, own)
    drawn = _theirs(theirs, monkeypatch, steps, guidance_scale=0.0)
    assert decibels(_ours(base, settings, steps), drawn) >= EQUAL_DB
    leading = settings.scheduler.model_copy(update={"timestep_spacing": "leading"})
    assert decibels(_ours(base, replace(settings, scheduler=leading), steps), drawn) < 50


def test_lightning_in_one_step_is_refused(sdxl: Path, tmp_path: Path) -> None:
    """Its UNet predicts the picture itself."""
    folder = shutil.copytree(sdxl, tmp_path / "base")
    trailing = {"timestep_spacing": "trailing", "prediction_type": "sample"}
    save_scheduler(folder, EulerDiscreteScheduler(**trailing))
    with pytest.raises(AdapterError, match="prediction_type 'sample', expected one of epsilon") as raised:
        load_base(folder)
    assert "\n" not in str(raised.value)


def test_what_comes_before_what(load: Load, lora: Callable[[str], Path]) -> None:
    lcm, tcd, style = lora("lcm-lora"), lora("tcd-lora"), lora("style")
    source, settings = load(style)
    assert source.base.few_steps is None
    assert (settings.guidance.steps, settings.guidance.scheduler) == (50, "ddim")
    recommended = {
        "guidance": json.dumps({"steps": 9, "scheduler": "euler", "reference_guidance_scale": 0.7})
    }
    source, _ = load(style, lcm)
    said = declare_settings(source.base, source.conditioned.config, recommended).guidance
    assert (said.scheduler, said.steps, said.mode) == ("lcm", 4, "none")
    assert said.reference_guidance_scale == 0.7
    said = declare_settings(source.base, source.conditioned.config, recommended, "euler_a").guidance
    assert (said.scheduler, said.steps) == ("euler_a", 4)
    assert load(lcm, sampling="standard")[1].guidance.steps == 50
    _, settings = load(style, sampling="turbo")
    assert (settings.guidance.scheduler, settings.scheduler.timestep_spacing) == ("euler", "trailing")
    with pytest.raises(ExportError, match=r"one way of sampling .* received 2 \(lcm, tcd\)") as raised:
        load(lcm, tcd)
    assert "\n" not in str(raised.value)


@torch.no_grad()
def test_the_time_embedding_of_a_folded_base(tmp_path: Path) -> None:
    """The LoRA of linear_1 counts for the guidance that was folded into its bias."""
    shape = {**MINI_SHAPED, "time_cond_proj_dim": 20}
    folder = write_tiny_base(tmp_path / "lcm", unet=shape)
    save_scheduler(folder, LCMScheduler())
    adapters = tmp_path / "adapters.safetensors"
    save_adapters(adapters, random_adapters(load_base(folder)))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    names = ("time_embedding.linear_1", "time_embedding.linear_2", UNET_LAYERS[0])
    save_file(as_kohya(lora_matrices(pipeline.unet, names, scale=1.0), {}), tmp_path / "a.safetensors")
    plain = Source.load(str(folder), adapters)
    source = Source.load(str(folder), adapters, additions=Additions(loras=(str(tmp_path / "a.safetensors"),)))
    assert source.fingerprint == base_fingerprint(plain.base.unet)
    pipeline.load_lora_weights(str(tmp_path / "a.safetensors"))
    pipeline.fuse_lora()
    latent, text, timestep = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32), torch.tensor([499])
    condition = guidance_embedding(LCM_GUIDANCE_SCALE, 20).float()[None]
    expected = pipeline.unet(latent, timestep, text, timestep_cond=condition).sample
    torch.testing.assert_close(walk(source.base.unet, latent, timestep, text), expected, atol=1e-5, rtol=1e-4)
    assert (walk(plain.base.unet, latent, timestep, text) - expected).abs().max() > 1e-2
