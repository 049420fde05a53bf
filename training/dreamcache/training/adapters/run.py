"""A training from end to end: base, data, cache of encoded samples, loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.checkpoint import base_fingerprint
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.files import write_json
from dreamcache.training.adapters.checkpoints import Origin
from dreamcache.training.adapters.data import TripletSource
from dreamcache.training.adapters.encoded import EncodedData, Share, encode, encoding_fingerprint
from dreamcache.training.adapters.objective import AdapterLoss
from dreamcache.training.adapters.preset import Preset
from dreamcache.training.adapters.trainer import ADAPTERS, Trainer
from dreamcache.training.device import fast_in_bf16, training_device

# the first start encodes all pictures before the processes meet
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Finished:
    """What a training leaves. `values`: the last line of the log; empty where nothing was left to do.

    main: whether this process is the one of several that tells.
    """

    adapters: Path
    steps: int
    values: dict[str, float]
    main: bool

    def as_dict(self) -> dict[str, str | float]:
        """For programs."""
        return {"adapters": str(self.adapters), "steps": self.steps, **self.values}

    def as_line(self) -> str:
        """For people."""
        told = {name: value for name, value in self.values.items() if name.startswith(("loss", "validation"))}
        return f"{self.adapters}: {self.steps} steps" + "".join(f", {n} {v:.4g}" for n, v in told.items())


def resolved(preset: Preset, base_source: str) -> Preset:
    """The preset with the base's own resolution where it names none."""
    if preset.resolution is not None:
        return preset
    base = load_base(base_source)
    return preset.replaced(resolution=int(base.unet.config.sample_size) * base.vae_factor)


def finetune(
    base_source: str,
    source: TripletSource,
    folder: Path,
    preset: Preset,
    encoded: Path | None = None,
    pairs: TripletSource | None = None,
) -> Finished:
    """Train adapters, or continue where the folder stands. The resolution is that of the source.

    Args:
        base_source: a diffusers folder, Hub id, checkpoint or ``mini``.
        source: where the pictures come from (`open_source`).
        folder: of the run.
        encoded: where caches of encoded samples lie; beside the run's files by default.
        pairs: samples with two subjects, for one step in `preset.pairs_every`.

    Raises:
        SettingsError: data, base and preset do not go together.
        DivergenceError: something is not finite, and where; the last checkpoint is kept.
        CheckpointError: the folder holds a damaged checkpoint, or another run.
    """
    if preset.resolution not in (None, source.resolution):
        raise SettingsError(
            f"the preset's resolution is {preset.resolution} and the pictures are read at {source.resolution}; give "
            "both the same"
        )
    preset = preset.replaced(resolution=source.resolution)
    if len(source) <= preset.validation:
        raise SettingsError(
            f"more than {preset.validation} samples are expected, for validation and training, received "
            f"{len(source)}; give more, or --set validation=0"
        )
    device = training_device()
    rounded = preset.precision == "bf16" or (preset.precision == "auto" and fast_in_bf16(device))
    accelerator = Accelerator(
        # said outright: without it several processes on CPUs would not find each other
        cpu=device.type == "cpu",
        mixed_precision="bf16" if rounded else "no",
        gradient_accumulation_steps=preset.accumulation,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )
    folder.mkdir(parents=True, exist_ok=True)
    base = load_base(base_source, accelerator.device)
    if source.resolution % base.vae_factor:
        raise SettingsError(
            f"the resolution is {source.resolution}; the base's autoencoder takes multiples of {base.vae_factor}"
        )
    place = folder / "encoded" if encoded is None else encoded
    share = Share(accelerator.process_index, accelerator.num_processes)
    sources = [source] if pairs is None else [source, pairs]
    caches = _encode_each(sources, base, preset, place, share)
    accelerator.wait_for_everyone()
    # before the base is rounded: adapters are tied to it as it is on disk
    origin = Origin.of(base_fingerprint(base.unet), "+".join(caches), preset, share.count)
    null, cache_text = base.encode_text([""]), base.encode_text([preset.cache_prompt])
    # PyTorch's own generator starts with other numbers in every process, and checkpoints keep its state
    torch.manual_seed(preset.seed + accelerator.process_index)
    base.text_encoder.to("cpu")
    base.vae.to("cpu")
    with torch.random.fork_rng():
        torch.manual_seed(preset.seed)
        conditioned = ConditionedUNet(base.unet, preset.adapters)
    if rounded:
        nn.Module.to(base.unet, torch.bfloat16)  # diffusers' own warns of modules that there are none of
    if accelerator.device.type == "cpu":
        base.unet.set_attn_processor(AttnProcessor())  # see objective.plain_products
    loss = AdapterLoss(base, conditioned, null, cache_text, preset.recompute)
    data = [EncodedData(cache, len(one)) for cache, one in zip(caches.values(), sources, strict=True)]
    trainer = Trainer(accelerator, base, loss, data[0], preset, folder, origin, *data[1:])
    if accelerator.is_main_process:
        _write_record(folder / "run.json", base_source, origin, preset, next(iter(caches.values())))
    trainer.train()
    return Finished(folder / ADAPTERS, trainer.step, trainer.last, accelerator.is_main_process)


def _encode_each(
    sources: Sequence[TripletSource], base: Base, preset: Preset, place: Path, share: Share
) -> dict[str, Path]:
    """The caches of encoded samples by their fingerprints, in order; this process's share of them is there."""
    caches = {}
    for source in sources:
        fingerprint = encoding_fingerprint(source, base, preset)
        caches[fingerprint] = place / fingerprint[:16]
        encode(caches[fingerprint], source, base, preset, share)
    return caches


def relative_source(source: str | Path, folder: Path) -> str:
    """A file or folder as it is reached from `folder`, so that a record names no user's home; a Hub id as it is."""
    if not Path(source).exists():
        return str(source)
    try:
        return Path(os.path.relpath(source, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return Path(source).name


def _write_record(path: Path, base: str, origin: Origin, preset: Preset, cache: Path) -> None:
    record = {
        "base": {"source": relative_source(base, path.parent), "fingerprint": origin.base},
        "encoded": relative_source(cache, path.parent),
        "samples_an_update": origin.update,
        "preset": preset.model_dump(mode="json"),
    }
    write_json(path, record)
