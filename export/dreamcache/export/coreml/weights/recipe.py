"""Which format each weight takes, found again in every package that stores the same weight under another name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamcache.export.coreml.graph import saved_function
from dreamcache.export.coreml.mil.program import Function
from dreamcache.export.coreml.weights.compress import LEAST_VALUES
from dreamcache.export.options import WeightFormat


@dataclass(frozen=True)
class WeightRecipe:
    """Formats of weights.

    Attributes:
        formats: by the name in the program that was tried.
        contents: by the SHA-256 of the stored weight.
    """

    formats: Mapping[str, WeightFormat]
    contents: Mapping[str, WeightFormat]

    def of(self, package: Path) -> dict[str, WeightFormat]:
        """The formats of another package's weights, by the names that they have there; unknown ones stay out."""
        return {
            name: self.contents[digest]
            for name, digest in digests(saved_function(package, "main")).items()
            if digest in self.contents
        }


def digests(function: Function) -> dict[str, str]:
    """SHA-256 of every stored weight that is worth compressing, by name."""
    return {
        one.outputs[0].name: hashlib.sha256(np.ascontiguousarray(one.constant).tobytes()).hexdigest()
        for one in function.operations
        if isinstance(one.constant, np.ndarray)
        and one.constant.size >= LEAST_VALUES
        and np.issubdtype(one.constant.dtype, np.floating)
    }
