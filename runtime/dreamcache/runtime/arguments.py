"""What a caller passes, checked by name before any work: whole numbers, paths, functions, and NAME=VALUE.

Python's own error of a wrong type names a line of this package; these name the argument, what is expected and what
came. Options of the form NAME=VALUE are read into a described pydantic model (`train --set`, `export --coreml`).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

from dreamcache.runtime.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)


def whole_number(name: str, value: object, least: int, most: int, hint: str = "") -> int:
    """A whole number within bounds, numpy's among them, as an int. hint: what to try instead.

    Raises: SettingsError.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # anything a caller passes; refused below
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        tail = f"; {hint}" if hint else ""
        raise SettingsError(
            f"{name}: a whole number from {least} to {most} is expected, received {value!r}{tail}"
        )
    return number


def path_of(name: str, value: object) -> Path:
    """A path given as text or as a path. Raises: SettingsError for anything else."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise SettingsError(f"{name}: a path is expected, received {type(value).__name__}")
    return Path(text)


def switch(name: str, value: object) -> bool:
    """Yes or no; None is no. Raises: SettingsError for anything else, a text that says "no" among it."""
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise SettingsError(f"{name}: True or False is expected, received {value!r}")
    return bool(value)


def latents_of(name: str, value: object, shape: Sequence[int]) -> NDArray[np.float32]:
    """Latents [n, z, h, w] of a bundle, whose own `shape` is [1, z, h, w]. Raises: SettingsError."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu" or array.ndim != 4 or array.shape[1:] != tuple(shape[1:]):
        received = f"{list(array.shape)} of {array.dtype}" if array.ndim else type(value).__name__
        raise SettingsError(f"{name}: numbers {['n', *shape[1:]]} are expected, received {received}")
    return array.astype(np.float32, copy=False)


def pixels_of(name: str, value: object, side: int) -> NDArray[np.float32]:
    """A Pillow image of this width and height as [1, 3, h, w], -1…1. Raises: SettingsError for anything else."""
    if isinstance(value, Image.Image) and value.size == (side, side):
        return np.asarray(value.convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    received = "{} x {}".format(*value.size) if isinstance(value, Image.Image) else type(value).__name__
    raise SettingsError(
        f"{name}: a Pillow image of {side} x {side} pixels is expected, received {received}; Pipeline.cache takes "
        "pictures of any size"
    )


def named(name: str, value: Any) -> Mapping[str, Any]:
    """Values by their names. Raises: SettingsError for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SettingsError(f"{name}: values by name are expected, received {type(value).__name__}")
    return value


def check_functions(**given: object) -> None:
    """Arguments by name. Raises: SettingsError for one that is neither None nor can be called."""
    for name, value in given.items():
        if value is not None and not callable(value):
            raise SettingsError(f"{name}: a function is expected, received {type(value).__name__}")


def read_assignments(option: str, assignments: Sequence[str]) -> dict[str, str]:
    """The values by name; of a name that comes twice, the last.

    Raises: SettingsError for a text without an equals sign.
    """
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"{option} {assignment!r}: NAME=VALUE is expected")
        values[name.strip()] = value.strip()
    return values


def with_values(current: Model, values: Mapping[str, Any], owner: str) -> Model:
    """A copy with these values; texts are read as the value's type, "none" as None.

    owner: whose values they are, for the message: "the preset".
    Raises: SettingsError naming the first value that is unknown, of another type or out of range.
    """
    read = {name: None if value == "none" else value for name, value in values.items()}
    try:
        return type(current).model_validate({**current.model_dump(), **read})
    except ValidationError as error:
        first = error.errors()[0]
        name, known = str(first["loc"][0]), type(current).model_fields
        if name not in known:
            raise SettingsError(
                f"{owner} has no value named {name!r}; expected one of {', '.join(known)}"
            ) from error
        said = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name} is {values.get(name)!r}: {said[0].lower()}{said[1:]}") from error
