"""Few-step LoRAs: recognised by name or header, sampled as their authors say, and diffusers' picture in 4 steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, TCDScheduler
from joined_files import UNET_LAYERS, as_kohya, lora_matrices
from safetensors.torch import load_file, save_file
from stock_pictures import EQUAL_DB, PROMPT, SEED
from tiny_models import MINI_SHAPED, tiny_unet, write_tiny_base

from dreamcache.export.declare.settings import DeclaredSettings, declare_settings
from dreamcache.export.errors import ExportError
from dreamcache.export.source import Source, random_adapters
from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.distillation import LCM_GUIDANCE_SCALE, FewSteps, guidance_embedding
from dreamcache.models.bases.joined.additions import Additions
from dreamcache.models.bases.joined.few_steps import recognise_few_steps
from dreamcache.models.checkpoint import base_fingerprint, save_adapters
from dreamcache.models.unet import walk
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
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(lora(name)))
    pipeline.fuse_lora()
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **theirs)
    noise = noise_source(SEED, (1, 4, 8, 8))
    start = noise()
    module = import_module(kind.__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(noise()))
    drawn = pipeline(
        PROMPT,
        num_inference_steps=settings.guidance.steps,
        guidance_scale=scale,
        latents=torch.from_numpy(start.copy()),
        output_type="np",
        **({"eta": said["eta"]} if "eta" in said else {}),
    ).images[0]
    assert decibels(_ours(source, settings), drawn) >= EQUAL_DB
    # What the same steps give that are sampled as the base was.
    other = GuidanceDefaults(mode=settings.guidance.mode, guidance_scale=scale, steps=settings.guidance.steps)
    plain = settings.scheduler.model_copy(update={"timestep_spacing": "leading"})
    changed = {"guidance": other, "scheduler": plain}
    assert decibels(_ours(source, DeclaredSettings(**{**vars(settings), **changed})), drawn) < 50


@torch.no_grad()
def _ours(source: Source, settings: DeclaredSettings) -> Any:
    base, guidance = source.base, settings.guidance
    draw = noise_source(SEED, (1, 4, 8, 8))
    scheduler = make_scheduler(settings.scheduler, guidance.scheduler, guidance.steps)
    latent, text = draw() * scheduler.init_noise_sigma, base.encode_text(["", PROMPT])
    for i, timestep in enumerate(scheduler.timesteps):
        scaled = torch.from_numpy(scheduler.scale_input(latent, i)).float().repeat(2, 1, 1, 1)
        null, prompted = walk(base.unet, scaled, torch.tensor(float(timestep)), text).chunk(2)
        predicted = null + guidance.guidance_scale * (prompted - null)
        latent = scheduler.step(predicted.numpy(), i, latent, draw)
    decoded = base.decode_latents(torch.from_numpy(np.asarray(latent, np.float32)))
    return torch.clamp(decoded / 2 + 0.5, 0, 1)[0].permute(1, 2, 0).numpy()


def decibels(ours: Any, theirs: Any) -> float:
    """PSNR of pictures of 0 to 1."""
    return float(min(99.0, -10 * np.log10(np.mean((ours - theirs) ** 2) + 1e-12)))


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
