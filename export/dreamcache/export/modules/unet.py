"""The two graphs that share the UNet, as modules that hold nothing but export rewrites.

Source: docs/concepts/method.md, "What is folded where". Stock modules are diffusers' own, walked by
`dreamcache.models.walk.unet`; transformer blocks are written out here, so that attention can be emitted as one
operator and the adapters folded. With a the self-attention and m the reference attention, both before their
output projections Wo1 and Wo, a tapped block adds

    Wo1·a + bo1 + s · Δ,   Δ = (Wf1 - I)·(Wo1·a + bo1) + Wf2·(Wo·m + bo) + bf  =  [A | B]·[a ; m] + c

with A = (Wf1 - I)·Wo1, B = Wf2·Wo, c = (Wf1 - I)·bo1 + Wf2·bo + bf. So s = 0 is the stock block exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.export.errors import ExportError
from dreamcache.export.modules.attention import AttentionKind, attend, check_attention
from dreamcache.export.modules.folded_adapter import FoldedAdapter
from dreamcache.export.modules.token_layouts import TokensLast, layout_of
from dreamcache.export.modules.unet_copies import copy_at_timestep, copy_for_attention
from dreamcache.export.options import EXACT, Approximations
from dreamcache.models.adapter import ConditioningAdapter
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.second_text import Conditioning
from dreamcache.models.conditioned import ConditionedUNet, first_block
from dreamcache.models.walk.transformer import as_tokens, feed_forward
from dreamcache.models.walk.unet import finish, visits
from dreamcache.runtime.bundle.architecture import ADDED_CONDITIONS, Architecture


def caching_condition(base: Base, conditioned: ConditionedUNet, architecture: Architecture) -> Conditioning:
    """What the UNet reads while a reference is cached: the caching prompt, and of SDXL the reference's size."""
    side = architecture.reference_side
    # Of several chunks all would be alike, which attention does not notice.
    return replace(base, text_chunks=1).condition([conditioned.config.cache_prompt], (side, side), null=True)


class CachingGraph(nn.Module):
    """Noised reference latent [1, z, h, w] to (key, value), each [1, tokens, d], of every site in order.

    The timestep and the null text are constants: every residual block's time projection and every
    cross-attention's keys and values are computed once, here. Nothing after the last tapped block's input
    is computed.

    Args:
        conditioned: UNet and adapters.
        text: [1, n, c] embedding of the caching prompt.
        attention: how attention is written.
        approximations: of attention at the topmost level.
        added: `ADDED_CONDITIONS` of the caching prompt, for UNets like SDXL's; constants too.
    """

    def __init__(
        self,
        conditioned: ConditionedUNet,
        text: Tensor,
        attention: AttentionKind,
        approximations: Approximations = EXACT,
        added: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_exportable(conditioned)
        self.attention = attention
        self.layout = layout_of(attention)
        self.approximations = approximations
        self.sites = [site.name for site in conditioned.sites]
        timestep = conditioned.config.cache_timestep
        self.added = None if added is None else dict(added)
        self.unet = copy_at_timestep(conditioned.unet, timestep, text, self.added, attention)
        self.adapters = nn.ModuleDict({_key(site): _projections(conditioned, site) for site in self.sites})
        self.register_buffer("text", text, persistent=False)
        projected = self.layout.read(
            conditioned.unet.process_encoder_hidden_states(encoder_hidden_states=text, added_cond_kwargs=None)
        )
        self.constants = nn.ParameterDict()
        for name, transformer in _named_transformers(self.unet):
            for i, block in enumerate(transformer.transformer_blocks):
                key, value = block.attn2.to_k(projected), block.attn2.to_v(projected)
                self.constants[_key(f"{name}.{i}.key")] = nn.Parameter(key, requires_grad=False)
                self.constants[_key(f"{name}.{i}.value")] = nn.Parameter(value, requires_grad=False)

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        steps = visits(self.unet, latent, 0, cast(Tensor, self.text), self.added)
        asked = next(steps)
        while True:
            if asked.name in self.sites:
                topmost = is_topmost(self.unet, asked.transformer)
                outputs += self._keys_and_values(
                    asked.name, asked.hidden, self.approximations.reference_downsample if topmost else 1
                )
            if len(outputs) == 2 * len(self.sites):
                steps.close()
                return tuple(outputs)
            asked = steps.send(self._transform(asked.name, asked.transformer, asked.hidden))

    def _keys_and_values(self, site: str, hidden: Tensor, pool: int) -> tuple[Tensor, Tensor]:
        tokens = as_tokens(functional.avg_pool2d(hidden, pool) if pool > 1 else hidden)
        adapter = cast(nn.ModuleDict, self.adapters[_key(site)])
        return adapter["to_k"](tokens), adapter["to_v"](tokens)

    def _transform(self, name: str, transformer: Transformer2DModel, hidden: Tensor) -> Tensor:
        tokens = _enter(transformer, hidden, self.layout)
        pool = self.approximations.kv_downsample if is_topmost(self.unet, transformer) else 1
        for i, block in enumerate(transformer.transformer_blocks):
            own = _attended(block, tokens, hidden, self.attention, pool)
            tokens = block.attn1.to_out[0](own) + tokens
            key = self.constants[_key(f"{name}.{i}.key")]
            value = self.constants[_key(f"{name}.{i}.value")]
            tokens = _text_attention(block, tokens, key, value, self.attention)
            tokens = feed_forward(block, tokens)
        return _leave(transformer, tokens, hidden, self.layout)


class DenoiserGraph(nn.Module):
    """One denoiser for the stock and the conditioned path, chosen by sample.

    Args:
        conditioned: UNet and adapters.
        attention: how attention is written.
        approximations: of attention at the topmost level.
    """

    def __init__(
        self,
        conditioned: ConditionedUNet,
        attention: AttentionKind,
        approximations: Approximations = EXACT,
    ) -> None:
        super().__init__()
        check_exportable(conditioned)
        self.attention = attention
        self.layout = layout_of(attention)
        self.approximations = approximations
        self.sites = [site.name for site in conditioned.sites]
        self.unet = copy_for_attention(conditioned.unet, attention)
        self.added = () if self.unet.config.addition_embed_type is None else ADDED_CONDITIONS
        self.folded = nn.ModuleDict(
            {
                _key(site): FoldedAdapter(
                    cast(ConditioningAdapter, conditioned.adapter(site)),
                    first_block(conditioned.unet, site),
                    attention,
                )
                for site in self.sites
            }
        )

    def forward(
        self, latent: Tensor, timestep: Tensor, text: Tensor, reference_strength: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            latent: [b, z, h, w].
            timestep: [b].
            text: [b, n, c].
            reference_strength: [b]; 0 is the stock model, 1 DreamCache.
            others: `ADDED_CONDITIONS` where the UNet takes them; then key and value of every site in order,
                [1, tokens, d] each.

        Returns:
            The prediction [b, z, h, w], and what entered the last decoder block, [b, c, h', w'].
        """
        added = dict(zip(self.added, others, strict=False))
        cache = others[len(added) :]
        pairs = dict(zip(self.sites, zip(cache[::2], cache[1::2], strict=True), strict=True))

        def visit(name: str, transformer: Transformer2DModel, hidden: Tensor, context: Tensor) -> Tensor:
            tokens, read = _enter(transformer, hidden, self.layout), self.layout.read(context)
            pool = self.approximations.kv_downsample if is_topmost(self.unet, transformer) else 1
            for i, block in enumerate(transformer.transformer_blocks):
                own = _attended(block, tokens, hidden, self.attention, pool)
                added = block.attn1.to_out[0](own)
                if i == 0 and name in pairs:
                    folded = cast(FoldedAdapter, self.folded[_key(name)])
                    reference = (self.layout.read(one) for one in pairs[name])
                    added = added + self.layout.scale(reference_strength) * folded(tokens, own, *reference)
                tokens = added + tokens
                key, value = block.attn2.to_k(read), block.attn2.to_v(read)
                tokens = _text_attention(block, tokens, key, value, self.attention)
                tokens = feed_forward(block, tokens)
            return _leave(transformer, tokens, hidden, self.layout)

        return tuple(finish(visits(self.unet, latent, timestep, text, added), visit))  # type: ignore[return-value]


def check_exportable(conditioned: ConditionedUNet) -> None:
    """Refuse what the graphs cannot express.

    Raises:
        ExportError: another fusion than spatial concat, or a UNet with odd attention.
    """
    unet, fusion = conditioned.unet, conditioned.config.fusion
    if fusion != "spatial_concat":
        raise ExportError(
            f"the adapters fuse by {fusion!r}; only spatial_concat is exported, the rest are ablations"
        )
    if conditioned.config.further_timesteps:
        raise ExportError("the adapters cache at several timesteps; only one is exported, more are ablations")
    for name, transformer in _named_transformers(unet):
        for block in transformer.transformer_blocks:
            check_attention(f"{name}.attn1", block.attn1)
            if block.attn2 is None:
                raise ExportError(f"{name} has no text cross-attention; export a text-to-image UNet")
            check_attention(f"{name}.attn2", block.attn2)


def _attended(
    block: BasicTransformerBlock, tokens: Tensor, like: Tensor, attention: AttentionKind, pool: int
) -> Tensor:
    """Self-attention before its output projection: [b, n, d].

    With `pool` above 1 keys and values are read from tokens averaged over pool × pool cells of the picture `like`
    [b, d, h, w]; since projections are linear, that equals averaging keys and values.
    """
    own = block.attn1
    normed = block.norm1(tokens)
    layout = layout_of(attention)
    read = layout.tokens(functional.avg_pool2d(layout.picture(normed, like), pool)) if pool > 1 else normed
    return attend(own.to_q(normed), own.to_k(read), own.to_v(read), own.heads, attention)


def is_topmost(unet: UNet2DConditionModel, transformer: Transformer2DModel) -> bool:
    """Whether a block has the most tokens: it belongs to the first encoder or the last decoder block."""
    ends = [*getattr(unet.down_blocks[0], "attentions", ()), *getattr(unet.up_blocks[-1], "attentions", ())]
    return any(transformer is end for end in ends)


def _enter(transformer: Transformer2DModel, hidden: Tensor, layout: TokensLast) -> Tensor:
    """As `dreamcache.models.walk.transformer.enter`, in a copy whose projections take tokens."""
    return cast(Tensor, transformer.proj_in(layout.tokens(transformer.norm(hidden))))


def _leave(transformer: Transformer2DModel, tokens: Tensor, hidden: Tensor, layout: TokensLast) -> Tensor:
    """As `dreamcache.models.walk.transformer.leave`, in such a copy."""
    return layout.picture(transformer.proj_out(tokens), hidden) + hidden


def _text_attention(
    block: BasicTransformerBlock, tokens: Tensor, key: Tensor, value: Tensor, attention: AttentionKind
) -> Tensor:
    query = block.attn2.to_q(block.norm2(tokens))
    return cast(
        Tensor, block.attn2.to_out[0](attend(query, key, value, block.attn2.heads, attention)) + tokens
    )


def _projections(conditioned: ConditionedUNet, site: str) -> nn.ModuleDict:
    adapter = conditioned.adapter(site)
    return nn.ModuleDict({"to_k": adapter.to_k, "to_v": adapter.to_v})


def transformers_of(unet: UNet2DConditionModel) -> list[Transformer2DModel]:
    """Every block with attention."""
    return [transformer for _, transformer in _named_transformers(unet)]


def _named_transformers(unet: UNet2DConditionModel) -> list[tuple[str, Transformer2DModel]]:
    return [(name, module) for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)]


def _key(name: str) -> str:
    """Module names hold no dots."""
    return name.replace(".", "/")
