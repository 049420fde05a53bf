"""The portable form of the UNet in 8 bits: products with fixed ranges where the picture bears it.

OpenVINO and the accelerators of phones multiply integers between QuantizeLinear and DequantizeLinear and in no other
form; `DynamicQuantizeLinear` and `MatMulInteger` are slower there than bf16. ONNX Runtime's CPU provider is as fast
with ranges that it finds at each call, which lose less, so it keeps a form of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dreamcache.export.int8.layer_search import (
    Formats,
    LayerChoice,
    LayerJudge,
    each_alone,
    fewest,
    margin_db,
)
from dreamcache.export.int8.layers import Layer, group_layers
from dreamcache.export.int8.trajectories import Score
from dreamcache.runtime.progress import StageProgress


@dataclass(frozen=True)
class PortableChoice:
    """What was chosen.

    Attributes:
        formats: of the layers in 8 bits.
        kept: groups of products whose ranges stay each call's own, most sensitive first.
        score: of the choice; None where nothing was judged.
    """

    formats: Formats
    kept: tuple[str, ...]
    score: Score | None

    def note(self) -> str:
        """For the parity report."""
        said = "products of the portable form have fixed ranges"
        if self.score is None:
            return said
        kept = ", ".join(self.kept) or "none"
        return (
            f"{said}: final latent {self.score.final_db:.1f} dB, effect of the reference "
            f"{self.score.reference_ratio:.3f}, of the text {self.score.text_ratio:.3f}; "
            f"groups with ranges of each call: {kept}"
        )


def choose_portable(
    judge: LayerJudge | None,
    choice: LayerChoice,
    layers: Mapping[str, Layer],
    fine: bool,
    progress: StageProgress,
) -> PortableChoice:
    """The most products with fixed ranges that still pass; convolutions stay as they were chosen.

    Args:
        judge: draws; None takes every product.
        choice: for ONNX Runtime's CPU provider.
        layers: what can be quantised.
        fine: see `layers.group_layers`.
        progress: called with what is done, and how much of how much.
    """
    products = {
        name: layer
        for name, layer in layers.items()
        if layer.kind == "product" and choice.formats.get(name) == "dynamic"
    }
    groups = group_layers(products, fine)

    def with_dynamic(kept: list[str]) -> Formats:
        """Products static, but for those of the groups that are kept."""
        static = [name for group, names in groups.items() if group not in kept for name in names]
        return {**choice.formats, **dict.fromkeys(static, "static")}

    if judge is None:
        return PortableChoice(with_dynamic([]), (), None)
    progress("choosing the portable form", 0, 1)
    order: list[str] = []

    def score(count: int) -> Score:
        if count > 0 and not order:
            alone = each_alone(judge, groups, "static", progress)
            order.extend(sorted(groups, key=lambda group: margin_db(alone[group])))
        return judge.score(with_dynamic(order[:count]))

    count, found = fewest(len(groups), score)
    return PortableChoice(with_dynamic(order[:count]), tuple(order[:count]), found)
