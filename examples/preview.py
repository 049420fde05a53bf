"""A picture in the terminal while it is drawn: what the model believes in after every step.

    python examples/preview.py mini --reference docs/images/toy.png --prompt "a toy duck on the beach" --out duck.png

A terminal's cell shows two pixels, one above the other, as a half block in 24-bit colour.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.text import Text

from dreamcache.runtime import DreamCacheError, Pipeline


def as_text(picture: Image.Image, columns: int) -> Text:
    """The picture in half blocks, `columns` wide."""
    rows = 2 * round(columns * picture.height / picture.width / 2)
    small = picture.convert("RGB").resize((columns, rows))
    text = Text(no_wrap=True)
    for y in range(0, rows, 2):
        for x in range(columns):
            upper, lower = ("#{:02x}{:02x}{:02x}".format(*small.getpixel((x, y + half))) for half in (0, 1))
            text.append("▀", f"{upper} on {lower}")
        text.append("\n")
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", help="folder of a bundle, owner/name on the Hub, or mini")
    parser.add_argument("--reference", required=True, help="picture of the subject")
    parser.add_argument("--prompt", required=True, help="scene")
    parser.add_argument("--out", required=True, help="PNG to write")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps, default 20")
    parser.add_argument("--seed", type=int, default=0, help="seed, default 0")
    parser.add_argument("--columns", type=int, default=48, help="width in the terminal, default 48")
    asked = parser.parse_args(arguments)
    try:
        pipe = Pipeline.load(asked.bundle, keep_sessions=True)
        subject = pipe.cache(asked.reference)
        with Live(console=Console(), auto_refresh=False) as live:
            for step in pipe.denoise(asked.prompt, subject, steps=asked.steps, seed=asked.seed):
                (picture,) = pipe.decode(step.preview)
                shown = as_text(picture, asked.columns).append(f"step {step.index + 1} of {step.total}")
                live.update(shown, refresh=True)
        picture.save(asked.out)
    except (DreamCacheError, OSError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
