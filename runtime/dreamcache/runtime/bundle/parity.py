"""What an exporter measured against PyTorch: the contract's `parity` (docs/method.md, "Gates")."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from dreamcache.runtime.bundle.architecture import ContractModel


class ParityReport(ContractModel):
    """What the exporter measured against PyTorch (docs/method.md, "Gates").

    psnr_db: per graph name. condition: ratios of the export to PyTorch ("reference", "text").
    trajectory_db: the latent after each denoising step. disk_ratio: two graphs over the denoiser alone.
    layers: the format of each layer of a quantised UNet. sensitivity_db: what the final latent keeps when a group
    of layers alone is quantised. judged_db: the latent after each step of the trajectories that judged the choice.
    """

    psnr_db: dict[str, float] = Field(default_factory=dict)
    condition: dict[str, float] = Field(default_factory=dict)
    trajectory_db: tuple[float, ...] = ()
    disk_ratio: PositiveFloat | None = None
    layers: dict[str, str] = Field(default_factory=dict)
    sensitivity_db: dict[str, float] = Field(default_factory=dict)
    judged_db: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
