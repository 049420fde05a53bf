"""Which layers go to 8 bits, and how: as fast as the picture and the condition allow.

Three questions, each answered by drawing real trajectories with the graphs in question. Can everything be dynamic? If
not, the layers that cost most go back to full precision, the fewest that suffice. Which convolutions may be static,
which is faster? Each group is tried alone, and the least sensitive go, the most that still pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log10
from pathlib import Path

import onnx_ir as ir

from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.session import open_exported
from dreamcache.export.int8.calibration import Range
from dreamcache.export.int8.layers import Layer, group_layers
from dreamcache.export.int8.rewrite import Format, quantise
from dreamcache.export.int8.trajectories import Array, Score, TrajectoryRecord, TrajectorySampler, compare
from dreamcache.export.int8.weights import QuantisedWeight
from dreamcache.runtime.bundle.contract import GraphSpec
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, MIN_INT8_LATENT_DB
from dreamcache.runtime.progress import StageProgress
from dreamcache.runtime.sessions.session import GraphSession

LATENT_MARGIN_DB = 2.0
"""What a choice must have over the gate: the gate looks at another trajectory."""
CONDITION_MARGIN = 0.6
"""What of the gate's tolerance a choice may use."""

Formats = dict[str, Format]


@dataclass(frozen=True)
class LayerChoice:
    """What was chosen.

    Attributes:
        formats: of the layers in 8 bits; the others stay in full precision.
        kept: groups that stay, most sensitive first.
        sensitivity_db: by group, what the final latent keeps when it alone is in 8 bits: products dynamic,
            convolutions static. Products are tried only where that is cheap, or where they had to be.
        score: of the choice; None where nothing was judged.
    """

    formats: Formats
    kept: tuple[str, ...]
    sensitivity_db: dict[str, float]
    score: Score | None


class LayerJudge:
    """Draws trajectories with some layers in 8 bits and compares them with the exact ones.

    Args:
        folder: holds the exact graphs' weights file; variants are written there and removed.
        denoiser: exact graph and its declaration.
        cache: likewise.
        weights: quantised weights of every layer.
        ranges: by graph, of every convolution's input and output.
        sampling: how trajectories are drawn.
        references: one for each trajectory.
        steps: of a trajectory.
    """

    def __init__(
        self,
        folder: Path,
        denoiser: tuple[ir.Model, GraphSpec],
        cache: tuple[ir.Model, GraphSpec],
        weights: Mapping[str, QuantisedWeight],
        ranges: Mapping[str, Mapping[str, Range]],
        sampling: TrajectorySampler,
        references: Mapping[int, Array],
        steps: int,
    ) -> None:
        self.folder = folder
        self.graphs = {"denoiser": denoiser, "cache": cache}
        self.weights, self.ranges = weights, ranges
        self.sampling, self.references, self.steps = sampling, references, steps
        self.exact = self._draw({})

    def score(self, formats: Formats) -> Score:
        """Score of trajectories with these layers in 8 bits."""
        return compare(self.exact, self._draw(formats))

    def _draw(self, formats: Formats) -> list[TrajectoryRecord]:
        with self._variant("cache", formats) as graph:
            caches = {index: graph.run({"latent": reference}) for index, reference in self.references.items()}
        with self._variant("denoiser", formats) as graph:
            return [
                self.sampling.trajectory(graph, index, self.steps, cache) for index, cache in caches.items()
            ]

    @contextmanager
    def _variant(self, name: str, formats: Formats) -> Iterator[GraphSession]:
        """A graph with some layers in 8 bits, on disk for as long as its session is open."""
        model, spec = self.graphs[name]
        path = self.folder / f"{name}-variant.onnx"
        ir.save(quantise(model, formats, self.weights, self.ranges[name]), path)
        try:
            # Packing copies the weights: worth it for products of integers, in vain for the rest.
            yield open_exported(name, path, spec, pack=2 * len(formats) > len(self.weights))
        finally:
            path.unlink()


def fastest(layers: Mapping[str, Layer]) -> LayerChoice:
    """Every layer in its fastest format, unjudged: random weights draw nothing that could be kept."""
    formats: Formats = {
        name: "static" if layer.kind == "convolution" else "dynamic" for name, layer in layers.items()
    }
    return LayerChoice(formats, (), {}, None)


def choose_layers(
    judge: LayerJudge, layers: Mapping[str, Layer], fine: bool, progress: StageProgress
) -> LayerChoice:
    """Answer the three questions.

    Args:
        judge: draws.
        layers: what can be quantised.
        fine: see `layers.group_layers`.
        progress: called with what is done, and how much of how much.

    Raises:
        ExportError: nothing can go to 8 bits.
    """
    groups = group_layers(layers, fine)
    dynamic: Formats = dict.fromkeys(layers, "dynamic")
    progress("choosing layers for 8 bits", 0, 1)
    score = judge.score(dynamic)
    kept: list[str] = []
    if not passes(score):
        alone = each_alone(judge, groups, "dynamic", progress)
        order = sorted(groups, key=lambda group: margin_db(alone[group]))
        progress("keeping sensitive layers", 0, 1)
        # One group at least goes to 8 bits: a bundle in full precision should not be called int8.
        count, score = fewest(
            len(order) - 1, lambda kept: judge.score(_without(dynamic, groups, order[:kept]))
        )
        kept = order[:count]
        dynamic = _without(dynamic, groups, kept)
    convolutions = {
        group: names
        for group, names in groups.items()
        if group not in kept and layers[names[0]].kind == "convolution"
    }
    if convolutions and not fine:
        # At full size a try takes most of a minute: where everything may be static at once, nothing is in question.
        progress("choosing fast convolutions", 0, 1)
        names = [name for group in convolutions.values() for name in group]
        everything: Formats = {**dynamic, **dict.fromkeys(names, "static")}
        score = judge.score(everything)
        if passes(score):
            return LayerChoice(everything, tuple(kept), {}, score)
    alone = each_alone(judge, convolutions, "static", progress)
    order = sorted(convolutions, key=lambda group: margin_db(alone[group]))

    def with_dynamic(count: int) -> Formats:
        """The most sensitive `count` groups of convolutions dynamic, the others static."""
        static = [name for group in order[count:] for name in convolutions[group]]
        return {**dynamic, **dict.fromkeys(static, "static")}

    progress("choosing fast convolutions", 0, 1)
    if order:
        count, score = fewest(len(order), lambda count: judge.score(with_dynamic(count)))
        dynamic = with_dynamic(count)
    if fine:
        products = {group: names for group, names in groups.items() if group not in convolutions}
        alone |= each_alone(judge, products, "dynamic", progress)
    sensitivity = {
        group: round(alone[group].final_db, 2) for group in sorted(alone, key=lambda g: margin_db(alone[g]))
    }
    return LayerChoice(dynamic, tuple(kept), sensitivity, score)


def passes(score: Score) -> bool:
    """Whether the gates hold with room to spare."""
    return (
        score.final_db >= MIN_INT8_LATENT_DB + LATENT_MARGIN_DB
        and score.condition_error <= CONDITION_MARGIN * CONDITION_TOLERANCE
    )


def margin_db(score: Score) -> float:
    """One figure for the picture and the condition: the worse of the two, in dB."""
    return min(score.final_db, -20.0 * log10(max(score.condition_error, 1e-9)))


def each_alone(
    judge: LayerJudge, groups: Mapping[str, list[str]], how: Format, progress: StageProgress
) -> dict[str, Score]:
    """The score of each group in 8 bits by itself."""
    found = {}
    for done, (group, names) in enumerate(groups.items()):
        progress("sensitivity of each layer", done, len(groups))
        found[group] = judge.score(dict.fromkeys(names, how))
    return found


def _without(formats: Formats, groups: Mapping[str, list[str]], kept: Sequence[str]) -> Formats:
    names = {name for group in kept for name in groups[group]}
    return {name: how for name, how in formats.items() if name not in names}


def fewest(most: int, score: Callable[[int], Score]) -> tuple[int, Score]:
    """The least count from 0 to `most` whose score passes, by doubling and then halving.

    Raises:
        ExportError: not even `most` passes.
    """
    failed, count = -1, 0
    found = score(count)
    while not passes(found):
        if count == most:
            raise ExportError(
                f"no choice of layers keeps the picture in 8 bits: the final latent is {found.final_db:.1f} dB, "
                f"the effects are {found.reference_ratio:.3f} and {found.text_ratio:.3f}; use --precision fp32"
            )
        failed, count = count, min(most, max(1, 2 * count))
        found = score(count)
    best = (count, found)
    while best[0] - failed > 1:
        middle = (best[0] + failed) // 2
        found = score(middle)
        if passes(found):
            best = (middle, found)
        else:
            failed = middle
    return best
