"""The record of a benchmark: JSON with a versioned schema, from which every table and page is made.

A figure that was not measured is null. Times are milliseconds, sizes bytes or MB (10⁶ bytes).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from dreamcache.runtime.errors import DreamCacheError
from dreamcache.runtime.sessions.providers import Math
from dreamcache.runtime.untrusted import parse_json, read_bounded

SCHEMA_VERSION = 1
_MAX_RECORD_BYTES = 64 << 20


class RecordError(DreamCacheError, ValueError):
    """A record is damaged, of a newer schema, or no record."""


class RecordModel(BaseModel):
    """Base of every part: unknown fields are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metrics(RecordModel):
    """The figures by which bundles and devices are compared (benchmarks/README.md defines each)."""

    cold_load_ms: NonNegativeFloat | None = None
    warm_load_ms: NonNegativeFloat | None = None
    first_step_ms: NonNegativeFloat | None = None
    text_ms: NonNegativeFloat | None = None
    cache_ms: NonNegativeFloat | None = None
    step_ms_p50: NonNegativeFloat | None = None
    step_ms_p90: NonNegativeFloat | None = None
    plain_step_ms_p50: NonNegativeFloat | None = None
    adapter_overhead: NonNegativeFloat | None = None
    vae_decode_ms: NonNegativeFloat | None = None
    e2e_ms_p50: NonNegativeFloat | None = None
    peak_private_mb: NonNegativeFloat | None = None
    peak_file_mb: NonNegativeFloat | None = None
    peak_rss_mb: NonNegativeFloat | None = None
    cache_bytes: NonNegativeInt | None = None
    disk_bytes: NonNegativeInt | None = None


class Host(RecordModel):
    """The machine. governor and load are null where the system does not say."""

    system: str
    machine: str
    cpu: str
    cpu_features: tuple[str, ...] = ()
    governor: str | None = None
    cores: PositiveInt
    usable_cores: PositiveInt
    ram_bytes: NonNegativeInt | None = None
    load_before: NonNegativeFloat | None = None


# As long as the name of a folder can be; a page of plots is made of them.
_Name = Annotated[str, Field(max_length=255)]


class BundleFacts(RecordModel):
    """What was measured: the bundle's contract hash stands for all of it, since it lists every file's hash."""

    name: _Name
    architecture: _Name
    weights: Literal["trained", "random"]
    precision: _Name
    contract_sha256: str
    fingerprints: dict[str, str]
    versions: dict[str, str] = Field(default_factory=dict)


class Fidelity(RecordModel):
    """The gate that a speed needs: what the exporter measured against PyTorch.

    self_check_db: by graph, what the device itself computes against PyTorch's fp32, where it was asked.
    """

    passed: bool
    reason: str = ""
    denoiser_db: float | None = None
    cache_db: float | None = None
    final_latent_db: float | None = None
    reference_ratio: float | None = None
    text_ratio: float | None = None
    self_check_db: dict[str, float] | None = None


class RunConditions(RecordModel):
    """Under which settings. threads null: left to ONNX Runtime. batch: rows of one denoiser call.

    guidance_interval: fractions of the steps between which there is guidance. step_cache: steps per run of the whole
    denoiser. unet_calls, shallow_calls: of one picture. math: records from before there was a choice are
    exact. guarded, settings_sha256: as `runner_settings` has them; null in records from before that.
    """

    profile: Literal["speed", "memory"]
    providers: tuple[str, ...]
    threads: PositiveInt | None = None
    math: Math = "exact"
    width: PositiveInt
    height: PositiveInt
    batch: PositiveInt
    steps: PositiveInt
    guidance: str
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    step_cache: PositiveInt = 1
    unet_calls: PositiveInt
    shallow_calls: NonNegativeInt = 0
    guarded: bool | None = None
    settings_sha256: str | None = None


class Spread(RecordModel):
    """Median and quartile distance of n samples; unstable is null where n is too small to say."""

    n: PositiveInt
    median: float
    iqr: float
    unstable: bool | None = None


class Span(RecordModel):
    """One stage of the picture whose memory was sampled, in seconds since its process began."""

    stage: str
    begin_s: float
    end_s: float


class MemoryTrace(RecordModel):
    """Memory over time, thinned so that peaks stay. file_mb is null where it cannot be told apart."""

    at_s: tuple[float, ...]
    private_mb: tuple[float, ...]
    file_mb: tuple[float | None, ...]
    resident_mb: tuple[float, ...]
    spans: tuple[Span, ...] = ()
    samples: PositiveInt


class Sustained(RecordModel):
    """Denoiser calls a second at the beginning and the end of a long loop."""

    minutes: float
    window_s: float
    first_per_s: float
    last_per_s: float
    ratio: float
    ends_s: tuple[float, ...]


class ScalingPoint(RecordModel):
    """A picture's cost at one value of one axis. computed: from measured parts, not itself run."""

    axis: Literal["steps", "pictures per subject", "batch", "resolution"]
    value: PositiveInt
    total_ms: NonNegativeFloat
    per_picture_ms: NonNegativeFloat
    n: PositiveInt
    computed: bool = False


class Measurement(RecordModel):
    """One bundle under one set of conditions, with every raw sample.

    samples: milliseconds by what was timed, in the order in which they were taken. absent: why a figure is null.
    """

    bundle: BundleFacts
    fidelity: Fidelity
    conditions: RunConditions
    metrics: Metrics
    samples: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    spread: dict[str, Spread] = Field(default_factory=dict)
    absent: dict[str, str] = Field(default_factory=dict)
    memory: MemoryTrace | None = None
    sustained: Sustained | None = None
    scaling: tuple[ScalingPoint, ...] = ()

    def unstable(self) -> tuple[str, ...]:
        """What varied too much, by the names of `samples`."""
        return tuple(name for name, spread in self.spread.items() if spread.unstable)


class Record(Measurement):
    """One run of `dreamcache bench`: the first bundle at the top level, further ones in `others`.

    order: which case ran in which block, where cases alternate.
    """

    schema_version: PositiveInt = SCHEMA_VERSION
    created: str
    quick: bool
    host: Host
    versions: dict[str, str]
    others: tuple[Measurement, ...] = ()
    order: tuple[str, ...] = ()

    def measurements(self) -> tuple[Measurement, ...]:
        """The record's own bundle, then the others."""
        return (self, *self.others)


def numbered(measurements: Iterable[Measurement]) -> list[tuple[str, Measurement]]:
    """Each measurement under the name that every table and plot gives it: two devices may have the same bundle."""
    return [(f"{index}. {one.bundle.name}", one) for index, one in enumerate(measurements, 1)]


def dump_record(record: Record) -> str:
    """The record as JSON text."""
    return record.model_dump_json(indent=1) + "\n"


def read_record(path: Path) -> Record:
    """Read a record.

    Raises: RecordError, in one line, when it is missing, damaged, of a newer schema, or something else.
    """
    try:
        raw: Any = parse_json(read_bounded(path, _MAX_RECORD_BYTES))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(
            f"{path} is not a record of `dreamcache bench --json`: {error}; measure again"
        ) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise RecordError(f"{path} has no schema_version; a record of `dreamcache bench --json` is expected")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: record schema {version} is newer than {SCHEMA_VERSION}, the newest this version reads; "
            "update with: pip install --upgrade dreamcache"
        )
    try:
        return Record.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path} is damaged: {place}: {first['msg']}; measure again") from error
