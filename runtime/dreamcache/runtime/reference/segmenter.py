"""The subject of a picture by a segmenter in ONNX: a network that gives a mask, with its normalisation declared.

What the network is does not matter here: a bundle brings its own (`segmenter/model.onnx`), and `salient.py` reads
those that people have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.bundle.graphs import SegmenterSpec

# Less of a picture is noise, more means that nothing was told apart.
_CREDIBLE_SHARE = (0.01, 0.95)

Network = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Normalised colours [1, 3, h, w] to a mask [1, 1, h, w] from 0 to 1."""


def find_subject(rgb: Image.Image, spec: SegmenterSpec, network: Network) -> Image.Image | None:
    """The subject's mask, mode "L", of the picture's size; None where the network finds none, or everything."""
    height, width = spec.inputs[0].shape[2:]
    found = np.asarray(network(fed_picture(rgb, (height, width), spec.mean, spec.std)), np.float32)[0, 0]
    # what is no number is background
    return subject_of(np.clip(np.where(np.isfinite(found), found, 0), 0, 1), rgb.size)


def fed_picture(
    rgb: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """What a network reads of a picture: (colours from 0 to 1 - mean) / std, [1, 3, h, w]. size: h and w."""
    height, width = size
    smaller = rgb.width >= width and rgb.height >= height
    # Averages of whole areas; where there is nothing to average they would repeat pixels.
    way = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    colours = np.asarray(rgb.resize((width, height), way), np.float32) / 255
    normalised = (colours - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return normalised.transpose(2, 0, 1)[None].astype(np.float32)


def subject_of(mask: NDArray[np.float32], size: tuple[int, int]) -> Image.Image | None:
    """A mask [h, w], 0 to 1, as a picture "L" of a width and height; None where it holds nothing, or everything."""
    if not _CREDIBLE_SHARE[0] <= (mask > 0.5).mean() <= _CREDIBLE_SHARE[1]:
        return None
    return enlarged(mask, size)


def enlarged(mask: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """A mask [h, w], 0 to 1, as a picture "L" of a width and height."""
    return Image.fromarray(np.round(mask * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
