"""Fit the factors of `dreamcache.runtime.budgets.factors` to measured peaks.

python -m dreamcache.benchmarks.memory.stage_peaks --fit peaks.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from dreamcache.runtime.budgets.factors import FACTORS, Factors, Quantities
from dreamcache.runtime.bundle.contract import Precision
from dreamcache.runtime.sessions.profiles import Profile
from dreamcache.runtime.sessions.system_memory import MB


@dataclass(frozen=True)
class MeasuredPeak:
    """One stage's measured peak of private memory, with the quantities it is to be explained by."""

    profile: Profile
    precision: Precision
    quantities: Quantities
    private_bytes: float


def fit_factors(
    measured: Iterable[MeasuredPeak], profile: Profile, precision: Precision, trust: float = 0.05
) -> Factors:
    """The factors of a profile and a precision that explain measured peaks best, in relative terms.

    trust: how much the present factors count against one measurement, so that a factor on which no
    measurement bears stays what it is. No factor becomes negative.
    """
    present = np.array(astuple(FACTORS[profile][precision]))
    rows = [
        (np.array(astuple(peak.quantities)) * present / peak.private_bytes, 1.0)
        for peak in measured
        if (peak.profile, peak.precision) == (profile, precision)
    ]
    # Each factor as a multiple of the present one, which it is drawn to.
    rows += [(row * trust, trust) for row in np.eye(len(present))]
    rows.append((np.eye(len(present))[-1] * 1e3, 1e3))  # what is held is counted, not fitted
    matrix, wanted = np.array([row for row, _ in rows]), np.array([value for _, value in rows])
    free = np.ones(len(present), bool)
    multiples = np.zeros(len(present))
    while True:
        multiples[:] = 0
        multiples[free] = np.linalg.lstsq(matrix[:, free], wanted, rcond=None)[0]
        if (multiples >= 0).all():
            return Factors(*(present * multiples).tolist())
        free &= multiples > 0


def fitted_lines(files: Iterable[Path]) -> Iterator[str]:
    """Factors fitted to the lines of `stage_peaks`; for every stage: measured, predicted now, predicted then."""
    records = [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]
    names = [field.name for field in fields(MeasuredPeak)]
    peaks = [
        MeasuredPeak(
            **{name: record[name] for name in names} | {"quantities": Quantities(**record["quantities"])}
        )
        for record in records
    ]
    for way in sorted({(peak.profile, peak.precision) for peak in peaks}):
        factors, present = fit_factors(peaks, *way), FACTORS[way[0]][way[1]]
        yield f"{' '.join(way)}: {factors}"
        for record, peak in zip(records, peaks, strict=True):
            if (peak.profile, peak.precision) == way:
                now, then = present.peak(peak.quantities), factors.peak(peak.quantities)
                yield (
                    f"  {record['bundle']} {record['stage']}{' in strips' if record['tiled'] else ''}: measured "
                    f"{peak.private_bytes / MB:.0f} MB, predicted {now / MB:.0f}, fitted {then / MB:.0f}"
                )
