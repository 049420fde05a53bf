"""What an exporter measured against PyTorch, and the bounds of its gates (docs/concepts/method.md, "Gates")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dreamcache.runtime.bundle.tensors import ContractModel

MIN_PSNR_DB = 80.0
"""Each fp32 graph against PyTorch."""
MIN_FP16_PSNR_DB = 50.0
"""Each fp16 graph."""
MIN_WEB_PSNR_DB = 55.0
"""Each graph that computes in 16 bits, with every tensor rounded."""
MIN_PSNR_DB_BY_PRECISION = {"fp32": MIN_PSNR_DB, "fp16": MIN_FP16_PSNR_DB, "web": MIN_WEB_PSNR_DB}
"""Weights in 8 bits are judged by the final latent; their graphs are reported."""
EIGHT_BITS = frozenset({"int8", "web8"})
"""Precisions with weights in 8 bits."""
MIN_DEVICE_PSNR_DB = 30.0
"""Each graph on a device, in 8 bits or in the machine's own 16 (bf16), on the golden tensors."""
MIN_INT8_LATENT_DB = 30.0
"""Final latent of an int8 trajectory."""
MIN_SEAM_DB = 45.0
"""Decoder in strips against the whole one; below it a seam can be seen."""
MAX_INT8_STRIPS_LOSS_DB = 1.0
"""How much further from PyTorch than the whole int8 decoder its strips may be."""
CONDITION_TOLERANCE = 0.05
"""Relative error of the effects of reference and text."""
MAX_DISK_RATIO = 1.05
"""Both UNet graphs over the denoiser alone."""
DISK_GRANT_BYTES = 1 << 18
"""The description of a second graph costs 130 kilobytes, in 8 bits 250, however small the model is."""
MIN_COREML_PSNR_DB = {"fp16": 50.0, "int8": 35.0, "palette6": 25.0, "palette4": 10.0, "mixed": 10.0}
"""Core ML UNet by format of its weights; the condition must hold too."""
MIN_COREML_COMPONENT_PSNR_DB = 40.0
"""Core ML text encoder and VAE, in 16 bits."""


class GraphNeeds(ContractModel):
    """What a browser's GPU needs for a graph.

    weights_mb: of its weights. largest_mb: of the largest tensor, weight or not, which the GPU must bind at once.
    nodes: of the graph. on_cpu: by operator, those that ONNX Runtime's WebGPU provider has no kernel for.
    """

    weights_mb: NonNegativeFloat
    largest_mb: NonNegativeFloat
    nodes: NonNegativeInt
    on_cpu: dict[str, PositiveInt] = Field(default_factory=dict)


class ParityReport(ContractModel):
    """What the exporter measured against PyTorch (docs/concepts/method.md, "Gates").

    psnr_db: per graph name. condition: ratios of the export to PyTorch ("reference", "text").
    trajectory_db: the latent after each denoising step. disk_ratio: two graphs over the denoiser alone.
    layers: the format of each layer of a quantised UNet. sensitivity_db: what the final latent keeps when a group
    of layers alone is quantised. judged_db: the latent after each step of the trajectories that judged the choice.
    needs: of the precisions for browsers, per graph name.
    """

    newer = ("needs",)

    psnr_db: dict[str, float] = Field(default_factory=dict)
    condition: dict[str, float] = Field(default_factory=dict)
    trajectory_db: tuple[float, ...] = ()
    disk_ratio: PositiveFloat | None = None
    layers: dict[str, str] = Field(default_factory=dict)
    sensitivity_db: dict[str, float] = Field(default_factory=dict)
    judged_db: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    needs: dict[str, GraphNeeds] = Field(default={})


MAX_DB = 200.0
"""Stands for exact equality, since the contract holds no infinities."""


def psnr_db(expected: NDArray[np.generic], received: NDArray[np.generic]) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the largest expected magnitude. At most `MAX_DB`."""
    if not np.isfinite(received).all():
        return -MAX_DB
    error = float(np.sqrt(np.mean((expected.astype(np.float64) - received.astype(np.float64)) ** 2)))
    peak = float(np.abs(expected).max())
    if error == 0.0:
        return MAX_DB
    return max(-MAX_DB, min(MAX_DB, 20.0 * float(np.log10(peak / error)))) if peak > 0.0 else -MAX_DB
