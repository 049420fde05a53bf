"""Contact sheets with labels, and cached features as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
TILE, GAP, GROUP_GAP, HEADER, MARGIN = 128, 6, 22, 30, 14
INK, PALE, PAPER = (30, 30, 34), (110, 110, 118), (255, 255, 255)


@dataclass(frozen=True)
class Column:
    """A group of columns under one title: pictures uint8 [h, w, 3] and captions of each row."""

    title: str
    rows: Sequence[Sequence[Picture]]
    captions: Sequence[Sequence[str]] | None = None


def draw_sheet(columns: Sequence[Column], path: Path, heading: str = "", tile: int = TILE) -> None:
    """Groups of columns side by side, one row for each subject, enlarged without smoothing to `tile` pixels."""
    scale = tile / TILE
    title_font, font, small = (ImageFont.load_default(size * scale) for size in (20, 15, 11))
    line = round(16 * scale) if any(column.captions for column in columns) else 0
    title, head = round(HEADER * scale) if heading else 0, round(HEADER * scale)
    widths = [
        max(len(column.rows[0]) * (tile + GAP) - GAP, math.ceil(font.getlength(column.title)))
        for column in columns
    ]
    width = sum(widths) + GROUP_GAP * (len(columns) - 1) + 2 * MARGIN
    row_height = tile + line + GAP
    height = title + head + len(columns[0].rows) * row_height + 2 * MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 4), heading, INK, font=title_font)
    left = MARGIN
    for column, span in zip(columns, widths, strict=True):
        pen.text((left, title + MARGIN), column.title, INK, font=font)
        rule = title + MARGIN + round(21 * scale)
        pen.line((left, rule, left + span, rule), PALE)
        for r, row in enumerate(column.rows):
            top = title + head + MARGIN + r * row_height
            for c, picture in enumerate(row):
                x = left + c * (tile + GAP)
                enlarged = Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST)
                sheet.paste(enlarged, (x, top))
                if column.captions:
                    pen.text((x + 1, top + tile + 1), column.captions[r][c], PALE, font=small)
        left += span + GROUP_GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def features_as_picture(tokens: NDArray[np.float32]) -> Picture:
    """The three strongest directions of tokens [n, d] on a square grid as colours: uint8 [side, side, 3]."""
    side = round(len(tokens) ** 0.5)
    centred = tokens - tokens.mean(0)
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    parts = left[:, :3] * strength[:3]
    spread = np.abs(parts).max(0) + 1e-8
    picture: Picture = np.round((parts / spread + 1) * 127.5).astype(np.uint8).reshape(side, side, 3)
    return picture
