"""What makes the pictures: the PyTorch pipeline, or an exported bundle through the runner.

Both take the reference's background away and frame it in the same way, draw their noise from the same seeds, and are
described by what their pictures depend on, so that a run is only continued by what began it.

Pictures of one prompt are drawn together where a device gains by it: a GPU. A bundle's graphs take one picture a call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from dreamcache.models.bases.base import MINI_ADAPTERS, MINI_DIR
from dreamcache.models.bases.diffusers_folder import weight_files
from dreamcache.models.bases.pixels import to_pictures
from dreamcache.models.pipeline import DreamCachePipeline, denoise_batch, draw_noise
from dreamcache.runtime import Pipeline
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.settings import Options, resolve_settings
from dreamcache.training.data.models.device import choose_device
from dreamcache.training.evaluation.toys.painter import SamplingSettings

# prompt and seeds → one picture of the subject for each seed
Draw = Callable[[str, Sequence[int]], list[Image.Image]]


@dataclass(frozen=True)
class Taken:
    """A reference that was cached. background: the sentence that says what became of its background."""

    draw: Draw
    background: str


class Generator(Protocol):
    """Makes pictures of a subject after one reference."""

    @property
    def name(self) -> str:
        """Names its row, and its folder of pictures."""

    @property
    def batch(self) -> int:
        """How many pictures of one prompt it draws at once."""

    def describe(self) -> dict[str, Any]:
        """Plain JSON values that its pictures depend on, apart from subject, prompt and seed."""

    def take(self, reference: Path, mask: Path | None) -> Taken:
        """Cache a reference picture.

        Raises: ImageError for a picture or mask that cannot be used.
        """


class BundleGenerator:
    """A bundle. Raises: BundleError, SettingsError.

    options: of `Pipeline.generate`, but for the seed.
    """

    batch = 1

    def __init__(self, path: Path, options: Options, name: str | None = None) -> None:
        self._pipeline = Pipeline.load(path, keep_sessions=True)
        # Settings are checked now, not after the first subject was cached.
        self._options: Options = {**options, "seed": 0}
        settings = resolve_settings(self._pipeline.contract, None, **self._options)
        self._settings = asdict(settings)
        self._name = path.resolve().name if name is None else name

    @property
    def name(self) -> str:
        """See `Generator`."""
        return self._name

    def describe(self) -> dict[str, Any]:
        """See `Generator`."""
        contract = self._pipeline.contract
        left_out = ("seed", "num_images")
        return {
            "from": "bundle",
            "base": contract.architecture.name,
            "precision": contract.precision,
            "weights": contract.weights,
            "fingerprints": contract.fingerprints.model_dump(),
            "settings": {name: value for name, value in self._settings.items() if name not in left_out},
        }

    def take(self, reference: Path, mask: Path | None) -> Taken:
        """See `Generator`."""
        subject = self._pipeline.cache(reference, mask)

        def draw(prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
            asked: list[Options] = [{**self._options, "seed": seed} for seed in seeds]
            return [self._pipeline.generate(prompt, subject, **options) for options in asked]

        return Taken(draw, subject.background)


class TorchGenerator:
    """The PyTorch reference pipeline, on the process's GPU where there is one.

    images: pictures of one prompt, which a GPU draws at once; batch: as many as that, whatever the device.
    Raises: AdapterError, FileNotFoundError as `DreamCachePipeline.load`.
    """

    name = "pytorch"

    def __init__(
        self,
        base: str,
        adapters: Path | None,
        how: SamplingSettings,
        images: int = 1,
        batch: int | None = None,
    ) -> None:
        device = choose_device()
        self.batch = batch or (1 if device.type == "cpu" else images)
        self._pipeline = DreamCachePipeline.load(base, adapters, str(device))
        self._base, self._how = base, how
        self._adapters = MINI_ADAPTERS if adapters is None else adapters

    def describe(self) -> dict[str, Any]:
        """See `Generator`."""
        place = MINI_DIR if self._base == "mini" else self._pipeline.base.path
        return {
            "from": "pytorch",
            "base": self._base,
            "precision": "fp32",
            "weights": "trained",
            "fingerprints": {
                "base": None if place is None else _fingerprint(place),
                "adapters": sha256_file(self._adapters),
            },
            "settings": asdict(self._how),
            # Other batches round otherwise; rows from before there were any hold no number.
            **({"batch": self.batch} if self.batch > 1 else {}),
        }

    def take(self, reference: Path, mask: Path | None) -> Taken:
        """See `Generator`."""
        prepared = prepare_reference(reference, mask, size=self._pipeline.resolution)
        cache = self._pipeline.cache(prepared.image)
        base, how = self._pipeline.base, self._how

        def draw(prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
            noise = [draw_noise(seed, self._pipeline.latent_shape) for seed in seeds]
            null, prompted = base.encode_text(["", prompt]).chunk(2)
            *_, last = denoise_batch(
                self._pipeline.conditioned,
                base.scheduler,
                torch.from_numpy(np.concatenate(noise)).to(base.unet.device),
                prompted,
                null,
                cache,
                steps=how.steps,
                guidance_mode=how.mode,
                guidance_scale=how.guidance_scale,
                reference_guidance_scale=how.reference_guidance_scale,
            )
            return [Image.fromarray(picture) for picture in to_pictures(base.decode_latents(last.latent))]

        return Taken(draw, prepared.how)


def _fingerprint(place: Path) -> str:
    """SHA-256 over the hashes of a base's weight files."""
    files = [place] if place.is_file() else [path for part in weight_files(place).values() for path in part]
    return hashlib.sha256("".join(sha256_file(path) for path in files).encode()).hexdigest()
