"""The hash of the runner's settings changes with each of them, and covers all that a session is given."""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime
import pytest

from dreamcache.benchmarks.record import Record
from dreamcache.benchmarks.runner_settings import is_current, runner_settings
from dreamcache.runtime.sessions.profiles import (
    PROFILES,
    Profile,
    session_attributes,
    session_entries,
    session_options,
)

RUNTIME = Path(__file__).parents[2] / "runtime/dreamcache/runtime"


def test_each_setting_changes_the_hash() -> None:
    hashes = [
        runner_settings(profile, providers, math, guarded)["settings_sha256"]
        for profile, providers, math, guarded in (
            ("speed", ("cpu",), "exact", False),
            ("memory", ("cpu",), "exact", False),
            ("speed", ("cpu",), "fast", False),
            ("speed", ("cpu",), "exact", True),
            ("speed", ("openvino",), "exact", False),
            ("speed", ("openvino",), "fast", False),
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert runner_settings() == runner_settings()


def test_a_bench_keeps_the_settings_that_it_ran_under(record: Record) -> None:
    for one in record.measurements():
        assert is_current(one.conditions.model_dump())
        assert not is_current(one.conditions.model_dump() | {"profile": "memory"})
    old = record.conditions.model_copy(update={"settings_sha256": None})
    assert not is_current(old.model_dump())


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("repeated", [False, True])
def test_a_session_is_given_what_the_hash_covers_and_no_more(profile: Profile, repeated: bool) -> None:
    given, plain = session_options(profile, repeated=repeated, guard=()), onnxruntime.SessionOptions()
    names = [name for name in dir(plain) if not name.startswith("_") and not callable(getattr(plain, name))]
    changed = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(plain, name)}
    changed.pop("log_severity_level", None)
    asked = session_attributes(profile, repeated)
    level = asked.get("graph_optimization_level")
    expected = dict(asked) if level is None else asked | {
        "graph_optimization_level": getattr(onnxruntime.GraphOptimizationLevel, str(level))
    }  # fmt: skip
    assert changed == {name: value for name, value in expected.items() if value != getattr(plain, name)}
    for name, value in session_entries(profile).items():
        assert given.get_session_config_entry(name) == value


def test_entries_are_added_where_the_hash_looks_alone() -> None:
    added = {
        path.name: count
        for path in RUNTIME.rglob("*.py")
        if (count := len(re.findall(r"add_session_config_entry\(", path.read_text())))
    }
    # session.py: ARM_BF16, which the hash has. kept_graphs.py: where weights lie, which costs nothing.
    assert added == {"profiles.py": 1, "session.py": 1, "kept_graphs.py": 1}
