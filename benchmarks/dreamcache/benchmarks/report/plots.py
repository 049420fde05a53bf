"""The page's plots, each one SVG of its own; a plot whose figures are absent is None.

Colours are Okabe and Ito's (2008), which the colour-blind tell apart.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreamcache.benchmarks.record import Measurement, numbered
from dreamcache.benchmarks.report.break_even import Method, cheaper_from, methods

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
STAGES = ("vae_encode", "cache", "text", "denoise", "vae_decode", "rest")
_TITLES = {"vae_encode": "VAE encode", "cache": "cache", "text": "text", "vae_decode": "VAE decode"}
_PICTURES = tuple(range(1, 21))


def stage_breakdown(measurements: Sequence[Measurement]) -> str | None:
    """Seconds of a subject's first picture by stage, a bar for each bundle."""
    shown = [(name, stages) for name, one in numbered(measurements) if (stages := stage_seconds(one))]
    if not shown:
        return None
    figure, axes = _figure(height=1.4 + 0.55 * len(shown))
    lefts = [0.0] * len(shown)
    for colour, stage in zip(COLOURS, STAGES, strict=False):
        widths = [stages[stage] for _, stages in shown]
        label = _TITLES.get(stage, "denoising" if stage == "denoise" else "opening graphs, rest")
        axes.barh(range(len(shown)), widths, left=lefts, color=colour, label=label, height=0.6)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("seconds for the first picture of a subject")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(STAGES), fontsize=8)
    return _svg(figure)


def stage_seconds(one: Measurement) -> dict[str, float]:
    """Stages of a first picture in seconds; empty when one was not measured.

    "rest" is what end-to-end time holds besides its stages: opening graphs, the scheduler, the second prompt.
    """
    metrics = one.metrics
    encode = one.spread.get("vae_encode")
    if encode is None or metrics.cache_ms is None or metrics.text_ms is None or metrics.e2e_ms_p50 is None:
        return {}
    if metrics.step_ms_p50 is None or metrics.vae_decode_ms is None:
        return {}
    denoise = one.conditions.unet_calls * metrics.step_ms_p50
    if one.conditions.shallow_calls:
        if "shallow_step" not in one.spread:
            return {}
        denoise += one.conditions.shallow_calls * one.spread["shallow_step"].median
    stages = {
        "vae_encode": encode.median,
        "cache": metrics.cache_ms,
        "text": metrics.text_ms,
        "denoise": denoise,
        "vae_decode": metrics.vae_decode_ms,
    }
    drawn = stages["text"] + stages["denoise"] + stages["vae_decode"]
    stages["rest"] = max(0.0, metrics.e2e_ms_p50 - drawn)
    return {stage: value / 1e3 for stage, value in stages.items()}


def latency_distribution(measurements: Sequence[Measurement]) -> str | None:
    """Every single UNet call: its place in the run, and the share of calls that took no longer."""
    tracks = [
        (f"{bundle}, {title}", one.samples[name])
        for bundle, one in numbered(measurements)
        for name, title in (("step", "with adapters"), ("plain_step", "plain"), ("shallow_step", "shallow"))
        if one.samples.get(name)
    ]
    if not tracks:
        return None
    figure, axes = _figure(height=3.4)
    for colour, (label, samples) in zip(COLOURS * 9, tracks, strict=False):
        ordered = sorted(samples)
        shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
        axes.step(ordered, shares, where="post", color=colour, label=f"{label} (n = {len(ordered)})")
        axes.plot(ordered, shares, ".", color=colour, markersize=4)
    for share in (0.5, 0.9):
        axes.axhline(share, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("ms of one UNet call")
    axes.set_ylabel("share of calls that took no longer")
    axes.legend(fontsize=8, loc="lower right")
    return _svg(figure)


def memory_over_time(one: Measurement) -> str | None:
    """Private and file-backed memory of one picture in a fresh process, its stages shaded."""
    trace = one.memory
    if trace is None:
        return None
    figure, axes = _figure(height=3.4)
    files = [0.0 if value is None else value for value in trace.file_mb]
    axes.stackplot(
        trace.at_s, trace.private_mb, files, colors=(COLOURS[0], COLOURS[4]), alpha=0.85,
        labels=("private", "file-backed"),
    )  # fmt: skip
    tops = [private + file for private, file in zip(trace.private_mb, files, strict=True)]
    axes.set_ylim(0, 1.18 * max(tops))
    for stage, begin, end in joined_spans(one):
        axes.axvspan(begin, end, color="#000000", alpha=0.06, linewidth=0)
        if end - begin > 0.04 * trace.at_s[-1]:
            axes.text((begin + end) / 2, 1.1 * max(tops), stage, ha="center", fontsize=8, color="#444444")
    peak = max(range(len(tops)), key=lambda index: trace.private_mb[index])
    axes.plot(trace.at_s[peak], trace.private_mb[peak], "o", color="#000000", markersize=4)
    axes.annotate(
        f"{trace.private_mb[peak]:.0f} MB private", (trace.at_s[peak], trace.private_mb[peak]),
        textcoords="offset points", xytext=(-6, -14), ha="right" if peak > len(tops) // 2 else "left",
        fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )  # fmt: skip
    axes.set_xlim(0, trace.at_s[-1])
    axes.set_xlabel("seconds since the process began")
    axes.set_ylabel("MB")
    axes.legend(fontsize=8, loc="lower right")
    return _svg(figure)


def joined_spans(one: Measurement) -> list[tuple[str, float, float]]:
    """(stage, begin, end), with neighbours of the same stage as one."""
    joined: list[tuple[str, float, float]] = []
    for span in one.memory.spans if one.memory is not None else ():
        name = _TITLES.get(span.stage, "denoising" if span.stage == "step" else span.stage)
        if joined and joined[-1][0] == name:
            joined[-1] = (name, joined[-1][1], span.end_s)
        else:
            joined.append((name, span.begin_s, span.end_s))
    return joined


def break_even(one: Measurement, peers: Sequence[Method] = ()) -> str | None:
    """Seconds over pictures of one subject, in all and on average; dashed where computed."""
    shown = [*methods(one), *peers]
    if not shown:
        return None
    figure = Figure(figsize=(8.2, 3.8), layout="constrained")
    whole, average = figure.subplots(1, 2)
    for index, method in enumerate(shown):
        seconds = [method.cumulative_s(count) for count in _PICTURES]
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": "--" if method.computed else "-",
            "linewidth": 2.4 if index == 0 else 1.5,
        }
        label = method.name + (" (computed)" if method.computed else "")
        whole.plot(_PICTURES, seconds, label=label, **style)
        average.plot(
            _PICTURES, [total / count for total, count in zip(seconds, _PICTURES, strict=True)], **style
        )
        crossing = cheaper_from(shown[0], method) if index else None
        if crossing is not None and 1 < crossing <= _PICTURES[-1]:
            whole.plot(crossing, shown[0].cumulative_s(crossing), "o", color=style["color"])
    for axes, title in ((whole, "seconds in all"), (average, "seconds a picture, on average")):
        _plain_axes(axes)
        axes.set_xlim(1, _PICTURES[-1])
        axes.set_ylim(0)
        axes.set_xticks((1, 5, 10, 15, 20))
        axes.set_xlabel("pictures of one subject")
        axes.set_ylabel(title)
    whole.legend(fontsize=8, loc="upper left")
    return _svg(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    # A Figure of its own needs no backend and leaves pyplot's state alone.
    figure = Figure(figsize=(8.2, height), layout="constrained")
    axes = figure.subplots()
    _plain_axes(axes)
    return figure, axes


def _plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _svg(figure: Any) -> str:
    """The SVG element alone: text stays text, and the same record gives the same bytes."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dreamcache"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return re.sub(r'\s(width|height)="[\d.]+pt"', "", text[text.index("<svg") :], count=2)
