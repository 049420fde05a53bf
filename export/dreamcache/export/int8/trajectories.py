"""Real trajectories of the base at hand: what calibrates the ranges and what judges a choice of layers.

A trajectory is what the runner does: its sampler, its guidance, its denoiser. The reference is one that the base drew
itself, so that nothing has to be brought along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreamcache.export.errors import ExportError
from dreamcache.models.bases.base import Base
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import GuidanceDefaults, SchedulerSpec
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.sampling.denoiser import Denoiser
from dreamcache.runtime.sampling.guidance import Guidance
from dreamcache.runtime.sampling.noise import noise_source, noised_reference
from dreamcache.runtime.sampling.schedulers import make_scheduler
from dreamcache.runtime.sampling.trajectory import trajectory
from dreamcache.runtime.sessions.session import GraphSession

Array = NDArray[np.float32]
Ticker = Callable[[], None]

PROMPTS = (
    "a robot on the beach",
    "a red car in the snow",
    "a fish in the forest",
    "a photo of a dog in the city at night",
    "a wooden house on a table",
    "a blue bird on the grass",
)
"""Kinds and scenes of the miniature and of photographs; ``--calibration-prompts`` replaces them."""


@dataclass(frozen=True)
class TrajectoryRecord:
    """One trajectory.

    Attributes:
        latents: [1, z, h, w] after each step.
        reference_effect: sum over steps of what the reference changes in the prediction (Euclidean norm).
        text_effect: likewise of the text.
    """

    latents: tuple[Array, ...]
    reference_effect: float
    text_effect: float


@dataclass(frozen=True)
class Score:
    """A quantised trajectory against the exact one: dB of the latent after each step, ratios of the effects."""

    latent_db: tuple[float, ...]
    reference_ratio: float
    text_ratio: float

    @property
    def final_db(self) -> float:
        """dB of the final latent."""
        return self.latent_db[-1]

    @property
    def condition_error(self) -> float:
        """The larger deviation of the two effects."""
        return max(abs(self.reference_ratio - 1.0), abs(self.text_ratio - 1.0))


def compare(exact: Sequence[TrajectoryRecord], found: Sequence[TrajectoryRecord]) -> Score:
    """The score over several trajectories: the mean error of the latents, and the summed effects."""
    steps = zip(
        *(zip(e.latents, f.latents, strict=True) for e, f in zip(exact, found, strict=True)), strict=True
    )
    latent_db = tuple(
        psnr_db(np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]))
        for pairs in steps
    )
    return Score(
        latent_db,
        sum(record.reference_effect for record in found) / max(sum(r.reference_effect for r in exact), 1e-12),
        sum(record.text_effect for record in found) / max(sum(r.text_effect for r in exact), 1e-12),
    )


class TrajectorySampler:
    """How trajectories of a base are drawn.

    Args:
        base: for its text encoder and VAE.
        architecture: shapes.
        scheduler: the noise schedule.
        defaults: the bundle's guidance, which weights the errors as they will be weighted.
        prompts: at least one.
        cache_timestep: noise level of references.

    Raises:
        ExportError: there are no prompts.
    """

    def __init__(
        self,
        base: Base,
        architecture: Architecture,
        scheduler: SchedulerSpec,
        defaults: GuidanceDefaults,
        prompts: Sequence[str],
        cache_timestep: int,
    ) -> None:
        if not prompts:
            raise ExportError("calibration needs prompts, received none; give one a line")
        self.base = base
        self.architecture = architecture
        self.scheduler = scheduler
        self.defaults = defaults
        self.cache_timestep = cache_timestep
        size = (architecture.image_height, architecture.image_width)
        self.null = base.condition([""], size, null=True).numpy()
        embedded = base.condition(prompts, size)
        self.texts = [embedded.row(index).numpy() for index in range(len(prompts))]

    def guidance(self) -> Guidance:
        """The bundle's own where it has three predictions, else dual that combines alike: it shows both effects."""
        mode = self.defaults.mode
        text, reference = self.defaults.guidance_scale, self.defaults.reference_guidance_scale
        if mode in ("dual", "text_first"):
            return Guidance(mode, text, reference, 1.0)
        return Guidance("dual", text if mode == "classic" else 1.0, 1.0, 1.0)

    def draw_picture(self, graph: GraphSession, index: int, steps: int) -> Array:
        """The scaled latent of a picture of prompt `index`, without a reference."""
        return self.trajectory(graph, index, steps, None).latents[-1]

    def as_reference(self, drawn: Array) -> Array:
        """The middle of a picture on white, as references come: latent at the caching timestep."""
        picture = self.base.decode_latents(torch.from_numpy(drawn)).clamp(-1, 1).numpy()
        picture = on_white(middle_square(picture))
        latent = self.base.encode_images(torch.from_numpy(picture)).numpy()
        return noised_reference(latent, self.scheduler, self.cache_timestep)

    def trajectory(
        self,
        graph: GraphSession,
        index: int,
        steps: int,
        cache: Mapping[str, NDArray[Any]] | None,
        tick: Ticker = lambda: None,
    ) -> TrajectoryRecord:
        """A picture of prompt `index` by the runner's own denoiser, sampler and guidance."""
        texts = {"null": self.null, "prompt": self.texts[index % len(self.texts)]}
        denoiser = Denoiser(graph, self.architecture, texts, cache)
        sampler = make_scheduler(self.scheduler, self.defaults.scheduler, steps)
        noise = noise_source(index, self.architecture.latent_shape)
        latents, reference_effect, text_effect = [], 0.0, 0.0
        for step in trajectory(denoiser, sampler, self.guidance(), noise):
            if len(step.predictions) == 3:
                reference_effect += float(np.linalg.norm(step.predictions[1] - step.predictions[0]))
            text_effect += float(np.linalg.norm(step.predictions[-1] - step.predictions[-2]))
            latents.append(step.latent)
            tick()
        return TrajectoryRecord(tuple(latents), reference_effect, text_effect)


def middle_square(picture: Array) -> Array:
    """[1, 3, H, W]: the middle [1, 3, S, S] of a picture, S its shorter side."""
    height, width = picture.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, :, top : top + side, left : left + side]


def on_white(picture: Array) -> Array:
    """[1, 3, H, W]: the middle of a picture on white."""
    _, _, height, width = picture.shape
    white = np.ones_like(picture)
    rows, columns = slice(height // 8, -height // 8), slice(width // 8, -width // 8)
    white[:, :, rows, columns] = picture[:, :, rows, columns]
    return white
