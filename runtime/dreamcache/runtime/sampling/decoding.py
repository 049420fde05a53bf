"""From an unscaled latent to a picture: the decoder in one graph, or in strips of rows (`decoder_strips.py`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.bundle.contract import Graphs, StripSpec, strip_name
from dreamcache.runtime.bundle.decoder_strips import next_start, scale_of, windows
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sessions.allocator import map_large_blocks, release_freed
from dreamcache.runtime.sessions.session import GraphSession

Pixels = NDArray[np.float32]


OpenGraph = Callable[[str], AbstractContextManager[GraphSession]]
"""Opens a graph by its name in the contract, as `SessionOpener.open` does."""


@contextmanager
def open_decoder(graphs: Graphs, open_graph: OpenGraph, tiled: bool) -> Iterator[Callable[[Pixels], Pixels]]:
    """A function from an unscaled latent [1, z, h, w] to its picture [1, 3, H, W].

    tiled: in strips, for less memory; graphs are then opened and closed within each call.
    Raises: SettingsError for a bundle whose decoder has no strips.
    """
    if tiled:
        check_tiled(graphs)
        yield partial(decode_in_strips, graphs, open_graph)
        return
    whole = graphs.vae_decoder
    with open_graph("vae_decoder") as graph:
        yield lambda latent: graph.run({whole.inputs[0].name: latent})[whole.outputs[0].name]


def to_image(pixels: Pixels) -> Image.Image:
    """The 8-bit RGB picture of pixels [3, H, W] in -1…1."""
    unit = np.clip(pixels.astype(np.float32) / 2 + 0.5, 0, 1)
    return Image.fromarray((unit * 255).round().astype(np.uint8).transpose(1, 2, 0))


def check_tiled(graphs: Graphs) -> None:
    """Raises: SettingsError for a bundle whose decoder has no strips."""
    if graphs.vae_decoder_head is None:
        raise SettingsError(
            "this bundle's VAE decoder has no strips (at its picture size they would save nothing); "
            "leave the tiled VAE out"
        )


def decode_in_strips(graphs: Graphs, open_graph: OpenGraph, latent: Pixels) -> Pixels:
    """The picture [1, 3, H, W] of an unscaled latent [1, z, h, w], one graph after the other, strip by strip.

    It is the whole decoder's picture but for rounding.
    """
    head = graphs.vae_decoder_head
    assert head is not None
    # 413 MB instead of 530 at 512 px, for a twentieth more time: this path is taken for memory.
    map_large_blocks()
    with open_graph("vae_decoder_head") as graph:
        given = graph.run({head.inputs[0].name: latent})
    release_freed()
    state = StripState(RowMap([given.pop(head.outputs[0].name)]))
    for index, strip in enumerate(graphs.vae_decoder_strips):
        with open_graph(strip_name(index)) as graph:
            state = run_strip(graph, strip, state)
        release_freed()
    return state.features.rows(0, state.features.height)


class RowMap:
    """A feature map [1, c, h, w] in strips of rows, made and given up a strip at a time from the top."""

    def __init__(self, strips: list[Pixels] | None = None) -> None:
        self._strips: deque[Pixels] = deque(strips or [])
        self._top = 0
        self.height = sum(strip.shape[2] for strip in self._strips)

    def append(self, strip: Pixels) -> None:
        """Add rows below."""
        self._strips.append(strip)
        self.height += strip.shape[2]

    def rows(self, start: int, end: int) -> Pixels:
        """A copy of rows [start, end), none of which may have been given up."""
        assert self._top <= start < end <= self.height
        parts, above = [], self._top
        for strip in self._strips:
            below = above + strip.shape[2]
            if above < end and below > start:
                parts.append(strip[:, :, max(start - above, 0) : end - above])
            above = below
        return np.concatenate(parts, axis=2)

    def give_up(self, row: int) -> None:
        """Release the strips that lie wholly above a row."""
        while self._strips and self._top + self._strips[0].shape[2] <= row:
            self._top += self._strips.popleft().shape[2]


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
    features, residual = state.features, state.residual
    names = {spec.name for spec in strip.outputs}
    rows, k = strip.inputs[0].shape[2], scale_of(strip.kind)
    result, shortcut = RowMap(), RowMap()
    sums: NDArray[np.float64] | float = 0.0
    height = features.height
    for window in windows(height, rows, k):
        feed = {"features": features.rows(window.start, window.start + rows)}
        if strip.kind != "upsample":
            feed["statistics"] = state.statistics
        if strip.kind == "second_convolution":
            assert residual is not None
            feed["residual"] = residual.rows(window.start, window.start + rows)
        given = graph.run(feed)
        counted = slice(window.first - k * window.start, window.end - k * window.start)
        # Copies, so that the whole windows are released.
        result.append(given["result"][:, :, counted].copy())
        if "shortcut" in names:
            shortcut.append(given["shortcut"][:, :, counted].copy())
        if "sums" in names:
            sums = sums + given["sums"][:, :, counted].sum(axis=-1, dtype=np.float64)
        above = next_start(window.end, height, rows, k)
        if strip.kind != "first_convolution" or "shortcut" in names:
            features.give_up(above)
        if strip.kind == "second_convolution" and residual is not None:
            residual.give_up(above)
    following = StripState(result)
    if strip.kind == "first_convolution":
        following.residual = shortcut if "shortcut" in names else features
    if "sums" in names:
        _, channels, _, width = strip.outputs[0].shape
        count = channels * width * result.height / strip.outputs[-1].shape[1]
        following.statistics = _moments(np.asarray(sums) / count)
    return following


def _moments(means: NDArray[np.float64]) -> Pixels:
    """[2, groups]: mean and variance from the means of values and of squares."""
    mean, square = means
    return np.stack([mean, np.maximum(square - mean**2, 0.0)]).astype(np.float32)
