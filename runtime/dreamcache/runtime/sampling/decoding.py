"""From an unscaled latent to a picture: the decoder in one graph, or in strips of rows (`decoder_strips.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import numpy as np
from PIL import Image

from dreamcache.runtime.bundle.contract import Graphs, strip_name
from dreamcache.runtime.bundle.decoder_strips import scale_of
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.strips import (
    HELD_BYTES,
    Pixels,
    RowMap,
    StripState,
    chain_length,
    run_chain,
    run_strip,
)
from dreamcache.runtime.sessions.allocator import map_large_blocks, release_freed
from dreamcache.runtime.sessions.session import GraphSession

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


def decode_in_strips(
    graphs: Graphs, open_graph: OpenGraph, latent: Pixels, held_bytes: int = HELD_BYTES
) -> Pixels:
    """The picture [1, 3, H, W] of an unscaled latent [1, z, h, w], one graph or chain after the other, strip by strip.

    It is the whole decoder's picture but for rounding. held_bytes: see `strips.HELD_BYTES`.
    """
    head = graphs.vae_decoder_head
    assert head is not None
    # 413 MB instead of 530 at 512 px, for a twentieth more time: this path is taken for memory.
    map_large_blocks()
    with open_graph("vae_decoder_head") as graph:
        given = graph.run({head.inputs[0].name: latent})
    release_freed()
    state = StripState(RowMap([given.pop(head.outputs[0].name)]))
    _, _, _, width = head.outputs[0].shape
    strips, index = graphs.vae_decoder_strips, 0
    while index < len(strips):
        count = chain_length(strips[index:], width, state.features.height, held_bytes)
        chain = strips[index : index + count]
        with ExitStack() as opened:
            sessions = [opened.enter_context(open_graph(strip_name(index + i))) for i in range(count)]
            state = (
                run_strip(sessions[0], chain[0], state) if count == 1 else run_chain(sessions, chain, state)
            )
        release_freed()
        width *= scale_of(chain[0].kind)
        index += count
    return state.features.rows(0, state.features.height)
