"""The README's commands are those that run, its Python is valid, and its figures are those of committed records."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "findings" / "benchmarks.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_ci_runs_the_test_command_of_the_readme_word_for_word() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if " -m pytest" in line]
    assert len(commands) == 1
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands[0] in lines
    assert commands[0].replace("pytest", "pytest -x") not in lines


def test_the_python_is_valid_and_short() -> None:
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 6
    ast.parse(block)


def commands_named(text: str) -> set[str]:
    """What follows the program's name where a command stands: in a block of shell or in back quotes."""
    blocks_and_quotes = [*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]
    return {name for part in blocks_and_quotes for name in re.findall(r"\bdreamcache ([a-z]\w*)", part)}


def test_every_command_that_it_names_exists() -> None:
    declared = set(re.findall(r'^(\w+) = "dreamcache\.', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    named = commands_named(README)
    assert {"cache", "generate", "export"} <= named
    assert named - declared == set(), "the README names a command that does not exist"
    assert commands_named(
        "`dreamcache draw x`\n```sh\ndreamcache fit b8\n```\nthe dreamcache way"
    ) - declared == {"draw"}


def core_ml_figures(record: dict[str, Any]) -> list[str]:
    """Of the table of recipes, and the sizes at full size."""
    figures = []
    for row in record["miniature"].values():
        if "refused" not in row:
            figures += [f"{row['unet_bytes'] / 1e6:.1f} MB", f"{row['psnr_db']['denoise fp16']:.1f} dB"]
    for sizes in record.get("sizes", {}).values():
        figures += [f"{size / 1e6:.0f} MB" for size in sizes.values()]
    export = record.get("full_size")
    return figures + ([f"{export['seconds']:.0f} s", f"{export['private_gb']:.1f} GB"] if export else [])


def figures_of_the_results() -> list[str]:
    """The figures of docs/findings/benchmarks.md as the committed records give them."""
    results = ROOT / "docs" / "results"
    evaluation = json.loads((results / "evaluation.json").read_text())
    demo = json.loads((results / "demo.json").read_text())
    figures = []
    for scores in evaluation["results"].values():
        figures += [f"{scores[name]['mean']:.1%}" for name in ("identity_accuracy", "scene_accuracy")]
        figures += [f"{value:.1%}" for value in scores["attributes"].values()]
        figures.append(f"{scores['colour_distance']['mean']:.1f}")
    for pair in evaluation["pairs"]["results"].values():
        figures += [f"{pair[name]['mean']:.1%}" for name in ("own", "other", "kind", "scene")]
    captions = evaluation["captions"]["results"]
    figures += [f"{captions[name]['mean']:.1%}" for name in ("kind", "scene", "named", "style")]
    stages = ("text", "cache", "step", "vae_decode", "total")
    figures += [f"{demo['latency_ms'][stage]:.1f} ms" for stage in stages]
    figures.append(f"{demo['peak_private_mb']:.0f} MB")
    figures.append(f"{demo['disk']['two_graphs_over_one']:.3f}")
    full_size = json.loads((results / "sd15.json").read_text())
    openvino = json.loads((results / "sd15-openvino.json").read_text())
    for metrics in (full_size["metrics"], full_size["others"][0]["metrics"], openvino["metrics"]):
        figures += [
            f"{metrics[name] / 1e3:.2f} s" for name in ("step_ms_p50", "plain_step_ms_p50", "cache_ms")
        ]
        figures.append(f"{metrics['adapter_overhead']:.3f}")
    for name in ("sd15-int8-full", "sd15-int8-memory"):
        metrics = json.loads((results / f"{name}.json").read_text())["metrics"]
        step, ninety = (f"{metrics[figure] / 1e3:.2f} s" for figure in ("step_ms_p50", "step_ms_p90"))
        figures += [
            f"{step} ({ninety})",
            f"{metrics['adapter_overhead']:.3f}",
            f"{metrics['e2e_ms_p50'] / 1e3:.1f} s",
            f"{metrics['peak_private_mb']:.0f} MB",
            f"{metrics['peak_file_mb']:.0f} MB",
        ]
    for name in ("fit-sd15-int8", "fit-sd15-int8-speed"):
        fit = json.loads((results / f"{name}.json").read_text())
        figures.append(f"{fit['peak_private_mb']:.0f} MB")
    peers = json.loads((results / "peers.json").read_text())
    figures += [f"{bar['verdict']}: {bar['text']}" for bar in peers["bars"]]
    figures += [f"{row['tenth_s']:.0f} s" for row in peers["rows"] if row["name"] in ("sd-cpp", "optimum")]
    for path in sorted((results / "scaling").glob("*.json")):
        metrics = json.loads(path.read_text())["metrics"]
        figures.append(f"{metrics['peak_private_mb']:.0f} MB")
        figures.append(f"{metrics['vae_decode_ms'] / 1e3:.2f} s")
    for path in sorted((results / "overhead").glob("*.json")):
        metrics = json.loads(path.read_text())["metrics"]
        steps = " | ".join(f"{metrics[name] / 1e3:.2f} s" for name in ("step_ms_p50", "plain_step_ms_p50"))
        figures.append(f"{steps} | {metrics['adapter_overhead']:.3f} |")
    figures += core_ml_figures(json.loads((results / "coreml.json").read_text()))
    fast = json.loads((results / "fast-math.json").read_text())
    figures += [f"{fast['results']['identity_accuracy'][end]:.1%}" for end in ("mean", "low", "high")]
    figures.append(f"{median(fast['final_latent_db']):.1f} dB")
    rows = json.loads((results / "approximations.json").read_text())["rows"]
    figures += [f"{row['results']['identity_accuracy']['mean']:.1%}" for row in rows.values()]
    return figures


def test_every_figure_comes_from_a_committed_record() -> None:
    figures = figures_of_the_results()
    assert len(figures) >= 20
    assert [figure for figure in figures if figure not in BENCHMARKS] == []
    assert "123.4 ms" not in BENCHMARKS, "a figure that no record holds"


def foreign_figures(text: str) -> list[str]:
    """Figures with a unit that the benchmarks' page does not have."""
    return [figure for figure in re.findall(r"\d[\d.]*(?:%| MB| s\b)", text) if figure not in BENCHMARKS]


def test_the_first_page_is_short_and_its_figures_are_those_of_the_benchmarks() -> None:
    assert len(README.splitlines()) <= 120
    results = README[README.index("## Results") : README.index("## Limits")]
    assert len(re.findall(r"\d[\d.]*(?:%| MB| s\b)", results)) >= 8
    assert foreign_figures(results) == []
    assert foreign_figures("a step takes 0.01 s, 93.2% of 99 MB") == ["0.01 s", "99 MB"]


def test_what_fewer_calls_gain_and_cost_is_that_of_the_record() -> None:
    record = json.loads((ROOT / "docs" / "results" / "fewer-calls.json").read_text())
    page = (ROOT / "docs" / "guides" / "memory.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^\| `(--(?:guidance|step).*?)` \|.*\| (\d\.\d\d) \| (\d+\.\d) dB \|$", page, re.MULTILINE
    )
    measured = [
        (name, f"{row['cpu_time']:.2f}", f"{row['latent_db']:.1f}")
        for name, row in record["rows"].items()
        if name != "exact"
    ]
    assert shown == measured
    assert len(shown) == 6


def test_what_a_shallow_call_gains_is_that_of_the_record() -> None:
    record = json.loads((ROOT / "docs" / "results" / "sd15-int8-step-cache.json").read_text())
    whole, shallow = (median(record["samples"][name]) / 1e3 for name in ("step", "shallow_step"))
    assert record["conditions"]["unet_calls"] == 2
    assert record["conditions"]["shallow_calls"] == 4
    page = (ROOT / "docs" / "guides" / "memory.md").read_text(encoding="utf-8")
    assert f"{shallow:.2f} s where a whole one takes {whole:.2f} s" in page
    assert f"take {(2 * whole + 4 * shallow) / (6 * whole):.2f} of the time" in page
