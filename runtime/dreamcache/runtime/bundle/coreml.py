"""The Core ML side of a bundle, as the contract declares it; the runner does not read it, `inspect` shows it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from dreamcache.runtime.bundle.tensors import BundlePath, ContractModel, FileRecord, TensorSpec


class CoreMLFunction(ContractModel):
    """One function of a model. Names are the contract's; in the model every dot is an underscore."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class CoreMLModel(ContractModel):
    """One `.mlpackage`, a folder, and its functions by name."""

    package: BundlePath
    functions: dict[str, CoreMLFunction]


class CoreMLPiece(ContractModel):
    """One function of one model."""

    model: str
    function: str


class CoreMLPart(ContractModel):
    """Every package with what was measured of it, by running the saved programs in PyTorch.

    target: the oldest system. compute: of every operation but those that `kept_in_fp32` names. weights: how the
    UNet's are stored; layers: of each weight by itself, in a mixed recipe. graphs: ``cache``, ``denoise``,
    ``text_encoder``, ``vae_encoder``, ``vae_decoder``, each as the pieces that compute it one after another; at another
    resolution ``_PIXELS`` is appended. recording: what PyTorch computed. psnr_db: of each graph in 32 bits, and in
    emulated 16 bits as "NAME fp16". condition, trajectory_db: as in the parity report, in emulated 16 bits.
    disk_ratio: the UNet's packages over the denoiser alone. largest: the largest magnitude of any activation.
    """

    target: Literal["iOS16", "iOS17", "iOS18"]
    attention: Literal["plain", "split_einsum"]
    compute: Literal["fp16"] = "fp16"
    weights: str
    layers: dict[str, str] = Field(default_factory=dict)
    models: dict[str, CoreMLModel]
    graphs: dict[str, tuple[CoreMLPiece, ...]]
    recording: BundlePath
    psnr_db: dict[str, float] = Field(default_factory=dict)
    condition: dict[str, float] = Field(default_factory=dict)
    trajectory_db: tuple[float, ...] = ()
    disk_ratio: PositiveFloat | None = None
    largest: NonNegativeFloat = 0.0
    kept_in_fp32: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _pieces_exist(self) -> CoreMLPart:
        for graph, pieces in self.graphs.items():
            for piece in pieces:
                if piece.model not in self.models or piece.function not in self.models[piece.model].functions:
                    raise ValueError(
                        f"graph {graph}: no function {piece.function} of {piece.model} is declared"
                    )
            if not pieces:
                raise ValueError(f"graph {graph}: at least one piece is expected, received none")
        return self

    def fingerprint(self, files: Mapping[str, FileRecord]) -> str:
        """SHA-256 over the hashes of the UNet's packages."""
        places = tuple(f"{model.package}/" for name, model in self.models.items() if name.startswith("Unet"))
        lines = [f"{path} {files[path].sha256}" for path in sorted(files) if path.startswith(places)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
