"""A second of every fuzzed reader; `python -m tests.fuzz --minutes 10` is the longer run."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, changed_json, one_line_errors

from dreamcache.runtime.errors import BundleError

SECONDS = 0.7


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_end_in_one_line_or_work(name: str, tmp_path: Path) -> None:
    case = TARGETS[name](tmp_path)
    end, seed = time.monotonic() + SECONDS, 0
    while time.monotonic() < end or seed < 5:
        try:
            with one_line_errors():
                case(random.Random(seed))
        except Exception as error:
            raise AssertionError(
                f"`python -m tests.fuzz --only {name} --seed {seed} --cases 1` shows it: {error!r}"
            ) from error
        seed += 1


def test_the_fuzzer_sees_foreign_errors_and_errors_of_several_lines() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors():
        _ = 1 / 0
    with pytest.raises(ValueError, match="several lines"), one_line_errors():
        raise _RawError("two\nlines")
    with one_line_errors():
        raise BundleError("one line")


class _RawError(BundleError):
    """An error that does not escape its text."""

    def __str__(self) -> str:
        return str(self.args[0])


def test_the_same_seed_makes_the_same_case() -> None:
    value = {"a": [1, 2, {"b": "c"}], "d": 0.5}
    made = [changed_json(value, random.Random(seed)) for seed in range(20)]
    assert made == [changed_json(value, random.Random(seed)) for seed in range(20)]
    assert sum(one != value for one in made) > 15
