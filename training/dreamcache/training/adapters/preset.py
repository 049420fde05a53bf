"""What training depends on, as named presets of which every value can be replaced (paper, supplement).

What the paper does not state is marked as ours. `miniature` is the recipe of the shipped miniature's adapters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from dreamcache.models.config import AdapterConfig, Fusion, SiteSet
from dreamcache.models.guidance import GuidanceMode
from dreamcache.runtime.arguments import read_assignments, with_values
from dreamcache.runtime.bundle.sampling import MAX_SCALE
from dreamcache.runtime.errors import SettingsError
from dreamcache.training.augmentation import ERASE, FLIP, JITTER, Chances

FINAL_RATE = 0.02
MOST = 2**31 - 1
"""Of any whole number but the seed."""


class Preset(BaseModel):
    """All choices of a training; the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(default=200_000, ge=1, description="Optimizer steps.")
    batch: int = Field(
        default=12, ge=1, description="Samples per forward pass on one device; the paper used 4 devices."
    )
    accumulation: int = Field(default=1, ge=1, description="Forward passes per step.")
    learning_rate: float = Field(
        default=1e-5, gt=0, description="Learning rate after the warm-up; its peak where it falls."
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="Learning rate after the warm-up: constant, or falling by half a cosine.",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="Optimizer; muon takes the matrices and leaves the rest to AdamW."
    )
    warmup: int = Field(default=0, ge=0, description="Warm-up steps; not stated in the paper.")
    weight_decay: float = Field(
        default=0.01, ge=0, description="Weight decay of AdamW; not stated: PyTorch's."
    )
    beta1: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="First beta of AdamW; not stated: PyTorch's.",
    )
    beta2: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Second beta of AdamW; not stated: PyTorch's.",
    )
    clip: float = Field(default=1.0, gt=0, description="Largest gradient norm; not stated in the paper.")
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="Decay per step of the averaged weights; none = no averaging."
    )
    pairs_every: int = Field(
        default=4, ge=2, description="Steps from one with two subjects to the next, where the data has them."
    )
    stratified: bool = Field(
        default=False, description="Timesteps spread evenly over an update; not in the paper."
    )
    resolution: int | None = Field(
        default=512, ge=8, description="Side of the pictures in pixels; none = the base's own."
    )
    caption_drop: float = Field(
        default=0.07, ge=0, le=1, description="Share of captions replaced by the empty one."
    )
    flip: float = Field(default=FLIP, ge=0, le=1, description="Share of references that are mirrored.")
    jitter: float = Field(default=JITTER, ge=0, le=1, description="Share of references whose colours change.")
    erase: float = Field(
        default=ERASE, ge=0, le=1, description="Share of references with a part erased to white."
    )
    variants: int = Field(
        default=4, ge=1, description="Augmented references encoded per sample; not in the paper."
    )
    fusion: Fusion = Field(default="spatial_concat", description="Fusion of reference and block.")
    sites: SiteSet = Field(default="middle+decoder", description="Blocks with adapters.")
    cache_timestep: int = Field(default=1, ge=0, description="Timestep of the caching pass.")
    cache_prompt: str = Field(default="", description="Text of the caching pass.")
    further_timestep: int | None = Field(
        default=None, ge=0, description="Second timestep of the caching pass; none = one alone."
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="Seed of initial weights, order and noise.")
    precision: Literal["bf16", "fp32", "auto"] = Field(
        default="bf16",
        description="Precision of base and forward pass; adapters stay in fp32. auto = bf16 where it is fast.",
    )
    recompute: bool = Field(default=False, description="Gradient checkpointing: less memory, more time.")
    workers: int = Field(
        default=0, ge=0, description="Processes that read samples ahead; 0 = the training's own, in between."
    )
    checkpoint_every: int = Field(default=1000, ge=1, description="Steps between checkpoints.")
    log_every: int = Field(default=10, ge=1, description="Steps between lines of the log.")
    validation: int = Field(
        default=64, ge=0, description="Samples held out for validation; 0 = no validation."
    )
    validate_every: int = Field(default=1000, ge=1, description="Steps between validations.")
    sheet_every: int = Field(default=5000, ge=1, description="Steps between sheets of pictures.")
    sheet_rows: int = Field(default=4, ge=0, description="Held-out samples per sheet; 0 = no sheets.")
    sheet_steps: int = Field(default=20, ge=1, description="Denoising steps for a sheet.")
    guidance_mode: GuidanceMode = Field(default="dual", description="Guidance for a sheet.")
    guidance: float = Field(default=7.5, ge=0, le=MAX_SCALE, description="Text guidance scale for a sheet.")
    reference_guidance: float = Field(
        default=0.4, ge=0, le=MAX_SCALE, description="Reference guidance scale for a sheet."
    )
    recommend: bool = Field(
        default=False, description="Guidance and steps of a sheet as the recommendation of the adapters."
    )
    tensorboard: bool = Field(default=True, description="Log for TensorBoard.")

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, about: ValidationInfo) -> Any:
        if about.field_name != "seed" and isinstance(value, int) and value > MOST:
            raise ValueError(f"a number of at most {MOST} is expected")
        if isinstance(value, str):
            value.encode()  # half of an emoji is a ValueError too
        return value

    @property
    def chances(self) -> Chances:
        """Of the augmentations."""
        return Chances(self.flip, self.jitter, self.erase)

    @property
    def adapters(self) -> AdapterConfig:
        """What the adapters are."""
        further = () if self.further_timestep is None else (self.further_timestep,)
        return AdapterConfig(self.fusion, self.sites, self.cache_timestep, self.cache_prompt, further)

    @property
    def fixed(self) -> dict[str, Any]:
        """The values on which the weights of a step depend: they stay when a run is continued."""
        free = FREE - {"steps"} if self.schedule == "cosine" else FREE
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in free}

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear warm-up, then constant, so that a finished run can be prolonged, or falling
        to FINAL_RATE of the peak by half a cosine.
        """
        if self.schedule == "constant" or step < self.warmup:
            return self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        share = 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
        return self.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * share)

    def replaced(self, **values: Any) -> Preset:
        """Another preset with these values; texts are read as the value's type, "none" as None.

        Raises: SettingsError naming the first value that is unknown, of another type or out of range.
        """
        return with_values(self, values, "a preset")


FREE = frozenset(
    {
        "steps", "batch", "accumulation", "recompute", "workers", "checkpoint_every", "log_every", "validate_every",
        "sheet_every", "sheet_rows", "sheet_steps", "guidance_mode", "guidance", "reference_guidance",
        "recommend", "tensorboard",
    }
)  # fmt: skip
"""What may change when a run is continued: the weights of a step do not depend on it (the samples an update
takes stay the same: batch × accumulation × devices). Where the rate falls, they depend on `steps`."""

PRESETS = {
    "paper": Preset(),
    "trial": Preset(
        steps=1000,
        batch=8,
        learning_rate=1e-3,
        warmup=20,
        resolution=None,
        precision="fp32",
        checkpoint_every=100,
        validation=16,
        validate_every=100,
        sheet_every=500,
    ),
    "miniature": Preset(
        steps=2000,
        batch=64,
        learning_rate=5e-3,
        schedule="cosine",
        optimizer="muon",
        warmup=100,
        beta2=0.99,
        ema=0.999,
        stratified=True,
        resolution=None,
        variants=1,
        precision="auto",
        checkpoint_every=50,
        log_every=1,
        validate_every=100,
        sheet_every=500,
        guidance_mode="text_first",
        guidance=3.0,
        reference_guidance=8.0,
        recommend=True,
        tensorboard=False,
    ),
}
"""`trial` is for the miniature on a CPU, to see that everything works; `miniature` is how its own adapters are made."""


def choose_preset(name: str, assignments: Sequence[str] = (), **given: Any) -> Preset:
    """The preset of that name with the assignments NAME=VALUE, and over those the values that are not None.

    Raises: SettingsError for an unknown name, value or type.
    """
    if name not in PRESETS:
        raise SettingsError(f"the preset is {name!r}; choose one of {', '.join(PRESETS)}")
    values = {key: value for key, value in given.items() if value is not None}
    return PRESETS[name].replaced(**read_assignments("--set", assignments) | values)
