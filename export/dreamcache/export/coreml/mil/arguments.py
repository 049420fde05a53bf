"""An operation's arguments by MIL's parameter names, each asked for as what it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from dreamcache.export.errors import ExportError

Value = Tensor | str | list[Tensor]


class Arguments:
    """Values of an operation of type `kind`.

    Every method raises ExportError where an argument is missing or of another sort than the operation takes.
    """

    def __init__(self, kind: str, values: Mapping[str, Value]) -> None:
        self._kind = kind
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def tensor(self, name: str) -> Tensor:
        """A tensor."""
        value = self._values.get(name)
        if not isinstance(value, Tensor):
            raise ExportError(f"{self._kind}: a tensor {name} is expected")
        return value

    def optional(self, name: str) -> Tensor | None:
        """A tensor, or None where there is none."""
        return self.tensor(name) if name in self._values else None

    def tensors(self, name: str) -> list[Tensor]:
        """Several tensors."""
        value = self._values.get(name)
        if not isinstance(value, list):
            raise ExportError(f"{self._kind}: several tensors {name} are expected")
        return value

    def numbers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Whole numbers, of a scalar or a vector."""
        if default is not None and name not in self._values:
            return list(default)
        return [int(number) for number in self.tensor(name).reshape(-1)]

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        return self.numbers(name, None if default is None else [default])[0]

    def real(self, name: str, default: float) -> float:
        """A number."""
        return float(self.tensor(name)) if name in self._values else default

    def flag(self, name: str) -> bool:
        """True or false; false where it is not given."""
        return bool(self.tensor(name)) if name in self._values else False

    def flags(self, name: str, count: int) -> list[bool]:
        """As many flags; all false where they are not given."""
        return [bool(number) for number in self.numbers(name, [0] * count)]

    def text(self, name: str, default: str) -> str:
        """A string."""
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise ExportError(f"{self._kind}: a string {name} is expected")
        return value
