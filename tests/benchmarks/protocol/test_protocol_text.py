"""The protocol in words is the one in code: counts, limits, figures and options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from dreamcache.benchmarks import command, fit_command
from dreamcache.benchmarks.process import sampler as memory
from dreamcache.benchmarks.protocol import case as protocol
from dreamcache.benchmarks.protocol import samples, scaling
from dreamcache.benchmarks.protocol.case import FULL, QUICK
from dreamcache.benchmarks.record import SCHEMA_VERSION, Metrics

ROOT = Path(__file__).resolve().parents[3]
PROTOCOL = " ".join((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").split())
OPTIONS = (ROOT / "docs" / "guides" / "bench.md").read_text(encoding="utf-8")
STATED = [
    f"| cold load | one each | {FULL.cold_loads} | {QUICK.cold_loads} |",
    f"| warm load, first step | one each | {FULL.warm_loads} | {QUICK.warm_loads} |",
    f"| {FULL.stages}, after one not kept | {QUICK.stages} |",
    f"| {FULL.steps} each, in blocks of {protocol.BLOCK}, after warm-up | {QUICK.steps} |",
    f"| {FULL.pictures}, after one picture of one step | {QUICK.pictures} |",
    f"agree within {samples.WARM_WITHIN:.0%}".replace("%", " %"),
    f"more than {samples.UNSTABLE_ABOVE:.0%} of its median apart".replace("%", " %"),
    f"needs {samples.P90_NEEDS} samples",
    f"Steps ({', '.join(map(str, scaling.STEPS))})",
    f"`schema_version` {SCHEMA_VERSION}",
    *(f"`{name}`" for name in Metrics.model_fields),
]


@pytest.mark.parametrize("statement", STATED)
def test_the_protocol_says_what_the_code_does(statement: str) -> None:
    assert statement in PROTOCOL


def test_other_numbers_would_be_noticed() -> None:
    numbered = [statement for statement in STATED if not statement.startswith("`")]
    assert len(numbered) >= 9
    for statement in numbered:
        assert re.sub(r"\d+", lambda number: str(int(number[0]) + 1), statement) not in PROTOCOL


def test_words_for_numbers_are_those_numbers() -> None:
    words = {"three": 3, "four": 4, "five": 5, "fifteen": 15}
    blocks = re.search(r"blocks of (\w+) calls until the medians of the last (\w+) blocks", PROTOCOL)
    most = re.search(r"at most (\w+) blocks", PROTOCOL)
    interval = re.search(r"sampled every (\w+) milliseconds", PROTOCOL)
    assert blocks is not None
    assert most is not None
    assert interval is not None
    assert (words[blocks[1]], words[blocks[2]]) == (protocol.BLOCK, samples.WARM_BLOCKS)
    assert words[most[1]] == protocol.FULL.warm_blocks
    assert words[interval[1]] == pytest.approx(memory.INTERVAL_S * 1e3)


@pytest.mark.parametrize("function", [command.bench_command, fit_command.fit])
def test_every_option_is_documented(function: object) -> None:
    app = typer.Typer()
    app.command()(function)  # type: ignore[type-var]
    parameters = typer.main.get_command(app).params
    options = {name for one in parameters for name in one.opts if name.startswith("--")} - {
        "--install-completion",
        "--show-completion",
    }
    assert len(options) >= 7
    assert sorted(option for option in options if f"`{option}`" not in OPTIONS) == []
    assert "`--colour`" not in OPTIONS
