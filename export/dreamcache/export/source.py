"""Where an export's model comes from: a base with trained adapters, or a known architecture at random."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from dreamcache.export.errors import ExportError
from dreamcache.export.resources import ModelSize, size_of_architecture, size_of_files
from dreamcache.models.bases.architectures import ARCHITECTURES
from dreamcache.models.bases.base import MINI_ADAPTERS, Base, load_base
from dreamcache.models.bases.distillation import FewSteps, Sampling, follow_guidance
from dreamcache.models.bases.joined.additions import NOTHING, Additions, JoinedFile, split_weight
from dreamcache.models.bases.joined.few_steps import recognise_few_steps
from dreamcache.models.bases.joined.lora import join_lora
from dreamcache.models.bases.joined.other_vae import TAESD
from dreamcache.models.bases.joined.textual_inversion import join_inversion
from dreamcache.models.bases.parts.overrides import AS_CONFIGURED, Overrides, skip_layers
from dreamcache.models.bases.random_base import random_base
from dreamcache.models.checkpoint import base_fingerprint, load_adapters, read_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.errors import AdapterError


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        name: of the architecture, as the contract states it.
        base: the text-to-image model.
        conditioned: its UNet with adapters.
        weights: whether the weights were trained, or are random to measure devices with.
        metadata: of the adapters file.
        fingerprint: of the base before a LoRA was joined; None where none was.
        overrides: what was said of the base in the place of its files.
    """

    name: str
    base: Base
    conditioned: ConditionedUNet
    weights: Literal["trained", "random"] = "trained"
    metadata: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    overrides: Overrides = AS_CONFIGURED

    @classmethod
    def load(
        cls,
        base: str,
        adapters: Path | None = None,
        base_config: str | None = None,
        variant: str | None = None,
        sampling: Sampling | None = None,
        additions: Additions = NOTHING,
        overrides: Overrides = AS_CONFIGURED,
    ) -> Source:
        """A base and its adapters; ``mini`` brings its own. The other arguments are `load_base`'s.

        Raises:
            ExportError: the base or the adapters cannot be loaded, or do not belong together.
        """
        path = adapters_of(base, adapters)
        loaded = loaded_base(
            base,
            base_config=base_config,
            variant=variant,
            sampling=sampling,
            additions=additions,
            # A LoRA may reach layers that are left out afterwards.
            overrides=replace(overrides, clip_skip=0),
        )
        if loaded.second is not None and (additions.loras or additions.inversions):
            raise ExportError(
                "--lora, --textual-inversion: an SD 1.x or 2.x base is expected, received SDXL, to which nothing is "
                "joined yet; leave them out"
            )
        try:
            conditioned = load_adapters(path, loaded.unet).eval()
            fingerprint = base_fingerprint(loaded.unet) if additions.loras else None
            records = [_joined(loaded, given) for given in additions.loras]
            records += [join_inversion(loaded.parts, given) for given in additions.inversions]
            alone = loaded.second is None
            skip_layers(base, loaded.text_encoder, overrides.clip_skip, alone=alone)
            loaded = replace(
                loaded, joined=(*loaded.joined, *records), few_steps=_few_steps(additions.loras, sampling)
            )
            metadata = read_adapters(path)[1]
            return cls(_name(base), loaded, conditioned, "trained", metadata, fingerprint, overrides)
        except (AdapterError, OSError, SafetensorError) as error:
            raise ExportError(" ".join(str(error).split())) from error

    @classmethod
    def random(cls, architecture: str, folder: Path, vae: str | Path | None = None) -> Source:
        """A known architecture with random weights and adapters, to measure devices.

        Args:
            architecture: see `dreamcache.models.bases.architectures`.
            folder: an empty folder for the tokenizer; may go once the export is done.
            vae: as `random_base` takes it.

        Raises:
            ExportError: unknown architecture, or a VAE that cannot be used.
        """
        try:
            base = random_base(_known(architecture), folder, vae=vae)
        except (AdapterError, OSError) as error:
            raise ExportError(" ".join(str(error).split())) from error
        return cls(architecture, base, random_adapters(base), "random")


def adapters_of(base: str, adapters: Path | None) -> Path:
    """The adapters file that goes with a base; ``mini`` brings its own.

    Raises:
        ExportError: none was named for another base.
    """
    if adapters is not None:
        return adapters
    if base != "mini":
        raise ExportError(f"--adapters: an adapters file trained on {base} is expected, received none")
    return MINI_ADAPTERS


def loaded_base(
    base: str,
    *,
    base_config: str | None = None,
    variant: str | None = None,
    sampling: Sampling | None = None,
    additions: Additions = NOTHING,
    overrides: Overrides = AS_CONFIGURED,
) -> Base:
    """A base as `dreamcache.models.bases.base.load_base` takes it.

    Raises:
        ExportError: it cannot be loaded; one line.
    """
    if additions.vae == TAESD:
        raise ExportError(
            "--vae taesd has random weights and goes with --architecture; with --base give TAESD's folder or Hub id"
        )
    try:
        return load_base(
            base,
            config=base_config,
            variant=variant,
            sampling=sampling,
            additions=additions,
            overrides=overrides,
        )
    except (AdapterError, OSError, SafetensorError) as error:
        raise ExportError(" ".join(str(error).split())) from error


def planned_size(
    base: str | None,
    architecture: str | None,
    adapters: Path | None,
    variant: str | None = None,
    vae: str | Path | None = None,
) -> ModelSize:
    """Parameters of what is about to be loaded, without loading it; a Hub id is downloaded.

    Args:
        base: as `Source.load` takes it, or None.
        architecture: as `Source.random` takes it, where there is no base.
        adapters: of the base.
        variant: of the base's weights.
        vae: that takes the place of its own, which it may lack.

    Raises:
        ExportError: no such base, adapters or architecture.
    """
    try:
        if architecture is not None:
            return size_of_architecture(_known(architecture), vae)
        assert base is not None
        return size_of_files(base, adapters_of(base, adapters), variant, vae)
    except (AdapterError, OSError) as error:
        raise ExportError(" ".join(str(error).split())) from error


def random_adapters(base: Base, seed: int = 0) -> ConditionedUNet:
    """Adapters whose fusion is off its start, where it would change nothing and no gate could judge it.

    They are on the base's device and the same on every device.
    """
    conditioned = ConditionedUNet(base.unet).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in conditioned.adapter_parameters():
            if parameter.ndim == 2:
                step = torch.randn(parameter.shape, generator=generator).to(parameter.device)
                parameter.add_(0.3 * step / parameter.shape[1] ** 0.5)
    return conditioned


def _joined(base: Base, lora: str) -> JoinedFile:
    before = base.unet.time_embedding.linear_1.weight.clone()
    record = join_lora(base.parts, lora)
    if base.folded is not None:
        follow_guidance(base.unet, before, base.folded)
    return record


def _few_steps(loras: tuple[str, ...], sampling: Sampling | None) -> FewSteps | None:
    """What the LoRAs want, or what was asked for beside them.

    Raises:
        ExportError: they want different things.
    """
    if not loras or sampling == "standard":
        return None
    if sampling is not None:
        return FewSteps(sampling)
    wanted = {found for given in loras if (found := recognise_few_steps(split_weight(given)[0])) is not None}
    if len(wanted) > 1:
        raise ExportError(
            f"--lora: one way of sampling in few steps is expected, received {len(wanted)} "
            f"({', '.join(sorted(one.sampling for one in wanted))}); give --sampling, or one such LoRA"
        )
    return next(iter(wanted), None)


def _known(architecture: str) -> str:
    if architecture not in ARCHITECTURES:
        raise ExportError(
            f"--architecture: one of {', '.join(ARCHITECTURES)} is expected, received {architecture}"
        )
    return architecture


def _name(base: str) -> str:
    return base if base == "mini" else Path(base).name.removesuffix(".safetensors")
