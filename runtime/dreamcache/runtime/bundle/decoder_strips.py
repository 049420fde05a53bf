"""Decoding in strips of rows: the tensors of the graphs that do it, and which rows each run gives.

The VAE decoder's memory is that of its last feature maps, and a convolution needs one row beyond those it
computes. What keeps a decoder from running on pieces is GroupNorm, whose statistics are those of the whole
map: pieces normalised by their own statistics meet in visible seams. So the decoder is cut at every
normalisation. Each graph runs over a whole map, strip by strip, and sums up what it gives; the next one takes
mean and variance of the whole. Nothing is estimated and nothing but the rows at the borders computed twice.

Four kinds of graph, in the order of a decoder's block (f the features, r the residual):

    upsample             f = conv(nearest(f))
    first_convolution    r = f or its 1 x 1 convolution;  f = conv(silu(norm(f)))
    second_convolution   f = r + conv(silu(norm(f)))
    output               picture = conv(silu(norm(f)))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dreamcache.runtime.bundle.tensors import TensorSpec

StripKind = Literal["upsample", "first_convolution", "second_convolution", "output"]

HALO_ROWS = 1
"""A 3 x 3 convolution's result is wrong in the row next to a cut."""
LEAST_ROWS = 2 * HALO_ROWS + 1


@dataclass(frozen=True)
class Window:
    """Rows that one run of a graph reads, and those of its result that it newly gives.

    start: first row read; the graph's shape says how many. first, end: rows of the whole result, [first, end),
    that count; the others are given by the runs before and after.
    """

    start: int
    first: int
    end: int


def windows(height: int, rows: int, scale: int) -> Iterator[Window]:
    """Windows of a fixed number of rows that give every row of the result once, from the top.

    They stay inside the map, so that the graph's own zero padding is where the map ends and nowhere else.

    height, rows: of the map that is read, and of each window. scale: rows of the result for each row read.
    """
    assert LEAST_ROWS <= rows <= height or rows == height
    done = 0
    while done < scale * height:
        start = next_start(done, height, rows, scale)
        end = scale * (start + rows) - (0 if start + rows == height else HALO_ROWS)
        yield Window(start, done, end)
        done = end


def next_start(done: int, height: int, rows: int, scale: int) -> int:
    """The first row read by the window that goes on after `done` rows of the result."""
    return min(max(done - HALO_ROWS, 0) // scale, height - rows)


def even_rows(height: int, most_rows: int, scale: int) -> int:
    """Rows of windows that share a map evenly, as few windows as about `most_rows` rows each allow."""
    if most_rows >= height:
        return height
    count = -(-height // max(most_rows, LEAST_ROWS))
    rows = -(-(scale * height + 2 * HALO_ROWS * (count - 1)) // (scale * count))
    return min(max(rows, LEAST_ROWS), height)


def scale_of(kind: StripKind) -> int:
    """Rows of the result for each row that is read."""
    return 2 if kind == "upsample" else 1


def strip_inputs(
    kind: StripKind, channels: int, rows: int, width: int, groups: int, residual_channels: int
) -> tuple[TensorSpec, ...]:
    """features [1,c,rows,w]; residual [1,c',rows,w] for a second convolution; statistics [2,groups]."""
    specs = [_map("features", channels, rows, width, "rows of the map")]
    if kind == "second_convolution":
        specs.append(_map("residual", residual_channels, rows, width, "the same rows of the residual"))
    if kind != "upsample":
        meaning = "mean and variance of each group over the whole map"
        specs.append(TensorSpec(name="statistics", shape=(2, groups), dtype="float32", meaning=meaning))
    return tuple(specs)


def strip_outputs(
    kind: StripKind, channels: int, rows: int, width: int, groups: int | None, shortcut: bool
) -> tuple[TensorSpec, ...]:
    """result [1,c,k·rows,k·w]; shortcut [1,c,rows,w] where the residual is convolved; sums [2,groups,k·rows].

    rows, width: of the input. groups: of the normalisation that follows; None when none does.
    """
    k = scale_of(kind)
    specs = [_map("result", channels, k * rows, k * width, "rows of the next map, wrong next to a cut")]
    if shortcut:
        specs.append(_map("shortcut", channels, rows, width, "rows of the residual"))
    if groups is not None:
        meaning = "sum and sum of squares of each group in each row of the result"
        shape = (2, groups, k * rows)
        specs.append(TensorSpec(name="sums", shape=shape, dtype="float32", meaning=meaning))
    return tuple(specs)


class DeclaredStrip(Protocol):
    """What `check_strips` reads of a graph."""

    @property
    def kind(self) -> StripKind: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


def check_strips(
    head: tuple[int, ...], strips: Sequence[DeclaredStrip], picture: tuple[int, int, int]
) -> None:
    """Refuse a chain in which a graph does not take what the one before it gives.

    head: shape of the features that the first one starts from. picture: [3, H, W].
    Raises: ValueError.
    """
    _, channels, height, width = head
    groups: int | None = None
    residual: int | None = None
    for index, strip in enumerate(strips):
        have, gives = ({spec.name: spec.shape for spec in specs} for specs in (strip.inputs, strip.outputs))
        place, kind, k = f"decoder strip {index} ({strip.kind})", strip.kind, scale_of(strip.kind)
        rows = have["features"][2] if len(have.get("features", ())) == 4 else 0
        if not (LEAST_ROWS <= rows <= height or rows == height):
            raise ValueError(f"{place}: {LEAST_ROWS} to {height} rows are expected, received {rows}")
        if (kind == "second_convolution") != (residual is not None) or (
            kind != "upsample" and groups is None
        ):
            raise ValueError(f"{place}: the strips before it do not leave what it takes, or leave more")
        expected = strip_inputs(kind, channels, rows, width, groups or 0, residual or 0)
        _same(place, have, {spec.name: spec.shape for spec in expected})
        given = gives["result"][1] if len(gives.get("result", ())) == 4 else 0
        following = gives["sums"][1] if len(gives.get("sums", ())) == 3 else None
        shortcut = kind == "first_convolution" and "shortcut" in gives
        outputs = strip_outputs(kind, given, rows, width, following, shortcut) if given else ()
        _same(place, gives, {spec.name: spec.shape for spec in outputs})
        if kind == "first_convolution":
            residual = given if shortcut else channels
        elif kind == "second_convolution":
            residual = None
        channels, height, width, groups = given, k * height, k * width, following
    if strips and ((channels, height, width) != picture or strips[-1].kind != "output"):
        raise ValueError(
            f"the decoder's strips are expected to end in a picture {list(picture)}, "
            f"received {[channels, height, width]} of {strips[-1].kind}"
        )


def _same(place: str, received: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    if received != expected:
        raise ValueError(f"{place}: {expected} is expected, received {received}")


def _map(name: str, channels: int, rows: int, width: int, meaning: str) -> TensorSpec:
    return TensorSpec(name=name, shape=(1, channels, rows, width), dtype="float32", meaning=meaning)
