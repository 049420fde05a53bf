"""The table: measured rows, real photographs and published rows, for the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dreamcache.runtime.files import replacing
from dreamcache.training.evaluation.dreambooth.benchmark import WHOLE_IMAGES, Benchmark
from dreamcache.training.evaluation.dreambooth.generation import SCHEMA, GenerationPlan, write_result
from dreamcache.training.evaluation.dreambooth.metric_weights import KINDS, MetricWeights
from dreamcache.training.evaluation.dreambooth.report.published import PUBLISHED, Published
from dreamcache.training.evaluation.dreambooth.report.summary import RealSummary, RowSummary
from dreamcache.training.evaluation.dreambooth.scoring import METRICS
from dreamcache.training.evaluation.intervals import Interval

REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"
TITLES = {"dino": "DINO", "clip_i": "CLIP-I", "clip_t": "CLIP-T", "mdino": "MDINO", "mclip_i": "MCLIP-I"}
_UNBOUNDED = 1000
HEAD = ("row", "base", "precision", *TITLES.values(), "pictures")


@dataclass(frozen=True)
class DreamBoothReport:
    """Everything that the table says. backgrounds: of references, by the sentence that says what became of them."""

    benchmark: Benchmark
    plan: GenerationPlan
    weights: Sequence[MetricWeights]
    rows: Sequence[RowSummary]
    real: RealSummary
    backgrounds: dict[str, dict[str, int]]

    @property
    def notes(self) -> list[str]:
        """What a reader must know before comparing a row with a published one."""
        notes = []
        for weights in self.weights:
            if not weights.as_published:
                title = KINDS[weights.metric].title
                notes.append(
                    f"{weights.source} is not {title}: its scores do not compare with published ones"
                )
        whole = self.benchmark.is_whole and self.plan.images == WHOLE_IMAGES
        short = [row.name for row in self.rows if row.pictures < row.wanted]
        if short:
            notes.append(
                f"pictures are missing in {', '.join(short)}: run again without --stage to make them"
            )
        if not whole:
            subjects, listed = len(self.benchmark.subjects), self.benchmark.listed
            prompts = max(len(subject.prompts) for subject in self.benchmark.subjects)
            notes.append(
                f"a part of the benchmark ({subjects} subjects of {listed} listed, {prompts} prompts, "
                f"{self.plan.images} pictures each; published: 30, 25, 4): no published row compares"
            )
        if len(self.benchmark.subjects) < 2:
            notes.append("an interval needs two subjects or more")
        for row in self.rows:
            pictures, subjects = row.counts["mdino"]
            if 0 < pictures < row.pictures:
                notes.append(
                    f"MDINO and MCLIP-I of {row.name} are of {pictures} of its {row.pictures} pictures, "
                    f"of {subjects} subjects: the others have no mask, or no masked photograph"
                )
        for name, masks in (("real photographs", self.real.masks), *((r.name, r.masks) for r in self.rows)):
            if masks:
                notes.append(f"backgrounds of {name}: {_counted(masks)}")
        notes += [f"references of {row}: {_counted(ways)}" for row, ways in self.backgrounds.items() if ways]
        notes.append(f"reference: photograph {self.plan.reference_image} of each subject, by name")
        return notes

    def lines(self) -> list[tuple[str, ...]]:
        """The table's rows as text, in the order of HEAD."""
        lines = []
        for row in self.rows:
            made = row.made_from
            lines.append(
                (
                    row.name,
                    made["base"],
                    made["precision"],
                    *_cells(row.means),
                    f"{row.pictures}/{row.wanted}",
                )
            )
            if any(row.differences.values()):
                cells = _cells(row.differences, sign="+")
                lines.append((f"{row.name} − {self.rows[0].name}", "", "", *cells, ""))
        lines.append(("real photographs", "", "", *_cells(self.real.means), str(self.real.pictures)))
        lines += [_published_cells(row) for row in PUBLISHED]
        return lines

    def print(self, console: Console) -> None:
        """The table and its notes. Intervals stand below their means; a narrow console is no reason to cut figures."""
        table = Table(*HEAD, box=SIMPLE_HEAD)
        for line in self.lines():
            table.add_row(*(Text(cell.replace(" [", "\n[")) for cell in line))
        console.width = max(console.width, Console(width=_UNBOUNDED).measure(table).maximum)
        console.print(table)
        for note in self.notes:
            console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)

    def markdown(self) -> str:
        """The same table with its notes, and the means of each subject and prompt."""
        text = (
            "# DreamBooth's benchmark\n\nMeans over subjects with 95 % bootstrap intervals over subjects.\n\n"
        )
        text += _markdown_table(HEAD, self.lines()) + "\n"
        text += "".join(f"- {note}.\n" for note in self.notes)
        for row in self.rows:
            for kind, groups in (("subject", row.subjects), ("prompt", row.prompts)):
                lines = [(name, *map(_number, means.values())) for name, means in groups.items()]
                text += f"\n## {row.name}, per {kind}\n\n{_markdown_table((kind, *TITLES.values()), lines)}"
        return text

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": SCHEMA,
            "benchmark": {
                "subjects": [subject.name for subject in self.benchmark.subjects],
                "listed": self.benchmark.listed,
                "images": self.plan.images,
                "reference_image": self.plan.reference_image,
                "seed": self.plan.seed,
            },
            "metrics": {weights.metric: weights.as_record() for weights in self.weights},
            "notes": self.notes,
            "rows": [row.as_record() for row in self.rows],
            "real": self.real.as_record(),
            "references": self.backgrounds,
            "published": [asdict(row) for row in PUBLISHED],
        }

    def write(self, out: Path) -> None:
        """Write both files into a folder, replacing older ones. Raises: OutputError."""
        write_result(out / REPORT_JSON, self.as_record())
        with replacing(out / REPORT_MARKDOWN, overwrite=True) as beside:
            beside.write_text(self.markdown(), encoding="utf-8")


def _cells(means: dict[str, Interval | None], sign: str = "") -> tuple[str, ...]:
    cells = []
    for metric in METRICS:
        one = means[metric]
        if one is None:
            cells.append("–")
        elif one.low == one.high:  # one subject alone has no interval
            cells.append(f"{one.mean:{sign}.3f}")
        else:
            cells.append(f"{one.mean:{sign}.3f} [{one.low:{sign}.3f}, {one.high:{sign}.3f}]")
    return tuple(cells)


def _published_cells(row: Published) -> tuple[str, ...]:
    scores = (row.dino, row.clip_i, row.clip_t, None, None)
    return (f"{row.method} (published)", row.base, "", *map(_number, scores), "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)


def _counted(counts: dict[str, int]) -> str:
    return "; ".join(f"{count} {what}" for what, count in sorted(counts.items(), key=lambda item: -item[1]))
