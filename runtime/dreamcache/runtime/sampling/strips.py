"""Running the decoder's strip graphs (`bundle/decoder_strips.py`) over maps that are made and given up row by row.

A map is stored, or made again whenever its rows are asked for: a graph's rows depend on a few rows of what it reads and
on statistics of the whole. So a chain of graphs runs once for each normalisation in it, to learn the statistics, and a
last time for its result, without a map between its ends. The same graphs read the same windows: the picture is the same
bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import StripSpec
from dreamcache.runtime.bundle.decoder_strips import next_start, scale_of, windows
from dreamcache.runtime.sessions.session import GraphSession

Pixels = NDArray[np.float32]

HELD_BYTES = 1 << 27
"""Maps that lie beside each other are stored up to this size, and made again above."""


class RowMap:
    """A feature map [1, c, h, w] in strips of rows, made and given up a strip at a time from the top.

    height: of the whole map; None is what there is. fill: makes further rows. kept: nothing is given up for now.
    needed_from: the first row that a second reader still needs.
    """

    def __init__(
        self,
        strips: Sequence[Pixels] = (),
        height: int | None = None,
        fill: Callable[[], None] | None = None,
    ) -> None:
        self._strips: deque[Pixels] = deque(strips)
        self._top = 0
        self._made = sum(strip.shape[2] for strip in self._strips)
        self._height, self._fill = height, fill
        self.kept = False
        self.needed_from: int | None = None

    @property
    def height(self) -> int:
        """Rows of the whole map."""
        return self._made if self._height is None else self._height

    def append(self, strip: Pixels) -> None:
        """Add rows below."""
        self._strips.append(strip)
        self._made += strip.shape[2]

    def rows(self, start: int, end: int) -> Pixels:
        """A copy of rows [start, end), none of which may have been given up."""
        while end > self._made and self._fill is not None:
            self._fill()
        assert self._top <= start < end <= self._made
        parts, above = [], self._top
        for strip in self._strips:
            below = above + strip.shape[2]
            if above < end and below > start:
                parts.append(strip[:, :, max(start - above, 0) : end - above])
            above = below
        return np.concatenate(parts, axis=2)

    def give_up(self, row: int) -> None:
        """Release the strips that lie wholly above a row, as far as nobody else needs them."""
        last = row if self.needed_from is None else min(row, self.needed_from)
        while not self.kept and self._strips and self._top + self._strips[0].shape[2] <= last:
            self._top += self._strips.popleft().shape[2]

    def clear(self) -> None:
        """Release all of it; a map and what fills it refer to each other, so neither goes by itself."""
        self._strips.clear()
        self._fill = None


@dataclass
class StripState:
    """What one strip graph leaves to the next.

    features: the map so far. residual: what its block adds to it at the end.
    statistics: [2, groups], mean and variance of the features.
    """

    features: RowMap
    residual: RowMap | None = None
    statistics: Pixels = field(default_factory=lambda: np.zeros((2, 0), np.float32))


def run_strip(graph: GraphSession, strip: StripSpec, state: StripState) -> StripState:
    """Run one graph over the whole map; the maps it reads are given up on the way, unless still needed."""
    result = RowMap()
    shortcut = RowMap() if _has_shortcut(strip) else None
    sums: list[Pixels] = []
    for given in _windows(graph, strip, state):
        _append(given, result, shortcut)
        sums += [given["sums"]] if "sums" in given else []
    return StripState(result, _residual(strip, state, shortcut), _statistics(strip, sums, result.height))


def run_chain(graphs: Sequence[GraphSession], strips: Sequence[StripSpec], state: StripState) -> StripState:
    """Run several graphs of which only the last one's result is stored; the others run once more for each statistic."""
    known = [state.statistics]
    for count in range(1, len(strips) + 1):
        state.features.kept = count < len(strips)
        states = [state]
        for graph, strip, statistics in zip(graphs[: count - 1], strips, known[1:], strict=False):
            states.append(_streamed(graph, strip, states[-1], statistics))
        graph, strip = graphs[count - 1], strips[count - 1]
        if count == len(strips):
            state = run_strip(graph, strip, states[-1])
        else:
            height = scale_of(strip.kind) * states[-1].features.height
            given = [one["sums"] for one in _windows(graph, strip, states[-1])]
            known.append(_statistics(strip, given, height))
        for done in states[1:]:
            done.features.clear()
            if done.residual is not None and done.residual is not states[0].features:
                done.residual.clear()
    return state


def chain_length(strips: Sequence[StripSpec], width: int, height: int, held_bytes: int) -> int:
    """How many of the next graphs run as a chain: 1 where the maps between them may be stored.

    width, height: of the map that the first one reads.
    """
    kinds = [strip.kind for strip in strips[:3]]
    channels, made = strips[0].inputs[0].shape[1], strips[0].outputs[0].shape[1]
    k = scale_of(kinds[0])
    if kinds == ["upsample", "first_convolution", "second_convolution"]:
        return 3 if 4 * made * k * height * k * width > held_bytes else 1
    if kinds[:2] == ["first_convolution", "second_convolution"]:
        # A shortcut's map takes the place of the one that is read; without one, that has to stay.
        beside = made if _has_shortcut(strips[0]) else channels
        return 2 if 4 * (beside + made) * height * width > held_bytes else 1
    return 1


def _windows(graph: GraphSession, strip: StripSpec, state: StripState) -> Iterator[dict[str, Pixels]]:
    """What a graph gives, from the top: the rows that each window newly gives, as copies, so that the whole ones go."""
    features, residual = state.features, state.residual
    names = {spec.name for spec in strip.outputs}
    rows, k = strip.inputs[0].shape[2], scale_of(strip.kind)
    is_residual = strip.kind == "first_convolution" and "shortcut" not in names
    features.needed_from = 0 if is_residual else None
    height = features.height
    for window in windows(height, rows, k):
        feed = {"features": features.rows(window.start, window.start + rows)}
        if strip.kind != "upsample":
            feed["statistics"] = state.statistics
        if strip.kind == "second_convolution":
            assert residual is not None
            feed["residual"] = residual.rows(window.start, window.start + rows)
        # The feed is a copy: what no later window reads goes before the graph runs, which is when memory is short.
        above = next_start(window.end, height, rows, k)
        if is_residual:
            features.needed_from = above
        else:
            features.give_up(above)
        if strip.kind == "second_convolution" and residual is not None:
            residual.give_up(above)
        given = graph.run(feed)
        del feed  # while this waits for its reader, it holds no window
        counted = slice(window.first - k * window.start, window.end - k * window.start)
        yield {name: given.pop(name)[:, :, counted].copy() for name in names}
    features.needed_from = None


def _streamed(graph: GraphSession, strip: StripSpec, state: StripState, statistics: Pixels) -> StripState:
    """A graph's maps, whose rows are computed when they are asked for."""
    given = _windows(graph, strip, state)
    height = scale_of(strip.kind) * state.features.height

    def fill() -> None:
        _append(next(given), result, shortcut)

    result = RowMap((), height, fill)
    # Each of the two refers to `fill`, which refers back to both: whoever ends this clears what it was given.
    shortcut = RowMap((), height, fill) if _has_shortcut(strip) else None
    return StripState(result, _residual(strip, state, shortcut), statistics)


def _append(given: dict[str, Pixels], result: RowMap, shortcut: RowMap | None) -> None:
    result.append(given["result"])
    if shortcut is not None:
        shortcut.append(given["shortcut"])


def _residual(strip: StripSpec, state: StripState, shortcut: RowMap | None) -> RowMap | None:
    if strip.kind != "first_convolution":
        return None
    return state.features if shortcut is None else shortcut


def _has_shortcut(strip: StripSpec) -> bool:
    return any(spec.name == "shortcut" for spec in strip.outputs)


def _statistics(strip: StripSpec, sums: Sequence[Pixels], height: int) -> Pixels:
    """[2, groups]: mean and variance of a result of so many rows, from the sums of each window."""
    if not sums:
        return np.zeros((2, 0), np.float32)
    _, channels, _, width = strip.outputs[0].shape
    count = channels * width * height / strip.outputs[-1].shape[1]
    total: NDArray[np.float64] = np.sum([one.sum(axis=-1, dtype=np.float64) for one in sums], axis=0)
    mean, square = total / count
    return np.stack([mean, np.maximum(square - mean**2, 0.0)]).astype(np.float32)
