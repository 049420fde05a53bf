"""Does the whole job fit into a budget of memory: text encoder, denoiser, VAE decoder, in one fresh process.

The subject is cached beforehand, as an application would have done; `caching` counts that in too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreamcache.benchmarks.process.child import LoadSettings, MeasuredProcess, MeasurementError
from dreamcache.benchmarks.process.limits import Outcome, run_limited, usable_parent
from dreamcache.benchmarks.protocol.reference import PROMPT, draw_reference
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.settings import resolve_settings

_PRECISION = 0.01
_HEADROOM, _WIDENED, _ATTEMPTS = 1.02, 1.1, 6

Job = Callable[[MeasuredProcess], None]


@dataclass(frozen=True)
class Answer:
    """Sizes in MB (10⁶ bytes); peaks are of the run that decided. tried: every budget run, and whether it passed.

    runner: its settings, as `runner_settings` has them.
    """

    bundle: str
    weights: str
    profile: str
    steps: int
    caching: bool
    first_run: bool
    runner: dict[str, Any]
    fits: bool
    budget_mb: float
    floor_mb: float
    enforced_by: str
    killed: bool
    peak_private_mb: float
    peak_file_mb: float | None
    peak_rss_mb: float
    peak_group_mb: float | None
    tried: tuple[tuple[float, bool], ...]


def fit_budget(
    bundle: Bundle,
    budget_mb: float | None,
    settings: LoadSettings,
    steps: int,
    caching: bool = False,
    first_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Try one budget, or search for the smallest that passes when there is none.

    caching: the reference is cached under the budget too. first_run: no optimised graph of the memory profile is kept
    from before, so that making them is under the budget too. say: called with each budget's verdict.

    Raises: SettingsError for a budget below the floor, MeasurementError when the job fails for another reason than
    memory.
    """
    resolve_settings(bundle.contract, steps=steps)
    floor = floor_mb()
    if budget_mb is not None and budget_mb <= floor:
        raise SettingsError(
            f"a budget above {floor:.0f} MB is expected, received {budget_mb:.0f}: the interpreter and its "
            "libraries take that much before the bundle is opened"
        )
    parent = usable_parent()
    tried: list[tuple[float, bool]] = []
    outcomes: dict[float, Outcome] = {}

    with _job(bundle.folder, settings, steps, caching, first_run) as job:

        def passes(budget: float) -> bool:
            outcomes[budget] = run_limited(job, budget, parent)
            tried.append((round(budget, 3), outcomes[budget].finished))
            say(f"{budget:.0f} MB: {'yes' if outcomes[budget].finished else 'no'}")
            return outcomes[budget].finished

        if budget_mb is None:
            budget_mb = _search(job, passes, floor)
        else:
            passes(budget_mb)
    outcome = outcomes[budget_mb]
    return Answer(
        bundle=bundle.folder.name,
        weights=bundle.contract.weights,
        profile=settings.profile,
        steps=steps,
        caching=caching,
        first_run=first_run,
        runner=runner_settings(settings.profile, settings.providers, settings.math),
        fits=outcome.finished,
        budget_mb=round(budget_mb, 3),
        floor_mb=round(floor, 3),
        enforced_by=outcome.enforced_by,
        killed=outcome.killed,
        peak_private_mb=round(outcome.peak.private_mb, 3),
        peak_file_mb=outcome.peak.file_backed_mb,
        peak_rss_mb=round(outcome.peak.resident_mb, 3),
        peak_group_mb=outcome.group_mb,
        tried=tuple(tried),
    )


def floor_mb() -> float:
    """Private MB of the interpreter with the runner's libraries, before any bundle is opened."""
    return run_limited(lambda process: process.ask("import_libraries"), None).peak.private_mb


def _search(job: Job, passes: Callable[[float], bool], floor: float) -> float:
    free = run_limited(job, None)
    if not free.finished:
        raise MeasurementError(
            "the job does not finish even without a budget: the machine itself lacks memory"
        )
    high = free.peak.private_mb * _HEADROOM
    for _ in range(_ATTEMPTS):
        if passes(high):
            return smallest_passing(passes, floor, high, _PRECISION * high)
        high *= _WIDENED
    raise MeasurementError(f"no budget up to {high:.0f} MB passed, though the job finishes without one")


def smallest_passing(passes: Callable[[float], bool], fails: float, passed: float, precision: float) -> float:
    """The smallest value known to pass, to within `precision`, between one that fails and one that passed.

    Every value returned was run: `passed` itself, or a smaller one for which `passes` said so.
    """
    while passed - fails > precision:
        middle = (fails + passed) / 2
        if passes(middle):
            passed = middle
        else:
            fails = middle
    return passed


@contextmanager
def _job(bundle: Path, settings: LoadSettings, steps: int, caching: bool, first_run: bool) -> Iterator[Job]:
    """The job that is run under the budget; what an application would have done before is done before."""
    with tempfile.TemporaryDirectory() as scratch:
        reference = draw_reference(Path(scratch) / "reference.png")
        subject = str(Path(scratch) / "toy.subject.safetensors")
        kept = replace(settings, graphs=Path(scratch) / "graphs")

        def draw(process: MeasuredProcess) -> None:
            fresh = replace(settings, graphs=Path(tempfile.mkdtemp(dir=scratch)))
            process.load(bundle, fresh if first_run else kept)
            if caching:
                process.ask("cache", reference=str(reference), out=subject)
            process.ask("use_subject", path=subject)
            process.ask("picture", prompt=PROMPT, steps=steps)

        with MeasuredProcess() as process:
            process.load(bundle, kept)
            process.ask("cache", reference=str(reference), out=subject)
            if not first_run:
                # Each graph is opened once, after which the memory profile has all of them.
                process.ask("picture", prompt=PROMPT, steps=1)
        yield draw
