"""The UNet with its adapters: stock without a cache, personalised with one (paper, figure 2).

A tapped site is a `Transformer2DModel`; where it holds several transformer blocks
(``transformer_layers_per_block`` above 1, as in SDXL) the adapter sits in the first, since the cached tokens
are those that enter the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamcache.models.adapter import ADAPTERS, FusionAdapter
from dreamcache.models.config import AdapterConfig
from dreamcache.models.errors import AdapterError
from dreamcache.models.walk.sites import find_sites
from dreamcache.models.walk.transformer import enter, feed_forward, leave
from dreamcache.models.walk.unet import Compute, call, stock, walk

Cache = dict[str, Tensor]
"""Cached reference: site name to tokens [1 or b, m, d]."""


class ConditionedUNet(nn.Module):
    """A frozen base UNet and one trainable adapter for every tapped site.

    Args:
        unet: the base; its parameters are frozen (``requires_grad`` off).
        config: fusion, sites and how the reference is cached.

    Attributes:
        sites: the tapped sites, in the order in which they run.

    Raises:
        AdapterError: the UNet is not supported or has no such sites.
    """

    def __init__(self, unet: UNet2DConditionModel, config: AdapterConfig | None = None) -> None:
        super().__init__()
        self.config = AdapterConfig() if config is None else config
        self.unet = unet.requires_grad_(False)
        self.sites = find_sites(unet, self.config.sites)
        kind = ADAPTERS[self.config.fusion]
        # A module's name holds no dots, so the path is kept with slashes; checkpoints use the true path.
        self.adapters = nn.ModuleDict(
            {
                _key(site.name): kind(site.width, first_block(unet, site.name).attn1.heads)
                for site in self.sites
            }
        )
        first = next(unet.parameters())
        self.adapters.to(device=first.device, dtype=first.dtype)

    def adapter(self, site: str) -> FusionAdapter:
        """The adapter of the site with that module path."""
        return cast(FusionAdapter, self.adapters[_key(site)])

    def adapter_parameters(self) -> Iterator[nn.Parameter]:
        """The trainable parameters: those of the adapters alone."""
        return self.adapters.parameters()

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor | float | int,
        text: Tensor,
        cache: Cache | None = None,
        strength: Tensor | None = None,
        added: Mapping[str, Tensor] | None = None,
        recompute: bool = False,
        visible: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Predict, with the reference where there is a cache.

        Args:
            latent: [b, z, h, w].
            timestep: a number, or a tensor [] or [b].
            text: [b, n, c].
            cache: tokens of every site, [1 or b, m, d]; None runs the stock model, bit for bit.
            strength: [b], how far each sample goes from the stock block (0) to the conditioned one (1); None
                is 1 for all.
            added: SDXL's added conditions, see `dreamcache.models.walk.unet.walk`.
            recompute: keep no activation inside the blocks for the way back, where each is computed again
                (gradient checkpointing, Chen et al. 2016); the gradients are the same.
            visible: for sites named here, which cached tokens each of the picture's tokens may read: bool
                [1 or b, 1 or n, m]. Each must read one at least.

        Returns:
            [b, z, h, w].

        Raises:
            AdapterError: the cache lacks a site, or its tokens have another width.
        """
        if cache is None:
            return walk(self.unet, latent, timestep, text, stock, added)
        self.check_cache(cache)
        compute = _recomputed if recompute else call

        def visit(name: str, transformer: Transformer2DModel, hidden: Tensor, context: Tensor) -> Tensor:
            if name not in cache:
                return compute(stock, name, transformer, hidden, context)
            return compute(
                conditioned_transformer,
                transformer,
                self.adapter(name),
                hidden,
                context,
                cache[name],
                strength,
                None if visible is None else visible.get(name),
            )

        return walk(self.unet, latent, timestep, text, visit, added, compute)

    def check_cache(self, cache: Cache) -> None:
        """Raises: AdapterError for a cache that lacks a site, or whose tokens have another width."""
        names = [site.name for site in self.sites]
        if set(cache) != set(names):
            raise AdapterError(f"the cache has sites {sorted(cache)}, expected {names}; cache again")
        for site in self.sites:
            tokens = cache[site.name]
            if tokens.ndim != 3 or tokens.shape[-1] != site.width:
                raise AdapterError(
                    f"the cache of {site.name} is {list(tokens.shape)}, "
                    f"expected [1 or b, tokens, {site.width}]"
                )


def conditioned_transformer(
    transformer: Transformer2DModel,
    adapter: FusionAdapter,
    hidden: Tensor,
    text: Tensor,
    cache: Tensor,
    strength: Tensor | None = None,
    visible: Tensor | None = None,
) -> Tensor:
    """A tapped site with its adapter at work: [b, d, h, w] to [b, d, h, w]."""
    tokens = enter(transformer, hidden)
    first, *rest = transformer.transformer_blocks
    tokens = _conditioned_block(first, adapter, tokens, text, cache, strength, visible)
    for block in rest:
        tokens = block(tokens, encoder_hidden_states=text)
    return leave(transformer, tokens, hidden)


def first_block(unet: UNet2DConditionModel, site: str) -> BasicTransformerBlock:
    """The transformer block of a site that carries the adapter."""
    return unet.get_submodule(site).transformer_blocks[0]


def _conditioned_block(
    block: BasicTransformerBlock,
    adapter: FusionAdapter,
    tokens: Tensor,
    text: Tensor,
    cache: Tensor,
    strength: Tensor | None,
    visible: Tensor | None,
) -> Tensor:
    added = block.attn1(block.norm1(tokens))
    if adapter.place == "self":
        added = _mix(added, adapter(tokens, added, cache, visible), strength)
    tokens = added + tokens
    if block.attn2 is not None:
        added = block.attn2(block.norm2(tokens), encoder_hidden_states=text)
        if adapter.place == "text":
            added = _mix(added, adapter(tokens, added, cache, visible), strength)
        tokens = added + tokens
    return feed_forward(block, tokens)


def _mix(stock_output: Tensor, conditioned: Tensor, strength: Tensor | None) -> Tensor:
    """stock + s · (conditioned - stock): s = 0 is the stock model exactly."""
    if strength is None:
        return conditioned
    return torch.addcmul(
        stock_output, strength.to(stock_output.dtype)[:, None, None], conditioned - stock_output
    )


def _recomputed(function: Compute, *inputs: Any) -> Tensor:
    # nothing inside a block draws random numbers
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))


def _key(site: str) -> str:
    return site.replace(".", "/")
