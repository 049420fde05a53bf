"""From raw stages to the table's figures and the bars, by arithmetic that the README states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from peers.cases import Case, Row

BRANCHES = 2
"""Classic guidance: prompt and null text, the subject in both."""

SECOND_UNET_BAR = 1.9


@dataclass(frozen=True)
class Figures:
    """Figures of one row. Seconds; MB are 10⁶ bytes.

    Attributes:
        step_s: one step of both branches.
        first_s: from nothing loaded to the first picture.
        tenth_s: the tenth picture of the same subject by itself.
        subject_s: what happens once for a subject.
    """

    name: str
    method: str
    engine: str
    precision: str
    personalised: bool
    step_s: float
    subject_s: float
    first_s: float
    tenth_s: float
    private_mb: float
    file_backed_mb: float | None
    disk_mb: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def row_figures(case: Case, row: Row, measured: Mapping[str, Any], steps: int) -> Figures:
    """measured: `stages`, `memory` and `disk_bytes` of the case's process."""
    stages: Mapping[str, Sequence[float]] = measured["stages"]
    step = _step(row, stages)
    subject = median(stages["subject"]) if row.subject != "none" else 0.0
    again = subject if row.subject == "each picture" else 0.0
    picture = _rest(stages) + steps * step + again
    once = subject if row.subject == "once" else 0.0
    return Figures(
        name=row.name,
        method=row.method,
        engine=case.engine,
        precision=case.precision,
        personalised=row.subject != "none",
        step_s=step,
        subject_s=once,
        first_s=sum(stages.get("load", ())) + once + picture + _warming(stages),
        tenth_s=picture,
        private_mb=measured["memory"]["private_mb"],
        file_backed_mb=measured["memory"]["file_backed_mb"],
        disk_mb=measured["disk_bytes"] / 1e6,
    )


def _step(row: Row, stages: Mapping[str, Sequence[float]]) -> float:
    if "guided_step" in stages:
        return median(stages["guided_step"])
    copies = {"none": 0, "each step": 1, "each branch": BRANCHES}[row.copy]
    copy = median(stages["reference_call"]) if copies else 0.0
    return BRANCHES * median(stages["call"]) + copies * copy


def _rest(stages: Mapping[str, Sequence[float]]) -> float:
    """What a picture takes besides its steps: text before, decoding after."""
    if "rest" in stages:
        return median(stages["rest"])
    return median(stages["text"]) + median(stages["decode"])


def _warming(stages: Mapping[str, Sequence[float]]) -> float:
    """What first calls took above later ones."""
    firsts = [name for name in stages if name.startswith("first_")]
    return sum(
        max(0.0, stages[name][0] - median(stages[name.removeprefix("first_")]))
        for name in firsts
        if stages.get(name.removeprefix("first_"))
    )


@dataclass(frozen=True)
class Bar:
    """One bar: `met` is None where a row of it was not measured."""

    text: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


def bars(rows: Mapping[str, Figures]) -> list[Bar]:
    """Every bar on every precision that has its rows, in the usual and in the stricter reading."""
    found = []
    for precision in ("int8", "fp32", "openvino-bf16"):
        for other, reading in (("", "for each branch"), ("-shared", "shared by the branches")):
            found.append(
                _times_faster(
                    rows.get(f"dreamcache-{precision}"),
                    rows.get(f"second-unet-{precision}{other}"),
                    SECOND_UNET_BAR,
                    f"{precision}: tenth picture at least {SECOND_UNET_BAR} × faster than with a second UNet {reading}",
                )
            )
        for other, reading in (("", "encoder for each picture"), ("-kept", "embedding kept")):
            found.append(
                _times_faster(
                    rows.get(f"dreamcache-{precision}"),
                    rows.get(f"ip-adapter-{precision}{other}"),
                    1.0,
                    f"{precision}: tenth picture faster than IP-Adapter's, {reading}",
                )
            )
    ours = [row for row in rows.values() if row.engine == "ONNX Runtime" and row.precision == "int8"]
    steps = [row for row in ours if row.name.startswith("dreamcache-")]
    torch = rows.get("pytorch-bf16")
    text = "the runner's fastest int8 step, with the subject, faster than PyTorch's plain bf16 step"
    if not steps or torch is None:
        return [*found, Bar(text, None)]
    best = min(steps, key=lambda row: row.step_s)
    compared = f"{best.step_s:.2f} s ({best.name}) against {torch.step_s:.2f} s"
    return [*found, Bar(f"{text}: {compared}", best.step_s < torch.step_s)]


def _times_faster(ours: Figures | None, other: Figures | None, least: float, text: str) -> Bar:
    if ours is None or other is None:
        return Bar(text, None)
    ratio = other.tenth_s / ours.tenth_s
    # "Faster" is strict, "at least" is not.
    return Bar(f"{text}: {ratio:.3f} ×", ratio >= least if least > 1 else ratio > least)
