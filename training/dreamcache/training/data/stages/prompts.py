"""What the language model is asked: subjects, places and a template, built in or from text files."""

from __future__ import annotations

import string
from pathlib import Path

from dreamcache.training.errors import SynthesisError

SUBJECTS = (
    "teddy bear", "toy robot", "toy car", "toy train", "doll", "rubber duck", "plush rabbit", "wooden horse",
    "dog", "puppy", "cat", "kitten", "rabbit", "hamster", "parrot", "owl", "fox", "tortoise", "horse", "penguin",
    "backpack", "suitcase", "handbag", "umbrella", "hat", "boot", "sneaker", "pair of glasses", "wristwatch",
    "teapot", "coffee mug", "vase", "bowl", "candle", "lantern", "lamp", "clock", "alarm clock", "armchair", "chair",
    "guitar", "violin", "drum", "camera", "radio", "typewriter", "book", "globe", "bicycle", "scooter", "motorbike",
    "sailing boat", "balloon", "cactus", "potted plant", "pumpkin", "cake", "cupcake", "apple", "statue",
)  # fmt: skip
"""Things that fill a picture by themselves and look different each time."""

PLACES = (
    "on a beach", "in a forest", "in the snow", "on a city street", "in a kitchen", "on a wooden table",
    "in a garden", "by a lake", "on a mountain", "in a living room", "on a bed", "in a library", "on a bench in a park",
    "in front of a brick wall", "in a field of flowers", "in a desert", "under a tree", "on a bridge at night",
    "by a window in the rain", "on a rock by the sea", "in a market", "in autumn leaves", "on a stage", "in a workshop",
)  # fmt: skip

TEMPLATE = (
    "Write one caption for a photograph of one {subject} {place}. One sentence of at most twenty words. Use the "
    "words '{subject}'. Describe its look and what is around it. Answer with the caption alone."
)

_MAX_FILE_BYTES = 4 << 20


def read_lines(path: Path | None, default: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The lines of a text file, without empty ones, comments (#) and repetitions; `default` without a file.

    Raises: SynthesisError when it cannot be read or holds none.
    """
    if path is None:
        return default
    lines = [" ".join(line.split()) for line in _read(path, option).splitlines()]
    kept = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not kept:
        raise SynthesisError(f"{option}: one entry a line is expected, {path} holds none")
    return kept


def read_template(text_or_file: str | None) -> str:
    """A prompt template, as text or in a file; the built-in one without.

    Raises: SynthesisError unless it names {subject}, and nothing but {subject} and {place}.
    """
    if text_or_file is None:
        return TEMPLATE
    template = text_or_file if "{" in text_or_file else _read(Path(text_or_file), "--template").strip()
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise SynthesisError(f"--template: {error}; write {{{{ for a brace") from error
    if "subject" not in names or names - {"subject", "place"}:
        received = ", ".join(sorted(f"{{{name}}}" for name in names)) or "neither"
        raise SynthesisError(
            f"--template: {{subject}} and perhaps {{place}} are expected, received {received}"
        )
    return template


def _read(path: Path, option: str) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SynthesisError(
                f"{option}: at most {_MAX_FILE_BYTES >> 20} MiB are expected, {path} is larger"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SynthesisError(
            f"{option}: a text file is expected, {path} cannot be read ({reason})"
        ) from error
