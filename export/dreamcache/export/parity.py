"""The gates: an export that does not compute what PyTorch does is not written.

Inputs are those of real denoising trajectories: latents that PyTorch's own DDIM visits under guidance, and
references that went through the VAE. The denoiser runs through the runner's own code. Gates (DESIGN.md):
every graph at least 80 dB; the condition's size within 5 %; a zeroed or swapped cache changes the
prediction; strength 0 is the stock base whatever the cache; two graphs at most 1.05 times the disk of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.export.errors import ExportError
from dreamcache.export.gates import (
    MAX_DB,
    Finding,
    check_condition,
    check_disk,
    check_psnr,
    check_sensitivity,
    psnr_db,
)
from dreamcache.models.base import Base
from dreamcache.models.caching import cache_reference, noise_reference
from dreamcache.models.conditioned import Cache, ConditionedUNet
from dreamcache.models.pipeline import CACHE_NOISE_SEED, draw_noise
from dreamcache.runtime.contract import Graphs, GraphSpec, ParityReport
from dreamcache.runtime.denoiser import Denoiser
from dreamcache.runtime.guidance import Branch
from dreamcache.runtime.sessions import GraphSession
from dreamcache.runtime.tensors import Architecture

_STEPS = 4
_PROMPT = "a robot on the beach"
_GUIDANCE_SCALE = 3.0

Array = NDArray[np.float32]
Ticker = Callable[[], None]


@dataclass(frozen=True)
class Reference:
    """A reference at the caching timestep: its latent [1, z, h, w] and what PyTorch caches of it."""

    latent: Tensor
    cache: Cache


@torch.no_grad()
def measure_parity(
    folder: Path,
    graphs: Graphs,
    architecture: Architecture,
    base: Base,
    conditioned: ConditionedUNet,
    disk: tuple[int, int],
    tick: Ticker = lambda: None,
) -> ParityReport:
    """Measure an unfinished bundle and raise where it fails.

    Args:
        folder: where the graphs lie.
        graphs: their declarations.
        architecture: shapes and sites.
        base: PyTorch's side.
        conditioned: PyTorch's side, with adapters.
        disk: bytes of both UNet graphs with their weights, and of the denoiser with its own.
        tick: called after each graph.

    Raises:
        ExportError: names the gate, what was expected and what was measured.
    """
    check_disk(*disk)
    references = [_reference(base, conditioned, architecture, seed) for seed in (0, 1)]
    psnr = {"cache": 0.0, "denoiser": 0.0}
    for name, db in _component_psnr(folder, graphs, base).items():
        psnr[name] = db
        tick()
    caches, psnr["cache"] = _cache_parity(folder, graphs.cache, conditioned, references)
    tick()
    session = _open(folder, "denoiser", graphs.denoiser)
    texts = {"null": base.encode_text([""]), "prompt": base.encode_text([_PROMPT])}
    points, trajectory = _trajectory(base, conditioned, references[0], texts, architecture)
    own, swapped, zeroed = (
        Denoiser(session, architecture, {name: text.numpy() for name, text in texts.items()}, cache)
        for cache in (caches[0], caches[1], {name: np.zeros_like(value) for name, value in caches[0].items()})
    )
    findings = [_at(point, conditioned, references[0], texts, own, swapped, zeroed) for point in points]
    psnr["denoiser"] = min(finding["psnr"] for finding in findings)
    for name, db in psnr.items():
        check_psnr(name, db)
    condition = check_condition(findings)
    check_sensitivity(findings)
    trajectory_db = _run_trajectory(base, own, points[0][0], trajectory)
    tick()
    return ParityReport(
        psnr_db=psnr,
        condition=condition,
        trajectory_db=tuple(trajectory_db),
        disk_ratio=disk[0] / disk[1],
        notes=(
            f"{_STEPS} DDIM steps, prompt {_PROMPT!r}, guidance {_GUIDANCE_SCALE:g}, onnxruntime on the CPU",
        ),
    )


def _at(
    point: tuple[Array, int],
    conditioned: ConditionedUNet,
    reference: Reference,
    texts: Mapping[str, Tensor],
    own: Denoiser,
    swapped: Denoiser,
    zeroed: Denoiser,
) -> Finding:
    """Everything that is compared at one point of the trajectory."""
    latent, timestep = point
    branches = [Branch("null", 0.0), Branch("null", 1.0), Branch("prompt", 0.0), Branch("prompt", 1.0)]
    received = own.predict(latent, float(timestep), branches)
    place = torch.from_numpy(latent)
    expected = [
        conditioned(
            place, timestep, texts[branch.text], reference.cache, torch.tensor([branch.strength])
        ).numpy()
        for branch in branches
    ]
    stock = conditioned.unet(place, timestep, texts["prompt"]).sample.numpy()
    last = branches[-1:]
    off = branches[2:3]
    leak = swapped.predict(latent, float(timestep), off)[0] - own.predict(latent, float(timestep), off)[0]
    return {
        "psnr": min(psnr_db(e, r) for e, r in zip(expected, received, strict=True)),
        "error": max(_norm(e - r) for e, r in zip(expected, received, strict=True)),
        "torch_reference": _norm(expected[3] - expected[2]),
        "onnx_reference": _norm(received[3] - received[2]),
        "torch_text": _norm(expected[3] - expected[1]),
        "onnx_text": _norm(received[3] - received[1]),
        "stock_psnr": psnr_db(stock, received[2]),
        "stock_leak": float(np.abs(leak).max()),
        "zeroed": _norm(zeroed.predict(latent, float(timestep), last)[0] - received[3]),
        "swapped": _norm(swapped.predict(latent, float(timestep), last)[0] - received[3]),
    }


def _trajectory(
    base: Base,
    conditioned: ConditionedUNet,
    reference: Reference,
    texts: Mapping[str, Tensor],
    architecture: Architecture,
) -> tuple[list[tuple[Array, int]], list[Array]]:
    """PyTorch's points (latent, timestep) and the latents after each step, with classic guidance."""
    base.scheduler.set_timesteps(_STEPS)
    latent = torch.from_numpy(draw_noise(0, architecture.latent_shape[1:]))
    points, after = [], []
    for timestep in base.scheduler.timesteps:
        points.append((latent.numpy(), int(timestep)))
        null = conditioned(latent, timestep, texts["null"], reference.cache)
        prompted = conditioned(latent, timestep, texts["prompt"], reference.cache)
        guided = null + _GUIDANCE_SCALE * (prompted - null)
        latent = base.scheduler.step(guided, timestep, latent).prev_sample
        after.append(latent.numpy())
    return points, after


def _run_trajectory(base: Base, denoiser: Denoiser, start: Array, expected: Sequence[Array]) -> list[float]:
    """The same trajectory with the exported denoiser: dB of the latent after each step."""
    latent, found = torch.from_numpy(start), []
    for timestep, wanted in zip(base.scheduler.timesteps, expected, strict=True):
        branches = [Branch("null", 1.0), Branch("prompt", 1.0)]
        null, prompted = denoiser.predict(latent.numpy(), float(timestep), branches)
        guided = torch.from_numpy(null + np.float32(_GUIDANCE_SCALE) * (prompted - null))
        latent = base.scheduler.step(guided, timestep, latent).prev_sample
        found.append(psnr_db(wanted, latent.numpy()))
    return found


def _reference(base: Base, conditioned: ConditionedUNet, architecture: Architecture, seed: int) -> Reference:
    config = conditioned.config
    pixels = torch.from_numpy(_picture(architecture, seed))
    clean = base.encode_images(pixels)
    noise = torch.from_numpy(draw_noise(CACHE_NOISE_SEED, architecture.latent_shape[1:]))
    latent = noise_reference(base.scheduler, clean, noise, config.cache_timestep)
    text = base.encode_text([config.cache_prompt])
    cache = cache_reference(base.unet, conditioned.sites, latent, config.cache_timestep, text)
    return Reference(latent, cache)


def _picture(architecture: Architecture, seed: int) -> Array:
    """[1, 3, H, W] in -1 to 1: a patch of coloured squares on white, like a subject cut out."""
    height, width = architecture.image_height, architecture.image_width
    squares = np.random.default_rng(seed).uniform(-1, 1, (3, 4, 4)).astype(np.float32)
    rows = np.arange(height)[:, None] * 8 // height
    columns = np.arange(width)[None] * 8 // width
    inside = (rows >= 2) & (rows < 6) & (columns >= 2) & (columns < 6)
    picture = squares[:, np.clip(rows - 2, 0, 3), np.clip(columns - 2, 0, 3)]
    return np.where(inside, picture, np.float32(1.0)).astype(np.float32)[None]


def _cache_parity(
    folder: Path, spec: GraphSpec, conditioned: ConditionedUNet, references: Sequence[Reference]
) -> tuple[list[dict[str, Array]], float]:
    """The exported caches of every reference, and the worst dB of any key or value."""
    session = _open(folder, "cache", spec)
    caches = [session.run({"latent": reference.latent.numpy()}) for reference in references]
    worst = MAX_DB
    for reference, cache in zip(references, caches, strict=True):
        for site in conditioned.sites:
            adapter, tokens = conditioned.adapter(site.name), reference.cache[site.name]
            for name, projection in (("key", adapter.to_k), ("value", adapter.to_v)):
                worst = min(worst, psnr_db(projection(tokens).numpy(), cache[f"{site.name}.{name}"]))
    return caches, worst


def _component_psnr(folder: Path, graphs: Graphs, base: Base) -> dict[str, float]:
    ids = base.tokenizer(
        _PROMPT, padding="max_length", max_length=base.text_length, truncation=True, return_tensors="np"
    ).input_ids
    shape = graphs.vae_encoder.inputs[0].shape
    pixels = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    latent = base.vae.encode(torch.from_numpy(pixels)).latent_dist.mean
    wanted = {
        "text_encoder": (ids, base.encode_text([_PROMPT])),
        "vae_encoder": (pixels, latent),
        "vae_decoder": (latent.numpy(), base.vae.decode(latent).sample),
    }
    found = {}
    for name, (value, expected) in wanted.items():
        spec = graphs.by_name()[name]
        received = _open(folder, name, spec).run({spec.inputs[0].name: value})[spec.outputs[0].name]
        found[name] = psnr_db(expected.numpy(), received)
    return found


def _open(folder: Path, name: str, spec: GraphSpec) -> GraphSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(folder / spec.file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
        first_line = str(error).strip().splitlines()[0]
        raise ExportError(f"graph {name} does not load in ONNX Runtime: {first_line}") from error
    return GraphSession(name, spec, session)


def _norm(array: NDArray[Any]) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))
