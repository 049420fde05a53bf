"""DreamCache's adapters on a diffusers pipeline of one's own, whose scheduler, LoRAs and callbacks go on working.

Forward hooks on the tapped blocks' norm and attention take the place of `ConditionedUNet`'s walk; every other line is
the pipeline's. It predicts with and without the prompt as one batch, and the reference stays on in both: that is the
guidance mode `classic`, or `none` at a guidance scale of 1.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.second_text import SecondText
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.conditioned import Cache, ConditionedUNet, first_block
from dreamcache.models.errors import AdapterError
from dreamcache.models.pipeline import DreamCachePipeline

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_ATTACHED: WeakSet[nn.Module] = WeakSet()


class Attachment:
    """Adapters on a diffusers pipeline, until `detach`.

    Args:
        pipe: the pipeline.
        conditioned: its UNet with adapters.

    Attributes:
        strength: how far the tapped blocks go from the stock ones (0) to the conditioned ones (1).
    """

    def __init__(self, pipe: Any, conditioned: ConditionedUNet) -> None:
        self.strength = 1.0
        self._pipe = pipe
        self._conditioned = conditioned
        self._subject: Cache | None = None
        self._hooks = [hook for site in conditioned.sites for hook in self._hook(site.name)]
        _ATTACHED.add(conditioned.unet)

    @property
    def resolution(self) -> int:
        """Side of references in pixels; pictures may have any size that the pipeline draws."""
        return self._reader().resolution

    @property
    def subject(self) -> Cache | None:
        """Whom the pipeline draws: site name to tokens [1, m, d], as `cache` gave it; None is the stock pipeline.

        Raises:
            AdapterError: the cache belongs to other adapters.
        """
        return self._subject

    @subject.setter
    def subject(self, subject: Cache | None) -> None:
        if subject is not None:
            self._conditioned.check_cache(subject)
        self._subject = subject

    def cache(self, reference: Image.Image) -> Cache:
        """Cache a prepared reference by one pass of the UNet, with whatever LoRAs it has now.

        Args:
            reference: as `DreamCachePipeline.cache` takes it.

        Raises:
            AdapterError: the VAE or the UNet overflows in the pipeline's precision.
            ValueError: another size or mode.
        """
        drawn, self._subject = self._subject, None
        try:
            cache = self._reader().cache(reference)
        finally:
            self._subject = drawn
        if not all(bool(torch.isfinite(tokens).all()) for tokens in cache.values()):
            raise AdapterError(
                f"the reference's features are not finite numbers in {self._pipe.unet.dtype}; load the pipeline in "
                "float32, or give it a VAE that is made for float16"
            )
        return cache

    def detach(self) -> None:
        """Give the pipeline back as it was."""
        for hook in self._hooks:
            hook.remove()
        _ATTACHED.discard(self._conditioned.unet)

    def _reader(self) -> DreamCachePipeline:
        """Our pipeline over the parts that theirs has now."""
        pipe, second = self._pipe, None
        if getattr(pipe, "text_encoder_2", None) is not None:
            zeros = bool(pipe.config.force_zeros_for_empty_prompt)
            second = SecondText(pipe.text_encoder_2, pipe.tokenizer_2, zeros)
        base = Base(**{name: getattr(pipe, name) for name in _PARTS}, path=None, second=second)
        return DreamCachePipeline(base, self._conditioned)

    def _hook(self, site: str) -> list[RemovableHandle]:
        """Hooks that put the adapter of a site behind the attention that it replaces."""
        adapter, block = self._conditioned.adapter(site), first_block(self._conditioned.unet, site)
        norm, attention = (
            (block.norm1, block.attn1) if adapter.place == "self" else (block.norm2, block.attn2)
        )
        entered: list[Tensor] = []

        def keep(_norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            entered[:] = arguments[:1]

        def replace(_attention: nn.Module, _arguments: tuple[Any, ...], stock: Tensor) -> Tensor | None:
            hidden = entered.pop()
            if self._subject is None or self.strength == 0:
                return None
            tokens = self._subject[site].to(hidden)
            return torch.lerp(stock, adapter.to(hidden)(hidden, stock, tokens), self.strength)

        return [norm.register_forward_pre_hook(keep), attention.register_forward_hook(replace)]


def attach(pipe: Any, adapters: str | os.PathLike[str]) -> Attachment:
    """Put adapters on a diffusers pipeline, which draws the stock pictures until it has a subject.

        attached = attach(pipe, "adapters.safetensors")
        attached.subject = attached.cache(prepare_reference("toy.png", size=attached.resolution).image)
        image = pipe("a toy robot on the beach").images[0]
        attached.detach()

    Args:
        pipe: a ``StableDiffusionPipeline``, a ``StableDiffusionXLPipeline``, or another one of the same parts.
        adapters: the safetensors file that training wrote.

    Raises:
        AdapterError: a pipeline without such parts, one that has adapters already, or the adapters of another base.
    """
    lacking = [name for name in _PARTS if getattr(pipe, name, None) is None]
    if lacking:
        raise AdapterError(
            f"{type(pipe).__name__} lacks {', '.join(lacking)}; give a Stable Diffusion pipeline of diffusers"
        )
    unet = pipe.unet
    if not isinstance(unet, UNet2DConditionModel):
        raise AdapterError(
            f"the pipeline's unet is a {type(unet).__name__}, expected UNet2DConditionModel; attach before compiling it"
        )
    if unet in _ATTACHED:
        raise AdapterError("the pipeline has adapters already; detach them first")
    # Our models freeze their base, which here is somebody else's.
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    conditioned = load_adapters(adapters, unet)
    for parameter in trainable:
        parameter.requires_grad_(True)
    return Attachment(pipe, conditioned)
