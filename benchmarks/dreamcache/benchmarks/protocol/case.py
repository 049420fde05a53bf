"""What is measured: how often, with which options, and one bundle's case with its samples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamcache.benchmarks.process.child import LoadSettings, MeasuredProcess
from dreamcache.runtime.bundle.contract import Contract, GuidanceMode
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.settings import Settings, resolve_settings

BLOCK = 4


@dataclass(frozen=True)
class Counts:
    """How often each thing is run. `steps` is a multiple of BLOCK; warm_blocks: most blocks before they count."""

    cold_loads: int
    warm_loads: int
    steps: int
    stages: int
    pictures: int
    warm_blocks: int


FULL = Counts(cold_loads=3, warm_loads=5, steps=64, stages=8, pictures=5, warm_blocks=15)
QUICK = Counts(cold_loads=1, warm_loads=2, steps=12, stages=3, pictures=5, warm_blocks=4)


@dataclass(frozen=True)
class Drawing:
    """What a picture is asked for, as `Pipeline.generate` takes it; None is the bundle's default."""

    steps: int
    guidance_mode: GuidanceMode | None = None
    guidance_interval: tuple[float, float] | None = None
    step_cache: int | None = None

    def options(self) -> dict[str, Any]:
        """What was asked."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def resolved(self, contract: Contract) -> Settings:
        """Settings with the bundle's defaults. Raises: SettingsError for what this bundle cannot do."""
        return resolve_settings(contract, **self.options())


@dataclass
class BenchCase:
    """One bundle under one set of settings, and what has been measured of it.

    subject: its cached reference on disk. samples: milliseconds by what was timed. absent: why a figure is not there.
    """

    name: str
    bundle: Bundle
    settings: LoadSettings
    subject: Path
    reference: Path
    prompt: str
    drawing: Drawing
    samples: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def start(self, stack: ExitStack, graph: str | None = None) -> MeasuredProcess:
        """A fresh process that has loaded the bundle and the subject."""
        process = stack.enter_context(MeasuredProcess())
        process.load(self.bundle.folder, self.settings, graph)
        process.ask("use_subject", path=str(self.subject))
        return process

    def keep(self, name: str, taken: Sequence[float]) -> None:
        """Add samples."""
        self.samples.setdefault(name, []).extend(taken)

    def files(self) -> list[Path]:
        """Every file that a load reads: the bundle's, and the optimised graphs that were kept."""
        kept = [] if self.settings.graphs is None else sorted(self.settings.graphs.glob("*.graph"))
        return [*(self.bundle.path(name) for name in self.bundle.contract.files), *kept]
