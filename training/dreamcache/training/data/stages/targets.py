"""Stage 2: a target picture for each caption, by any text-to-image pipeline of diffusers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image

from dreamcache.runtime.errors import first_line
from dreamcache.training.data.models.device import choose_device, choose_dtype
from dreamcache.training.data.models.weights import PIPELINE, describe_model, find_model
from dreamcache.training.data.shards.batches import batched
from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.index import StageIndex, installed_versions
from dreamcache.training.data.shards.pictures import (
    TargetFormat,
    decode_json,
    decode_text,
    encode_json,
    encode_target,
)
from dreamcache.training.data.shards.seeds import derive_seed
from dreamcache.training.data.shards.shards import ShardSample, tar_path
from dreamcache.training.data.stages.captions import repeated_keys
from dreamcache.training.data.stages.stage import ShardProgress
from dreamcache.training.errors import SynthesisError, WeightsError


@dataclass(frozen=True)
class TargetStage:
    """Each sample's noise comes from its own generator on the CPU, so neither batch nor GPU changes it.

    A picture that the pipeline's safety checker flags is left out. A pipeline that brings no checker is used as it
    is, and the index says so; one that brings a checker is never used without it.
    """

    captions: Path
    model: str = PIPELINE.default
    resolution: int = 512
    steps: int = 30
    guidance: float = 7.5
    negative_prompt: str | None = None
    form: TargetFormat = "jpg"
    seed: int = 0
    batch: int = 8
    device: str = "auto"
    dtype: str = "auto"

    @cached_property
    def _source(self) -> ShardFolder:
        return ShardFolder.open(self.captions, "captions")

    @cached_property
    def _repeated(self) -> frozenset[str]:
        return repeated_keys(self._source)

    @cached_property
    def index(self) -> StageIndex:
        """Raises: WeightsError without the pipeline; ShardError when the captions are not complete."""
        folder = find_model(PIPELINE, self.model)
        source = self._source
        return StageIndex(
            stage="targets",
            seed=self.seed,
            shards=source.index.shards,
            shard_size=source.index.shard_size,
            resolution=self.resolution,
            settings={
                "steps": self.steps,
                "guidance": self.guidance,
                "negative_prompt": self.negative_prompt,
                "format": self.form,
                "safety_checker": has_safety_checker(folder),
            },
            models=(describe_model(PIPELINE, self.model, folder),),
            source=source.as_record,
            made_with=installed_versions(),
        )

    @cached_property
    def _pipeline(self) -> Any:
        device = choose_device(self.device)
        pipeline = load_text_to_image(
            find_model(PIPELINE, self.model), device, choose_dtype(self.dtype, device)
        )
        factor = int(getattr(pipeline, "vae_scale_factor", 8))
        if self.resolution % factor:
            raise SynthesisError(
                f"--resolution: a multiple of {factor} is expected by this pipeline, received {self.resolution}"
            )
        return pipeline

    def source_sha256(self, shard: int) -> str | None:
        """Of the captions."""
        return self._source.records[shard].sha256

    def expected(self, shard: int) -> int:
        """Captions of the shard, with those that another shard has already."""
        return self._source.records[shard].samples

    def samples(self, shard: int, report: ShardProgress) -> Iterator[ShardSample]:
        """target.jpg or .png, txt and json: what the captions said, and `target_seed`."""
        fresh = self._unrepeated(shard, report)
        for part in batched(fresh, self.batch):
            yield from self._render(part, str(tar_path(self.captions, self._source.index, shard)), report)
            report.advance(len(part))

    def _unrepeated(self, shard: int, report: ShardProgress) -> Iterator[ShardSample]:
        for sample in self._source.read(shard):
            if sample.key in self._repeated:
                report.rejected["duplicate"] += 1
                report.advance(1)
            else:
                yield sample

    def _render(self, part: list[ShardSample], where: str, report: ShardProgress) -> Iterator[ShardSample]:
        prompts = [decode_text(sample, where) for sample in part]
        seeds = [derive_seed(self.seed, sample.key, "target") for sample in part]
        negative = None if self.negative_prompt is None else [self.negative_prompt] * len(part)
        try:
            result = self._pipeline(
                prompt=prompts,
                negative_prompt=negative,
                height=self.resolution,
                width=self.resolution,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="pil",
            )
        except (ValueError, TypeError) as error:  # what a pipeline says of arguments that it does not take
            raise SynthesisError(f"the pipeline refuses: {first_line(error)}; change the options") from error
        flags = getattr(result, "nsfw_content_detected", None)
        for sample, seed, picture, flagged in zip(
            part, seeds, result.images, flags if flags else [False] * len(part), strict=True
        ):
            if flagged:
                report.rejected["flagged by the safety checker"] += 1
                continue
            yield self._as_sample(sample, seed, picture, where)

    def _as_sample(self, sample: ShardSample, seed: int, picture: Image.Image, where: str) -> ShardSample:
        if picture.size != (self.resolution, self.resolution):
            raise SynthesisError(
                f"pictures of {self.resolution} x {self.resolution} px are expected of the pipeline, received "
                "{} x {}".format(*picture.size)
            )
        kind, data = encode_target(picture, self.form)
        record = encode_json({**decode_json(sample, where), "target_seed": seed})
        return ShardSample(sample.key, {"txt": sample.members["txt"], "json": record, kind: data})


def has_safety_checker(folder: Path) -> bool:
    """Whether a pipeline's folder brings a safety checker.

    Raises: WeightsError when its index is not a JSON object.
    """
    try:
        parts = json.loads((folder / PIPELINE.entry).read_text(encoding="utf-8"))
        return bool((parts.get("safety_checker") or [None])[0])
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise WeightsError(
            f"{folder}: {PIPELINE.entry} of diffusers is expected, received something else; {PIPELINE.how_to_fetch}"
        ) from error


def load_text_to_image(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The text-to-image pipeline of a diffusers folder, with the safety checker that it brings.

    Raises: WeightsError when it is of another kind or cannot be read.
    """
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(
            folder, use_safetensors=True, torch_dtype=dtype, local_files_only=True
        )
    except Exception as error:  # diffusers, transformers and safetensors fail in their own ways
        raise WeightsError(
            f"{folder}: a text-to-image pipeline of diffusers is expected, received one that cannot be used "
            f"({first_line(error)}); {PIPELINE.how_to_fetch}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
