"""`dreamcache fit`: budgets, the search, the limit that really kills, and the command's answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreamcache.benchmarks.memory.fit import smallest_passing
from dreamcache.benchmarks.process.limits import CGROUP, WATCHDOG, candidates, run_limited, usable_parent
from dreamcache.runtime.budgets.plan import MB, parse_bytes
from dreamcache.runtime.cli.main import main
from dreamcache.runtime.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "mb"),
    [("600M", 600), ("600MB", 600), ("0.6G", 600), ("600 m", 600), ("512Mi", 536.870912), ("5e8", None),
     ("600000000", 600), ("-1M", None), ("0M", None), ("", None), ("M", None), ("600T", None)],
)  # fmt: skip
def test_budgets_as_people_write_them(text: str, mb: float | None) -> None:
    if mb is not None:
        assert parse_bytes(text, "--budget", bare=1) / MB == pytest.approx(mb)
        return
    with pytest.raises(SettingsError, match="600M"):
        parse_bytes(text, "--budget", bare=1)


def test_the_search_ends_at_the_smallest_that_passes() -> None:
    tried = []

    def passes(budget: float) -> bool:
        tried.append(budget)
        return budget >= 437.3

    found = smallest_passing(passes, fails=40.0, passed=900.0, precision=1.0)
    assert 437.3 <= found < 438.3
    assert found in tried, "an answer is a budget that was run"
    assert len(tried) <= 10
    assert smallest_passing(lambda _: False, fails=40.0, passed=900.0, precision=1.0) == 900.0


def test_the_limit_kills_a_process_that_takes_more() -> None:
    killed = run_limited(lambda process: process.ask("import_libraries"), 15.0)
    assert (killed.finished, killed.killed, killed.enforced_by) == (False, True, WATCHDOG)
    assert killed.peak.private_mb > 15
    spared = run_limited(lambda process: process.ask("import_libraries"), 2000.0)
    assert (spared.finished, spared.killed) == (True, False)
    assert 15 < spared.peak.private_mb < 2000


@pytest.mark.skipif(usable_parent() is None, reason="no control group with a memory limit can be made here")
def test_a_control_group_kills_a_process_that_takes_more() -> None:
    parent = usable_parent()
    killed = run_limited(lambda process: process.ask("import_libraries"), 15.0, parent)
    assert (killed.finished, killed.killed, killed.enforced_by) == (False, True, CGROUP)
    assert run_limited(lambda process: process.ask("import_libraries"), 2000.0, parent).finished


def test_where_a_control_group_could_be_made() -> None:
    mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"
    membership = "1:cpu:/old\n0::/user.slice/session.scope\n"
    top = Path("/sys/fs/cgroup")
    assert candidates(mounts, membership) == [top / "user.slice/session.scope", top / "user.slice", top]
    assert candidates("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n", membership) == []
    assert candidates(mounts, "4:memory:/\n") == []


def test_the_command_answers_with_figures_and_a_status(
    gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fit", str(gated), "--budget", "900M", "--threads", "1", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert left.value.code == 0
    assert answer["fits"] is True
    assert answer["floor_mb"] < answer["peak_private_mb"] < 900
    assert answer["profile"] == "memory"

    between = (answer["floor_mb"] + answer["peak_private_mb"]) / 2
    with pytest.raises(SystemExit) as left:
        main(["fit", str(gated), "--budget", f"{between}M", "--first-run", "--caching"])
    printed = capsys.readouterr()
    assert left.value.code == 1
    assert printed.out.startswith("no: first (random weights, memory profile")
    assert "enforced by" in printed.out


def test_a_budget_below_the_floor_is_refused_with_the_floor(
    gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fit", str(gated), "--budget", "5M"])
    printed = capsys.readouterr()
    assert left.value.code == 1
    assert "interpreter and its libraries" in printed.err
    assert len(printed.err.strip().splitlines()) == 1, "nothing was run"
    assert printed.out == ""
