"""PyTorch's side of the comparison: references, and the points of a real denoising trajectory.

Each prediction is computed once and kept: at full size one takes seconds. A bundle whose attention reads averaged
tokens is compared with PyTorch doing the same; what that approximation costs is for the evaluation to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph, caching_condition
from dreamcache.export.options import EXACT, Approximations
from dreamcache.export.resources import is_large
from dreamcache.models.bases.base import Base
from dreamcache.models.caching import cache_reference, join_caches, noise_reference
from dreamcache.models.conditioned import Cache, ConditionedUNet
from dreamcache.models.pipeline import CACHE_NOISE_SEED, draw_noise
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.sampling.guidance import Branch
from dreamcache.runtime.sessions.allocator import release_freed
from dreamcache.runtime.subject import join_tokens

Array = NDArray[np.float32]

GUIDANCE_SCALE = 3.0
PROMPT = "a robot on the beach"
NULL, STOCK, FULL = Branch("null", 1.0), Branch("prompt", 0.0), Branch("prompt", 1.0)
BRANCHES = (NULL, STOCK, FULL)
"""What a point is compared in: without the prompt, without the reference, with both."""
GUIDING = (NULL, FULL)
"""What classic guidance combines."""


@dataclass(frozen=True)
class Reference:
    """A reference at the caching timestep.

    Attributes:
        latent: [1, z, h, w], noised.
        cache: per site the tokens that PyTorch caches, [1, tokens, d]; none where attention reads averages, whose
            keys and values are compared instead.
        projected: the keys and values that a caching graph gives, of all tokens, by name; none of a `substitute`.
    """

    latent: Array
    cache: Cache
    projected: dict[str, Array]


@dataclass(frozen=True)
class Point:
    """One step of the trajectory under classic guidance: where it is, what PyTorch predicts, where it goes.

    Attributes:
        latent: [1, z, h, w].
        timestep: training timestep.
        predictions: [1, z, h, w] by branch: all of `BRANCHES` where a point is compared in full, else what guides.
        after: the latent after the step.
    """

    latent: Array
    timestep: int
    predictions: dict[Branch, Array]
    after: Array


class TorchModel:
    """The base and its adapters in PyTorch.

    Args:
        base: the text-to-image model.
        conditioned: its UNet with adapters.
        architecture: shapes.
        approximations: of attention, in PyTorch too.
    """

    def __init__(
        self,
        base: Base,
        conditioned: ConditionedUNet,
        architecture: Architecture,
        approximations: Approximations = EXACT,
    ) -> None:
        self.base = base
        self.conditioned = conditioned
        self.architecture = architecture
        self.approximations = approximations
        size = (architecture.image_height, architecture.image_width)
        self.texts = {
            "null": base.condition([""], size, null=True),
            "prompt": base.condition([PROMPT], size),
        }
        self._averaged: DenoiserGraph | None = None
        # The adapters do not know averaged tokens; they know averaged keys and values.
        if approximations != EXACT:
            self._averaged = DenoiserGraph(conditioned, "plain", approximations)

    @property
    def embeddings(self) -> dict[str, dict[str, Array]]:
        """What a denoiser reads of null text and prompt."""
        return {name: text.numpy() for name, text in self.texts.items()}

    @torch.no_grad()
    def reference(self, seed: int) -> Reference:
        """A subject on white, through the VAE and the stock UNet."""
        config = self.conditioned.config
        picture = subject_picture(self.architecture.reference_side, seed)
        clean = self.base.encode_images(torch.from_numpy(picture))
        noise = torch.from_numpy(draw_noise(CACHE_NOISE_SEED, self.architecture.reference_latent_shape[1:]))
        latent = noise_reference(self.base.scheduler, clean, noise, config.cache_timestep)
        null = caching_condition(self.base, self.conditioned, self.architecture)
        sites = self.conditioned.sites
        cache = cache_reference(
            self.base.unet, sites, latent, config.cache_timestep, null.text, null.added or None
        )
        names = [name for site in self.architecture.sites for name in (site.key_name, site.value_name)]
        if self._averaged is None:
            values = [
                projection(cache[site.name])
                for site in sites
                for projection in (
                    self.conditioned.adapter(site.name).to_k,
                    self.conditioned.adapter(site.name).to_v,
                )
            ]
        else:
            graph = CachingGraph(
                self.conditioned, null.text, "plain", self.approximations, null.added or None
            )
            values = list(graph(latent))
        projected = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return Reference(latent.numpy(), cache if self._averaged is None else {}, projected)

    def substitute(self, seed: int) -> Reference:
        """Another subject to put in a reference's place: noise, which no caching graph is compared on."""
        return Reference(draw_noise(seed, self.architecture.reference_latent_shape[1:]), {}, {})

    def sample(self, brief: bool = False) -> tuple[tuple[Reference, Reference], list[Point]]:
        """Two references, and the trajectory with the first; few points of a large base.

        The second reference only takes the first one's place; a small base compares its cache too.

        Args:
            brief: one step of a large base in place of two, for random weights.
        """
        large = is_large(self.base)
        references = self.reference(0), self.substitute(1) if large else self.reference(1)
        steps, full = (4, 4) if not large else (1, 1) if brief else (2, 1)
        points = self.trajectory(references[0], steps, full)
        release_freed()
        return references, points

    @torch.no_grad()
    def trajectory(
        self, reference: Reference, steps: int, full: int, tick: Callable[[], None] = lambda: None
    ) -> list[Point]:
        """DDIM steps from noise, the first `full` of them with every branch; `tick` is called after each."""
        scheduler = self.base.scheduler
        scheduler.set_timesteps(steps)
        latent = torch.from_numpy(draw_noise(0, self.architecture.latent_shape[1:]))
        points: list[Point] = []
        for timestep in scheduler.timesteps:
            branches = BRANCHES if len(points) < full else GUIDING
            predictions = {
                branch: self._predict(latent, timestep, branch, reference).numpy() for branch in branches
            }
            after = torch.from_numpy(self.advance(latent.numpy(), int(timestep), predictions))
            points.append(Point(latent.numpy(), int(timestep), predictions, after.numpy()))
            latent = after
            tick()
        return points

    def advance(self, latent: Array, timestep: int, predictions: Mapping[Branch, Array]) -> Array:
        """One step from predictions of `GUIDING`, made here or elsewhere; `trajectory` sets the timesteps."""
        null, prompted = (torch.from_numpy(predictions[branch]) for branch in GUIDING)
        guided = null + GUIDANCE_SCALE * (prompted - null)
        after: Array = self.base.scheduler.step(
            guided, timestep, torch.from_numpy(latent)
        ).prev_sample.numpy()
        return after

    @torch.no_grad()
    def predict_together(self, references: Sequence[Reference], point: Point) -> Array:
        """What is predicted with prompt and every reference at a point of the trajectory: [1, z, h, w]."""
        latent, timestep = torch.from_numpy(point.latent), torch.tensor(point.timestep)
        predicted: Array = self._predict(latent, timestep, FULL, *references).numpy()
        return predicted

    def _predict(self, latent: Tensor, timestep: Tensor, branch: Branch, *references: Reference) -> Tensor:
        text = self.texts[branch.text]
        if self._averaged is not None:
            rows = (
                timestep.reshape(1).float(),
                text.text,
                torch.tensor([branch.strength]),
                *text.added.values(),
            )
            joined = join_tokens([reference.projected for reference in references])
            projected = [torch.from_numpy(value) for value in joined.values()]
            return cast(Tensor, self._averaged(latent, *rows, *projected)[0])
        if branch.strength == 0.0:
            return cast(Tensor, self.conditioned(latent, timestep, text.text, None, added=text.added))
        cache = join_caches([reference.cache for reference in references])
        return cast(Tensor, self.conditioned(latent, timestep, text.text, cache, added=text.added))


def subject_picture(side: int, seed: int) -> Array:
    """[1, 3, H, H] in -1 to 1: a patch of coloured squares on white, like a subject cut out."""
    squares = np.random.default_rng(seed).uniform(-1, 1, (3, 4, 4)).astype(np.float32)
    rows = np.arange(side)[:, None] * 8 // side
    columns = np.arange(side)[None] * 8 // side
    inside = (rows >= 2) & (rows < 6) & (columns >= 2) & (columns < 6)
    picture = squares[:, np.clip(rows - 2, 0, 3), np.clip(columns - 2, 0, 3)]
    return np.where(inside, picture, np.float32(1.0)).astype(np.float32)[None]
