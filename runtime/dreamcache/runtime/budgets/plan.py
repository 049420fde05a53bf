"""How much private memory each stage will need, known from the contract alone, and what fits a budget.

A stage's peak is linear in a few quantities of the bundle (`factors.py`): the weights that its graph has in weights
files and inside the graph, the largest activation of UNet and VAE, the decoder's maps in strips, and tensors held
meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Literal, get_args

import numpy as np

from dreamcache.runtime.budgets.factors import FACTORS, Quantities
from dreamcache.runtime.bundle.architecture import cache_tensors, deep_tensor
from dreamcache.runtime.bundle.contract import Contract, GraphSpec, StripSpec
from dreamcache.runtime.bundle.decoder_strips import scale_of
from dreamcache.runtime.bundle.tensors import TensorSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.strips import HELD_BYTES, chain_length
from dreamcache.runtime.sessions.profiles import Profile

MB = 1e6
Stage = Literal["text", "vae_encode", "cache", "denoise", "vae_decode"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# Stable Diffusion's decoder, by which a decoder's width at the picture's size is judged from its weights.
_DECODER_WIDTH, _DECODER_BYTES = 128, 198e6
_SHALLOW_SHARE = 0.1
# Graphs of a chain run in turn; each holds its windows and what it makes of them.
_WINDOW_SHARE = 1.65


def stage_quantities(
    contract: Contract, stage: Stage, *, tiled: bool = False, shallow: bool = False, references: int = 1
) -> Quantities:
    """What the contract says of a stage. tiled: decode in strips. shallow: step caching. references: at once."""
    graphs, shape = contract.graphs, contract.architecture
    held = _bytes(cache_tensors(shape))
    if stage == "text":
        encoders = [_weights(contract, graph) for graph in graphs.text_encoders]
        return max(encoders, key=lambda one: one.mapped + one.inline)
    if stage == "vae_encode":
        share = shape.reference_side**2 / (shape.image_height * shape.image_width)
        return replace(_weights(contract, graphs.vae_encoder), encoder=share * _picture_map(contract))
    if stage == "cache":
        activations = _unet_activations(contract, 1, shape.reference_latent_shape)
        return replace(_weights(contract, graphs.cache), held=held, **activations)
    if stage == "denoise":
        held *= references
        weights = _weights(contract, graphs.denoiser)
        deep = deep_tensor(shape)
        if shallow and deep is not None:
            # Three branches' deep features at the most, for one picture.
            held += 3 * prod(deep.shape) // shape.batch * np.dtype(deep.dtype).itemsize
            weights = replace(weights, mapped=weights.mapped * (1 + _SHALLOW_SHARE))
        activations = _unet_activations(contract, shape.batch, shape.latent_shape)
        return replace(weights, held=held, **activations)
    if tiled and graphs.vae_decoder_head is not None:
        return replace(_weights(contract, graphs.vae_decoder_head), strips=_strip_maps(contract))
    return replace(_weights(contract, graphs.vae_decoder), decoder=_picture_map(contract))


def predict_peaks(
    contract: Contract,
    profile: Profile,
    *,
    tiled: bool = False,
    shallow: bool = False,
    caches: bool = False,
    references: int = 1,
) -> dict[Stage, float]:
    """Private bytes of each stage; caches: with those that make a subject of a reference."""
    factors = FACTORS[profile][contract.precision]
    stages = [stage for stage in STAGES if caches or stage not in ("vae_encode", "cache")]
    return {
        stage: factors.peak(
            stage_quantities(contract, stage, tiled=tiled, shallow=shallow, references=references)
        )
        for stage in stages
    }


@dataclass(frozen=True)
class MemoryPlan:
    """What was chosen and what it will need. peaks: private bytes of each stage."""

    profile: Profile
    tiled: bool
    batch: int
    budget: float
    peaks: dict[Stage, float]

    @property
    def peak(self) -> float:
        """The largest stage's private bytes."""
        return max(self.peaks.values())

    def summary(self) -> str:
        """One line."""
        stages = ", ".join(f"{stage} {peak / MB:.0f}" for stage, peak in self.peaks.items())
        return (
            f"plan for {self.budget / MB:.0f} MB: profile {self.profile}, VAE decoded "
            f"{'in strips' if self.tiled else 'whole'}, batch {self.batch}; "
            f"about {self.peak / MB:.0f} MB of private memory ({stages})"
        )


def plan_memory(
    contract: Contract,
    budget: float,
    *,
    shallow: bool = False,
    caches: bool = False,
    tiled: bool | None = None,
    references: int = 1,
) -> MemoryPlan:
    """The fastest choice that fits a budget in bytes: speed before memory, whole before strips.

    A graph's batch is fixed, so pictures in excess of it follow one another and need no more. tiled: leave
    only one choice there.
    Raises: SettingsError with the floor when nothing fits.
    """
    strips = contract.graphs.vae_decoder_head is not None
    ways = [way for way in (False, True) if (strips or not way) and tiled in (None, way)]
    profiles: tuple[Profile, ...] = ("speed", "memory")
    plans = [
        MemoryPlan(
            profile,
            way,
            contract.architecture.batch,
            budget,
            predict_peaks(
                contract, profile, tiled=way, shallow=shallow, caches=caches, references=references
            ),
        )
        for profile in profiles
        for way in ways or [False]
    ]
    for plan in plans:
        if plan.peak <= budget:
            return plan
    floor = min(plans, key=lambda plan: plan.peak)
    stage = max(floor.peaks, key=lambda stage: floor.peaks[stage])
    mend = ""
    if stage in ("vae_encode", "cache"):
        mend = "; a subject file made elsewhere with `dreamcache cache` leaves that stage out"
    elif contract.architecture.batch > 1:
        mend = "; a bundle exported with --batch 1 needs less"
    raise SettingsError(
        f"a budget of at least {floor.peak / MB:.0f} MB is expected (profile {floor.profile}, stage {stage}), "
        f"received {budget / MB:.0f} MB{mend}"
    )


_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", re.IGNORECASE)


def parse_bytes(text: str, name: str, bare: float = MB) -> float:
    """Bytes from a number with the unit K, M, G (powers of ten) or Ki, Mi, Gi; bare: the unit of one without.

    Raises: SettingsError.
    """
    found = _AMOUNT.fullmatch(text.strip())
    size = 0.0 if found is None else float(found[1]) * (_UNITS[found[2].upper()] if found[2] else bare)
    if size <= 0:
        raise SettingsError(
            f"{name}: an amount of memory such as 600M, 1.5G or 512Mi is expected, received {text!r}"
        )
    return size


def _bytes(specs: Iterable[TensorSpec]) -> int:
    return sum(prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs)


def _weights(contract: Contract, graph: GraphSpec) -> Quantities:
    return Quantities(
        mapped=sum(contract.files[path].size for path in graph.weights),
        inline=contract.files[graph.file].size,
    )


def _unet_activations(contract: Contract, batch: int, latent: tuple[int, ...]) -> dict[str, float]:
    """The widest features, and attention's scores where no fused operator keeps them small."""
    shape = contract.architecture
    pixels = prod(latent[2:])
    narrowest = min(shape.sites, key=lambda site: site.width)
    features = max(pixels * narrowest.width, *(site.tokens * site.width for site in shape.sites))
    scores = 0.0
    if contract.attention == "plain":
        # SDXL's topmost level has no attention; its narrowest site shows where the most tokens are.
        share = (
            1.0 if shape.pooled_width is None else narrowest.tokens / prod(shape.reference_latent_shape[2:])
        )
        scores = narrowest.heads * (share * pixels) ** 2 / shape.key_value_pool**2
    return {"unet": 4.0 * batch * features, "attention": 4.0 * batch * scores}


def _picture_map(contract: Contract) -> float:
    """One feature map of the VAE at the picture's size."""
    shape, graphs = contract.architecture, contract.graphs
    if graphs.vae_decoder_strips:
        width = float(graphs.vae_decoder_strips[-1].inputs[0].shape[1])
    else:
        stored = _weights(contract, graphs.vae_decoder)
        width = _DECODER_WIDTH * sqrt((stored.mapped + stored.inline) / _DECODER_BYTES)
    return 4.0 * width * shape.image_height * shape.image_width


def _strip_maps(contract: Contract) -> float:
    """The most that a decoder in strips holds at once: stored maps, and the windows of the graphs that are open."""
    head, strips = contract.graphs.vae_decoder_head, contract.graphs.vae_decoder_strips
    assert head is not None
    _, _, height, width = head.outputs[0].shape
    most, index = 0.0, 0
    while index < len(strips):
        chain = strips[index : index + chain_length(strips[index:], width, height, HELD_BYTES)]
        stored = _stored_maps(chain, height, width)
        windows = sum(_bytes((*strip.inputs, *strip.outputs)) for strip in chain)
        most = max(most, stored + _WINDOW_SHARE * windows)
        k = scale_of(chain[0].kind)
        height, width, index = k * height, k * width, index + len(chain)
    return most


def _stored_maps(chain: Sequence[StripSpec], height: int, width: int) -> float:
    """Bytes of the maps that lie beside each other; what is read goes as what is made comes, but for residuals."""
    first, last, k = chain[0], chain[-1], scale_of(chain[0].kind)
    read = 4.0 * first.inputs[0].shape[1] * height * width
    made = 4.0 * last.outputs[0].shape[1] * k * height * k * width
    if len(chain) > 1 or first.kind in ("upsample", "output"):
        return max(read, made)
    shortcut = any(spec.name == "shortcut" for spec in first.outputs)
    return max(read, 2 * made) if shortcut else read + made
