"""Training data as the paper makes it, with the base itself as the painter (supplement, data preparation).

A caption, a target that the base draws of it, and as the reference the target's own subject, cut out by the base's
segmenter and framed as the runner frames references. A picture whose mask keeps to no limits is left out and another
is drawn. What adapters read is the prompt, which names no appearance, as of true samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.parts.segmenter import TrainedSegmenter, load_segmenter
from dreamcache.models.bases.pixels import to_pictures, to_tensor
from dreamcache.models.checkpoint import base_fingerprint
from dreamcache.models.pipeline import denoise_batch, draw_noise
from dreamcache.runtime.errors import SettingsError
from dreamcache.training.adapters.data import PlainTriplet, TripletSource
from dreamcache.training.data.models.segmentation import Found, Limits
from dreamcache.training.data.shards.pictures import decode_picture
from dreamcache.training.data.stages.references import cut_reference
from dreamcache.training.device import autocast, fast_in_bf16
from dreamcache.training.world.captions import Words, draw_words
from dreamcache.training.world.identity import draw_identity
from dreamcache.training.world.samples import PLACES

BATCH = 32
STREAM = 6_000_047
GUIDANCE_SCALE = 3.0
# a toy fills a part of its scene that photographs' subjects need not
LIMITS = Limits(min_area=0.02, max_area=0.7, max_border=0.1)


@dataclass(frozen=True)
class PaintedWorld:
    """The first `samples` that pass, of a base with a segmenter. steps: of each picture."""

    base_source: str
    samples: int
    resolution: int
    steps: int = 20
    seed: int = 0

    @cached_property
    def _base(self) -> Base:
        return load_base(self.base_source)

    @cached_property
    def _segmenter(self) -> TrainedSegmenter:
        if (trained := load_segmenter(self._base.path)) is None:
            raise SettingsError(
                f"the base {self.base_source} has no segmenter, which cuts references out; train it with: "
                "dreamcache train miniature segmenter"
            )
        return trained

    @property
    def fingerprint(self) -> str:
        """Of the painter, and of what it is asked for."""
        painter = base_fingerprint(self._base.unet)[:16]
        rounded = "-bf16" if fast_in_bf16(self._base.unet.device) else ""
        return f"painted-{painter}-{self.seed}-{self.samples}-{self.steps}{rounded}"

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[PlainTriplet]:
        """Raises: SettingsError for a base without a segmenter, or one whose pictures never pass."""
        self._segmenter  # noqa: B018  # asked for before anything is painted
        made, start = 0, 0
        while made < self.samples:
            count = min(BATCH, 2 * (self.samples - made))  # some will not pass
            words = [self._words(number) for number in range(start, start + count)]
            pictures = self._paint([one.caption for one in words], start)
            for number, triplet in enumerate(self._cut(words, pictures), start):
                if triplet is not None and made < self.samples:
                    yield PlainTriplet(f"{number:08d}", *triplet)
                    made += 1
            start += count
            if made == 0 and start >= BATCH:
                raise SettingsError(
                    f"the base {self.base_source}: pictures with a subject are expected, received none of {start}; "
                    "train it longer, or its segmenter"
                )

    def _words(self, number: int) -> Words:
        rng = np.random.default_rng([STREAM, self.seed, number])
        toy = draw_identity(rng, held_out=False)
        return draw_words(toy, PLACES[rng.integers(len(PLACES))], rng)

    @torch.no_grad()
    def _paint(self, captions: Sequence[str], start: int) -> NDArray[np.uint8]:
        base = self._base
        factor = base.vae_factor
        shape = (int(base.unet.config.in_channels), self.resolution // factor, self.resolution // factor)
        noise = [draw_noise(start + i + STREAM, shape) for i in range(len(captions))]
        with autocast(base.unet.device):
            *_, last = denoise_batch(
                lambda rows, timestep, text: base.unet(rows, timestep, text).sample,
                base.scheduler,
                torch.from_numpy(np.concatenate(noise)),
                base.encode_text(list(captions)),
                base.encode_text([""]),
                steps=self.steps,
                guidance_mode="classic",
                guidance_scale=GUIDANCE_SCALE,
            )
            return to_pictures(base.decode_latents(last.latent))

    @torch.no_grad()
    def _cut(
        self, words: Sequence[Words], pictures: NDArray[np.uint8]
    ) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]] | None]:
        """Prompt, target and reference of each; None where no subject passes."""
        masks = self._segmenter.module(to_tensor(pictures))[:, 0].numpy()
        for one, picture, mask in zip(words, pictures, masks, strict=True):
            inside = mask > 0.5
            confidence = float(mask[inside].mean()) if inside.any() else 0.0
            found = Found(np.round(mask * 255).astype(np.uint8), confidence)
            cut, _ = cut_reference(Image.fromarray(picture), found, LIMITS, self.resolution)
            if cut is None:
                yield None
                continue
            reference = decode_picture(
                cut.members["reference.png"], self.resolution, "RGB", "a painted reference"
            )
            yield one.prompt, picture, np.asarray(reference)


@dataclass(frozen=True)
class MixedTriplets:
    """All of two sources, by turns, as long as both last."""

    first: TripletSource
    second: TripletSource

    @property
    def resolution(self) -> int:
        """Of both."""
        return self.first.resolution

    @property
    def fingerprint(self) -> str:
        """Of both."""
        return f"mixed-{self.first.fingerprint}-{self.second.fingerprint}"

    def __len__(self) -> int:
        return 2 * min(len(self.first), len(self.second))

    def __iter__(self) -> Iterator[PlainTriplet]:
        for pair in zip(self.first, self.second, strict=False):
            for source, one in zip("ab", pair, strict=True):
                yield PlainTriplet(f"{one.key}{source}", one.caption, one.target, one.reference)
