"""The default prompt and reference: a drawn toy on white, the same on every device."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

PROMPT = "a toy robot on the beach"
_SIDE = 512


def draw_reference(path: Path) -> Path:
    """Write the picture as PNG; what is on it has no bearing on how long anything takes."""
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((136, 60, 376, 300), fill=(214, 69, 65))
    draw.rounded_rectangle((116, 260, 396, 470), radius=60, fill=(44, 110, 180))
    for left in (196, 276):
        draw.ellipse((left, 140, left + 40, 180), fill="white")
    image.save(path)
    return path
