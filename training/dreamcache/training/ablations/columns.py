"""What a table shows of its rows' scores, as text."""

from __future__ import annotations

from typing import Any

from dreamcache.training.evaluation.intervals import Interval

OF_ONE = ("identity accuracy", "body / accent / pattern", "scene", "colour ΔE", "adapters")
OF_STYLE = (*OF_ONE[:3], "style", *OF_ONE[3:])
OF_TWO = ("own attributes", "the other's", "kind", "scene", "adapters")


def columns(record: dict[str, Any]) -> tuple[str, ...]:
    """Titles over the cells of a table's record."""
    if any(row.get("pair") for row in record["rows"]):
        return OF_TWO
    return OF_STYLE if any(row.get("prompt_styles") for row in record["rows"]) else OF_ONE


def cells(row: dict[str, Any], titles: tuple[str, ...]) -> tuple[str, ...]:
    """The row's figures under the titles; those of which intervals matter with theirs."""
    scores, training = row["scores"], row["training"]
    shown = {"adapters": f"{training['parameters'] / 1e3:,.0f}K" if training else ""}
    if row.get("pair"):
        shown |= {
            "own attributes": str(Interval(**scores["own"])),
            "the other's": str(Interval(**scores["other"])),
            "kind": _share(scores["kind"]),
            "scene": _share(scores["scene"]),
        }
    else:
        shown |= {
            "identity accuracy": str(Interval(**scores["identity_accuracy"])),
            "body / accent / pattern": " / ".join(f"{v:.0%}" for v in scores["attributes"].values()),
            "scene": _share(scores["scene_accuracy"]),
            "style": str(Interval(**scores["style_accuracy"])),
            "colour ΔE": f"{scores['colour_distance']['mean']:.1f}",
        }
    return tuple(shown[title] for title in titles)


def _share(value: dict[str, float]) -> str:
    return f"{value['mean']:.1%}"
