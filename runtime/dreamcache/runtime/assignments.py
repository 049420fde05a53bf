"""Options of the form NAME=VALUE, read into a described pydantic model (`train --set`, `export --coreml`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dreamcache.runtime.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)


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
