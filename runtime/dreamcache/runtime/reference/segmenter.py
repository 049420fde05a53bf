"""The subject of a picture by a segmenter in ONNX: a network that gives a mask, with its normalisation declared.

What the network is does not matter here: a bundle brings its own (`segmenter/model.onnx`).
"""

from __future__ import annotations

from collections.abc import Callable
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
    small = np.asarray(rgb.resize((width, height), Image.Resampling.BOX), np.float32) / 255
    colours = (small - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    found = np.asarray(network(colours.transpose(2, 0, 1)[None].astype(np.float32)), np.float32)[0, 0]
    # what is no number is background
    mask = np.clip(np.where(np.isfinite(found), found, 0), 0, 1)
    if not _CREDIBLE_SHARE[0] <= (mask > 0.5).mean() <= _CREDIBLE_SHARE[1]:
        return None
    return Image.fromarray(np.round(mask * 255).astype(np.uint8)).resize(rgb.size, Image.Resampling.BILINEAR)
