"""The Core ML side of a bundle, as the contract declares it; the runner does not read it, `inspect` shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from dreamcache.runtime.bundle_path import BundlePath
from dreamcache.runtime.tensors import ContractModel, TensorSpec


class CoreMLFunction(ContractModel):
    """One function of a model. Names are the contract's; in the model every dot is an underscore."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class CoreMLModel(ContractModel):
    """One `.mlpackage`, a folder, and its functions by name."""

    package: BundlePath
    functions: dict[str, CoreMLFunction]


class CoreMLPart(ContractModel):
    """Every package with what was measured of it, by running the saved programs in PyTorch.

    target: the oldest system. compute: of every operation but those that `kept_in_fp32` names. weights: how they are
    stored. psnr_db: of each function in 32 bits, and in emulated 16 bits as "NAME fp16". condition, trajectory_db: as
    in the parity report, in emulated 16 bits. disk_ratio: the merged UNet over its denoiser alone.
    """

    target: Literal["iOS16", "iOS17", "iOS18"]
    attention: Literal["plain", "split_einsum"]
    compute: Literal["fp16", "fp32"]
    weights: str
    models: dict[str, CoreMLModel]
    psnr_db: dict[str, float] = Field(default_factory=dict)
    condition: dict[str, float] = Field(default_factory=dict)
    trajectory_db: tuple[float, ...] = ()
    disk_ratio: PositiveFloat | None = None
    kept_in_fp32: tuple[str, ...] = ()
