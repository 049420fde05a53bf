"""Smaller weights for Core ML: 8 bits by scales, or a palette of 64 or 16 values for each weight.

Every package is compressed before two are merged: coremltools' tools refuse a model of several functions. Scales of
palettes (`enable_per_channel_scale`) are left alone: models that have them do not load on macOS 26.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np

from dreamcache.export.coreml.convert import quiet_coremltools
from dreamcache.export.coreml.weights.rounding import palette_of
from dreamcache.export.errors import ExportError
from dreamcache.export.options import WEIGHT_FORMATS, WeightFormat
from dreamcache.runtime.errors import first_line

LEAST_VALUES = 2048
"""Smaller weights stay as they are: norms, biases, scales."""


def compress_package(
    source: Path, place: Path, formats: Mapping[str, WeightFormat], default: WeightFormat
) -> None:
    """Copy `source` with its weights in other formats.

    Args:
        source: a package of one function, in 16 bits.
        place: a path that ends in ``.mlpackage``; must not exist.
        formats: of single weights, by the names that they have in the program.
        default: of all others.

    Raises:
        ExportError: coremltools cannot compress the model.
    """
    try:
        with quiet_coremltools():
            model = ct.models.MLModel(str(source), skip_model_load=True)
            for kind in WEIGHT_FORMATS[1:]:
                named = {name: _config(kind) if chosen == kind else None for name, chosen in formats.items()}
                general = _config(kind) if default == kind else None
                if general is None and not any(named.values()):
                    continue
                config = cto.OptimizationConfig(global_config=general, op_name_configs=named)
                model = _apply(model, kind, config)
            model.save(str(place))
    except Exception as error:
        raise ExportError(f"{source.name} does not compress: {first_line(error)}") from error


def _config(kind: WeightFormat) -> Any:
    if kind == "int8":
        return cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", weight_threshold=LEAST_VALUES
        )
    bits = {"palette6": 6, "palette4": 4}[kind]

    def palette(weight: Any) -> tuple[Any, Any]:
        values, places = palette_of(np.asarray(weight, np.float32), bits)
        return values.astype(weight.dtype), places.reshape(-1)

    return cto.OpPalettizerConfig(mode="custom", lut_function=palette, weight_threshold=LEAST_VALUES)


def _apply(model: Any, kind: WeightFormat, config: Any) -> Any:
    if kind == "int8":
        return cto.linear_quantize_weights(model, config)
    return cto.palettize_weights(model, config)
