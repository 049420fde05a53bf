"""Which layers go to 8 bits: everything, less what costs the picture or the condition too much.

Each group of layers is quantised alone and draws real trajectories; that orders them. Then all are quantised, and the
most sensitive go back to full precision until the final latent and both effects hold, by doubling and then halving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log10
from pathlib import Path

import onnx_ir as ir

from dreamcache.export.errors import ExportError
from dreamcache.export.gates import CONDITION_TOLERANCE, MIN_INT8_LATENT_DB
from dreamcache.export.int8.formats import QuantisedWeight, Range, quantise
from dreamcache.export.int8.layers import Kind, Layer, group_layers
from dreamcache.export.int8.trajectories import Array, Record, Sampling, Score, compare, open_graph
from dreamcache.runtime.contract import GraphSpec
from dreamcache.runtime.sessions import GraphSession

LATENT_MARGIN_DB = 2.0
"""What a choice must have over the gate: the gate looks at another trajectory."""
CONDITION_MARGIN = 0.8
"""What of the gate's tolerance a choice may use."""

FORMATS: dict[Kind, str] = {
    "convolution": "int8, static",
    "product": "int8, dynamic",
    "embedding": "int8 weights",
}
"""How the parity report names them."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        quantised: layers in 8 bits.
        formats: of every layer, for the parity report.
        kept: groups that stay in full precision, most sensitive first.
        sensitivity_db: by group, what the final latent keeps when it alone is quantised.
        score: of the choice.
    """

    quantised: frozenset[str]
    formats: dict[str, str]
    kept: tuple[str, ...]
    sensitivity_db: dict[str, float]
    score: Score


class Judge:
    """Draws trajectories with some layers in 8 bits and compares them with the exact ones.

    Args:
        folder: holds the exact graphs' weights file; variants are written there and removed.
        denoiser: exact graph and its declaration.
        cache: likewise.
        weights: quantised weights of every layer.
        ranges: by graph, of every convolution's input and output.
        sampling: how trajectories are drawn.
        references: a noised reference latent for each trajectory.
        steps: of a trajectory.
    """

    def __init__(
        self,
        folder: Path,
        denoiser: tuple[ir.Model, GraphSpec],
        cache: tuple[ir.Model, GraphSpec],
        weights: Mapping[str, QuantisedWeight],
        ranges: Mapping[str, Mapping[str, Range]],
        sampling: Sampling,
        references: Mapping[int, Array],
        steps: int,
    ) -> None:
        self.folder = folder
        self.denoiser, self.cache = denoiser, cache
        self.weights, self.ranges = weights, ranges
        self.sampling, self.references, self.steps = sampling, references, steps
        self.exact = self._draw(frozenset())

    def score(self, quantised: Iterable[str]) -> Score:
        """Of trajectories with these layers in 8 bits."""
        return compare(self.exact, self._draw(frozenset(quantised)))

    def _draw(self, quantised: frozenset[str]) -> list[Record]:
        caches = {}
        with _Variant(self, "cache", *self.cache, quantised) as graph:
            for index, latent in self.references.items():
                caches[index] = graph.run({"latent": latent})
        with _Variant(self, "denoiser", *self.denoiser, quantised) as graph:
            return [
                self.sampling.trajectory(graph, index, self.steps, cache) for index, cache in caches.items()
            ]


class _Variant:
    """A graph with some layers in 8 bits, on disk for as long as its session is open."""

    def __init__(
        self, judge: Judge, name: str, model: ir.Model, spec: GraphSpec, quantised: frozenset[str]
    ) -> None:
        self.path = judge.folder / f"{name}-variant.onnx"
        ir.save(quantise(model, quantised, judge.weights, judge.ranges[name]), self.path)
        self.name, self.spec = name, spec

    def __enter__(self) -> GraphSession:
        return open_graph(self.name, self.path, self.spec)

    def __exit__(self, *_: object) -> None:
        self.path.unlink()


def choose(judge: Judge, layers: Mapping[str, Layer], fine: bool, progress: Progress) -> Choice:
    """Judge each group alone, then find the fewest that must stay in full precision.

    Raises:
        ExportError: not even a single group can be quantised.
    """
    groups = group_layers(layers, fine)
    alone = {}
    for done, (group, names) in enumerate(groups.items()):
        progress("sensitivity of each layer", done, len(groups))
        alone[group] = judge.score(names)
    order = sorted(groups, key=lambda group: margin_db(alone[group]))

    def with_kept(count: int) -> tuple[frozenset[str], Score]:
        progress("choosing layers", 0, 1)
        names = frozenset(name for group in order[count:] for name in groups[group])
        return names, judge.score(names)

    failed, count = -1, 0
    quantised, score = with_kept(count)
    while not passes(score):
        if count >= len(order):
            raise ExportError(
                f"no layer can go to 8 bits: the final latent is {score.final_db:.1f} dB; use --precision fp32"
            )
        failed, count = count, min(len(order), max(1, 2 * count))
        quantised, score = with_kept(count)
    best = (count, quantised, score)
    while best[0] - failed > 1:
        count = (best[0] + failed) // 2
        quantised, score = with_kept(count)
        if passes(score):
            best = (count, quantised, score)
        else:
            failed = count
    count, quantised, score = best
    sensitivity = {group: round(alone[group].final_db, 2) for group in order}
    formats = {name: FORMATS[layer.kind] if name in quantised else "fp32" for name, layer in layers.items()}
    return Choice(quantised, formats, tuple(order[:count]), sensitivity, score)


def passes(score: Score) -> bool:
    """Whether the gates hold with room to spare."""
    return (
        score.final_db >= MIN_INT8_LATENT_DB + LATENT_MARGIN_DB
        and score.condition_error <= CONDITION_MARGIN * CONDITION_TOLERANCE
    )


def margin_db(score: Score) -> float:
    """One figure for the picture and the condition: the worse of the two, in dB."""
    return min(score.final_db, -20.0 * log10(max(score.condition_error, 1e-9)))
