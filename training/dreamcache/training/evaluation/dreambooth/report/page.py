"""A page to look at: each subject's photographs, and below them every row's pictures, prompt by prompt.

The page shows the PNG files of the rows where they lie, so it is small and goes stale with none of them; of the
photographs, which may lie anywhere, it brings thumbnails along.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from dreamcache.runtime.files import replacing
from dreamcache.runtime.reference.images import load_image
from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark, BenchmarkSubject
from dreamcache.training.evaluation.dreambooth.generation import PICTURES, GenerationPlan, Slot

PAGE, THUMBNAILS = "pictures.html", "photographs"
_THUMBNAIL_PX = 192

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #fff; color: #1e1e22 }
h2 { margin: 2.5rem 0 .5rem } .row { display: flex; gap: 6px; overflow-x: auto; padding-bottom: 8px }
figure { margin: 0; width: 128px; flex: none } img { width: 128px; height: 128px; object-fit: contain }
figcaption { font-size: 11px; color: #55555c } .reference img { outline: 3px solid #c0392b }
h3 { font-size: 13px; margin: .6rem 0 .2rem; color: #55555c }
"""


def write_page(benchmark: Benchmark, rows: Sequence[str], plan: GenerationPlan, out: Path) -> None:
    """Write the page and the thumbnails; the first picture of each prompt is shown.

    Raises:
        ImageError: a photograph cannot be read.
        OutputError: the page cannot be written.
    """
    body = "".join(_subject(subject, rows, plan, out) for subject in benchmark.subjects)
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>DreamBooth\'s benchmark</title>'
        f"<style>{_STYLE}</style>\n<h1>DreamBooth's benchmark</h1>\n"
        "<p>Photographs first, the reference outlined; then each row, one picture a prompt, the same noise in "
        f"every row.</p>\n{body}</html>\n"
    )
    with replacing(out / PAGE, overwrite=True) as beside:
        beside.write_text(page, encoding="utf-8")


def _subject(subject: BenchmarkSubject, rows: Sequence[str], plan: GenerationPlan, out: Path) -> str:
    photographs = []
    for number, picture in enumerate(subject.pictures):
        place = out / THUMBNAILS / subject.name / f"{picture.stem}.png"
        _write_thumbnail(picture, place)
        kind = "reference" if number == plan.reference_image else ""
        photographs.append(_figure(place.relative_to(out), picture.name, kind))
    text = f"<h2>{escape(subject.name)}</h2>\n<div class=row>{''.join(photographs)}</div>\n"
    for row in rows:
        figures = []
        for prompt, caption in enumerate(subject.prompts):
            place = Path(PICTURES) / row / subject.name / Slot(subject, prompt, 0).file_name
            if (out / place).exists():
                figures.append(_figure(place, caption))
        text += f"<h3>{escape(row)}</h3>\n<div class=row>{''.join(figures)}</div>\n"
    return text


def _figure(place: Path, caption: str, kind: str = "") -> str:
    link = escape(quote(place.as_posix()), quote=True)
    return (
        f'<figure class="{kind}"><a href="{link}"><img src="{link}" loading="lazy" alt="{escape(caption, quote=True)}">'
        f"</a><figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _write_thumbnail(picture: Path, place: Path) -> None:
    small = load_image(picture).rgb
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place, overwrite=True) as beside:
        small.save(beside, format="PNG")
