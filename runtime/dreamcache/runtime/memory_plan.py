"""How much private memory each stage will need, known from the contract alone, and what fits a budget.

A stage's peak is taken as linear in a few quantities of the bundle: the weights that its graph has in weights
files and inside the graph, the UNet's and the VAE's largest activation, the decoder's maps in strips, and the
tensors that are held beside. The factors were fitted to measured peaks (`stage_peaks.py` measures and fits again);
one set for each profile, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from math import prod, sqrt
from typing import Literal, get_args

import numpy as np

from dreamcache.runtime.contract import Contract, GraphSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.profiles import Profile
from dreamcache.runtime.strips import scale_of
from dreamcache.runtime.tensors import TensorSpec, cache_tensors, caching_graph_outputs, deep_tensor

MB = 1e6
Stage = Literal["text", "vae_encode", "cache", "denoise", "vae_decode"]
STAGES: tuple[Stage, ...] = get_args(Stage)

_BYTES = {"float32": 4, "float16": 2, "int64": 8, "int32": 4}
# Stable Diffusion's decoder, by which a decoder's width at the picture's size is judged from its weights.
_DECODER_WIDTH, _DECODER_BYTES = 128, 198e6
_SHALLOW_SHARE = 0.1


@dataclass(frozen=True)
class Quantities:
    """What a stage's peak depends on, in bytes; `process` is 1.

    mapped, inline: weights in weights files and inside the graph. unet: features of the widest site times the
    batch. attention: attention's scores, where they are written out. vae: one map of the picture's size.
    strips: the maps that a decoder in strips holds at once. held: tensors of ours, counted as they are.
    """

    process: float = 1.0
    mapped: float = 0.0
    inline: float = 0.0
    unet: float = 0.0
    attention: float = 0.0
    vae: float = 0.0
    strips: float = 0.0
    held: float = 0.0


@dataclass(frozen=True)
class Factors:
    """Private bytes for each byte of a quantity; `process` in bytes."""

    process: float
    mapped: float
    inline: float
    unet: float
    attention: float
    vae: float
    strips: float
    held: float = 1.0

    def peak(self, quantities: Quantities) -> float:
        """Private bytes."""
        return float(np.dot(astuple(self), astuple(quantities)))


FACTORS: dict[Profile, Factors] = {
    "speed": Factors(process=48e6, mapped=0.95, inline=1.65, unet=52, attention=2.0, vae=11.3, strips=1.5),
    "memory": Factors(process=54e6, mapped=0.005, inline=1.09, unet=23, attention=2.0, vae=5.0, strips=1.2),
}


@dataclass(frozen=True)
class MeasuredPeak:
    """One stage's measured peak of private memory, with the quantities it is to be explained by."""

    profile: Profile
    quantities: Quantities
    private_bytes: float


def fit_factors(measured: Iterable[MeasuredPeak], profile: Profile, trust: float = 0.05) -> Factors:
    """The factors of a profile that explain measured peaks best, in relative terms.

    trust: how much the present factors count beside one measurement, so that a factor on which no
    measurement bears stays what it is. No factor becomes negative.
    """
    present = np.array(astuple(FACTORS[profile]))
    rows = [
        (np.array(astuple(peak.quantities)) * present / peak.private_bytes, 1.0)
        for peak in measured
        if peak.profile == profile
    ]
    # Each factor as a multiple of the present one, which it is drawn to.
    rows += [(row * trust, trust) for row in np.eye(len(present))]
    rows.append((np.eye(len(present))[-1] * 1e3, 1e3))  # what is held is counted, not fitted
    matrix, wanted = np.array([row for row, _ in rows]), np.array([value for _, value in rows])
    free = np.ones(len(present), bool)
    multiples = np.zeros(len(present))
    while True:
        multiples[:] = 0
        multiples[free] = np.linalg.lstsq(matrix[:, free], wanted, rcond=None)[0]
        if (multiples >= 0).all():
            return Factors(*(present * multiples).tolist())
        free &= multiples > 0


def stage_quantities(
    contract: Contract, stage: Stage, *, tiled: bool = False, shallow: bool = False
) -> Quantities:
    """What the contract says of a stage. tiled: decode in strips. shallow: step caching."""
    graphs, shape = contract.graphs, contract.architecture
    held = _bytes(cache_tensors(shape))
    if stage == "text":
        return _weights(contract, graphs.text_encoder)
    if stage == "vae_encode":
        picture = _picture_map(contract)
        return _with(_weights(contract, graphs.vae_encoder), vae=picture)
    if stage == "cache":
        if any(site.kept_tokens is not None for site in shape.sites):
            held += _bytes(caching_graph_outputs(shape))  # all tokens, and the ones that stay beside them
        return _with(_weights(contract, graphs.cache), held=held, **_unet_activations(contract, batch=1))
    if stage == "denoise":
        weights = _weights(contract, graphs.denoiser)
        deep = deep_tensor(shape)
        if shallow and deep is not None:
            # Three branches' deep features at the most, for one picture.
            held += 3 * prod(deep.shape) // shape.batch * _BYTES[deep.dtype]
            weights = _with(weights, mapped=weights.mapped * (1 + _SHALLOW_SHARE))
        return _with(weights, held=held, **_unet_activations(contract, batch=shape.batch))
    if tiled and graphs.vae_decoder_head is not None:
        return _with(_weights(contract, graphs.vae_decoder_head), strips=_strip_maps(contract))
    return _with(_weights(contract, graphs.vae_decoder), vae=_picture_map(contract))


def predict_peaks(
    contract: Contract, profile: Profile, *, tiled: bool = False, shallow: bool = False, caches: bool = False
) -> dict[Stage, float]:
    """Private bytes of each stage; caches: with those that make a subject of a reference."""
    stages = [stage for stage in STAGES if caches or stage not in ("vae_encode", "cache")]
    return {
        stage: FACTORS[profile].peak(stage_quantities(contract, stage, tiled=tiled, shallow=shallow))
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
            predict_peaks(contract, profile, tiled=way, shallow=shallow, caches=caches),
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


def parse_bytes(text: str, name: str) -> float:
    """Bytes from a number of MB, or one with the unit K, M or G (powers of ten). Raises: SettingsError."""
    units = {"K": 1e3, "M": 1e6, "G": 1e9}
    bare = text.strip().upper().removesuffix("B")
    unit = units.get(bare[-1:], MB)
    try:
        value = float(bare[:-1] if bare[-1:] in units else bare) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SettingsError(
            f"{name}: an amount of memory such as 600M or 1.5G is expected, received {text!r}"
        )
    return value


def _with(quantities: Quantities, **more: float) -> Quantities:
    known = {field.name: getattr(quantities, field.name) for field in fields(Quantities)}
    return Quantities(**{**known, **more})


def _bytes(specs: Iterable[TensorSpec]) -> int:
    return sum(prod(spec.shape) * _BYTES[spec.dtype] for spec in specs)


def _weights(contract: Contract, graph: GraphSpec) -> Quantities:
    return Quantities(
        mapped=sum(contract.files[path].size for path in graph.weights),
        inline=contract.files[graph.file].size,
    )


def _unet_activations(contract: Contract, batch: int) -> dict[str, float]:
    """The widest features, and attention's scores where no fused operator keeps them small."""
    shape = contract.architecture
    pixels = shape.latent_height * shape.latent_width
    narrowest = min(shape.sites, key=lambda site: site.width)
    features = max(pixels * narrowest.width, *(site.tokens * site.width for site in shape.sites))
    scores = 0.0
    if contract.attention == "plain":
        scores = narrowest.heads * pixels**2 / shape.key_value_pool**2
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
    """The most that two maps in a row take together: the one that is read and the one that is made."""
    head = contract.graphs.vae_decoder_head
    assert head is not None
    _, channels, height, width = head.outputs[0].shape
    most = 0.0
    for strip in contract.graphs.vae_decoder_strips:
        read = channels * height * width
        k, channels = scale_of(strip.kind), strip.outputs[0].shape[1]
        height, width = k * height, k * width
        most = max(most, 4.0 * (read + channels * height * width))
    return most
