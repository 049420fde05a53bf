"""Surface patterns: how much accent colour a body shows at each point.

Patterns live on the toy, not on the picture: they turn with it. On each face they are laid out along the two
axes that the face spans, so that box sides, tops and balls all show whole figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.training.world.raycast import Array, Pattern


def _face_axes(toy: Array, normal: Array) -> tuple[Array, Array]:
    """The coordinates [n], [n] across and along the face that each point [3, n] lies on."""
    facing = np.abs(normal)
    sideways = facing[0] > np.maximum(facing[1], facing[2])
    upwards = facing[1] > np.maximum(facing[0], facing[2])
    across = np.where(sideways, toy[2], toy[0])
    along = np.where(upwards, toy[2], toy[1])
    return across, along


def _share(values: NDArray[Any]) -> Array:
    return np.asarray(values, np.float32)


def _plain(own: Array, _toy: Array, _normal: Array) -> Array:
    return np.zeros(own.shape[1], np.float32)


def _striped(_own: Array, toy: Array, normal: Array) -> Array:
    _, along = _face_axes(toy, normal)
    return _share(np.sin(2 * np.pi * along / 0.36) > 0.1)


def _banded(_own: Array, toy: Array, normal: Array) -> Array:
    across, _ = _face_axes(toy, normal)
    return _share(np.cos(2 * np.pi * across / 0.42) > 0.1)


def _spotted(_own: Array, toy: Array, normal: Array) -> Array:
    across, along = _face_axes(toy, normal)
    row = np.floor(along / 0.34)
    u = across / 0.40 + 0.5 * (row % 2)
    return _share(((u - np.round(u)) * 0.40) ** 2 + (along - (row + 0.5) * 0.34) ** 2 < 0.135**2)


def _checked(_own: Array, toy: Array, normal: Array) -> Array:
    across, along = _face_axes(toy, normal)
    return _share((np.floor(across / 0.27 + 0.5) + np.floor(along / 0.27)) % 2)


def _two_tone(own: Array, _toy: Array, _normal: Array) -> Array:
    return _share(own[0] < 0)


PATTERN_OF: dict[str, Pattern] = {
    "plain": _plain,
    "striped": _striped,
    "banded": _banded,
    "spotted": _spotted,
    "checked": _checked,
    "two-tone": _two_tone,
}
