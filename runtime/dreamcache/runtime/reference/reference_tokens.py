"""Reference tokens that are background, left out of a subject (docs/bundle.md, "Fewer reference tokens").

A tapped site has one token for each cell of its feature map, and the prepared reference is a subject on white. Where
the contract says that a site's graph takes fewer tokens (`SiteSpec.kept_tokens`), those whose cells hold most of the
subject stay. Attention knows no positions, so what stays needs no other mark than its order. Everything is counted in
whole numbers: another runner keeps the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.bundle.architecture import Architecture, SiteSpec
from dreamcache.runtime.reference.segmentation import plain_background


def keep_tokens(
    tensors: Mapping[str, NDArray[Any]], mask: NDArray[np.float32], architecture: Architecture
) -> dict[str, NDArray[Any]]:
    """The caching graph's outputs as the denoiser takes them: `cache_tensors`.

    tensors: per site keys and values, [1, tokens, width]. mask: [H, W], 0-1, the subject in the reference.
    """
    kept = dict(tensors)
    for site in architecture.sites:
        if site.kept_tokens is not None:
            positions = kept_positions(site, mask)
            for name in (site.key_name, site.value_name):
                kept[name] = np.ascontiguousarray(tensors[name][:, positions])
    return kept


def join_tokens(caches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Keys and values of several references as a denoiser takes them at once: their tokens, one after the other."""
    return {name: np.concatenate([cache[name] for cache in caches], axis=1) for name in caches[0]}


def kept_positions(site: SiteSpec, mask: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which tokens of a site stay, ascending.

    The cells that hold most of the subject come first. Of cells that hold the same (all subject, or none) an even
    sample is taken, in the order of a Bayer matrix: half of a subject's tokens show all of it, not its upper half.
    """
    coverage = _coverage(mask, site.token_height, site.token_width)
    order = np.lexsort((bayer_order(site.token_height, site.token_width), -coverage))
    return np.sort(order[: site.cached_tokens]).astype(np.int64)


def bayer_order(height: int, width: int) -> NDArray[np.int64]:
    """Rank of each cell, [height * width], rows first: any first so many are spread evenly (Bayer 1973).

    With bits counted from the lowest, bit k of row ^ column and of row are bits 2(n-1-k) + 1 and 2(n-1-k) of the rank.
    """
    bits = max(height - 1, width - 1).bit_length()
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    rank = np.zeros((height, width), np.int64)
    for bit in range(bits):
        pair = ((rows ^ columns) >> bit & 1) * 2 + (rows >> bit & 1)
        rank |= pair << 2 * (bits - 1 - bit)
    return rank.reshape(-1)


def mask_on_white(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The subject of a picture [1, 3, H, W], -1 to 1, that was put on white: [H, W], 0-1.

    Zeros where nothing but white is there; ones where the border is not of one colour.
    """
    pixels = ((picture[0].transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    found = plain_background(Image.fromarray(pixels))
    if found is None:
        return np.ones(pixels.shape[:2], np.float32)
    return np.asarray(found.foreground).astype(np.float32) / np.float32(255)


def _coverage(mask: NDArray[np.float32], height: int, width: int) -> NDArray[np.int64]:
    """How much subject each cell of the grid holds, [height * width], rows first, in one unit for all."""
    levels = np.rint(mask * 255).astype(np.int64)
    rows, columns = _overlap(levels.shape[0], height), _overlap(levels.shape[1], width)
    return np.asarray(rows @ levels @ columns.T).reshape(-1)


def _overlap(pixels: int, cells: int) -> NDArray[np.int64]:
    """How much of each pixel lies in each cell along one axis, [cells, pixels], in units of 1/cells of a pixel."""
    cell, pixel = np.arange(cells)[:, None], np.arange(pixels)[None]
    begin, end = (
        np.maximum(cell * pixels, pixel * cells),
        np.minimum((cell + 1) * pixels, (pixel + 1) * cells),
    )
    return np.asarray(np.maximum(end - begin, 0), np.int64)
