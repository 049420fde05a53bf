"""Weights inside a prompt, in the syntax of AUTOMATIC1111's web UI (its `prompt_parser`, "attention/emphasis").

`(word)` counts 1.1 times, `[word]` 1 / 1.1 times, `(word:1.3)` 1.3 times; brackets nest and multiply, and one after a
backslash is a bracket of the text. What is left open reaches to the end. A token's embedding is multiplied by its
weight. The mean of all is not restored afterwards (that program's "No norm"): it is near nothing for some text
encoders, and one would divide by it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from reprlib import repr as short

from dreamcache.runtime.errors import SettingsError

Part = tuple[str, float]
"""A piece of a prompt and its weight."""

EMPHASIS = 1.1
_MOST = 100.0
_MOST_OPEN = 64
# an escaped character, a bracket, a weight with the bracket that ends it, or text up to the next of those
_PIECE = re.compile(r"\\[\\()\[\]]|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|\\|:|[^\\()\[\]:]+", re.ASCII)
_WEIGHT = re.compile(r"\([^()]*:\s*[+-]?[.\d]+\s*\)", re.ASCII)
# what people write for a weight and no number is: 1,3 and 1e5 and nan
_NO_WEIGHT = re.compile(
    r":\s*([+-]?(?:nan|inf|infinity|[.\d]+(?:,|e)[.,\de+-]*))\s*\)", re.ASCII | re.IGNORECASE
)
# the rest of that program's syntax: parts, products of prompts, changes while drawing, alternation, networks
_OTHER_SYNTAX = re.compile(
    r"\bBREAK\b|\bAND\b|\[[^\[\]():]*:[^\[\]():]*:[.\d]+\]|\[[^\[\]|]*\|[^\[\]]*\]|<(?:lora|lyco|hypernet):[^<>]*>",
    re.ASCII,
)


class WeightsWarning(UserWarning):
    """Something in a prompt looks like the syntax of weights, or of what goes with it, and is read as text."""


def weighted_parts(prompt: str) -> list[Part]:
    """The pieces of a prompt, with equal neighbours joined; the empty prompt is one empty piece.

    Raises: SettingsError for a weight that is no number or beyond ±100, and for more than 64 brackets open at once.
    """
    pieces: list[list[str | float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(bracket: str, weight: float) -> None:
        for piece in pieces[opened[bracket].pop() :]:
            piece[1] = float(piece[1]) * weight

    for match in _PIECE.finditer(prompt):
        text, number = match[0], match[1]
        if text in opened:
            opened[text].append(len(pieces))
            if sum(map(len, opened.values())) > _MOST_OPEN:
                raise SettingsError(
                    f"prompt: at most {_MOST_OPEN} brackets inside each other are expected, received more"
                )
        elif number is not None and opened["("]:
            multiply("(", _number(number))
        elif text == ")" and opened["("]:
            multiply("(", EMPHASIS)
        elif text == "]" and opened["["]:
            multiply("[", 1 / EMPHASIS)
        else:
            pieces.append([text[1:] if len(text) == 2 and text[0] == "\\" else text, 1.0])
    for bracket, weight in (("(", EMPHASIS), ("[", 1 / EMPHASIS)):
        while opened[bracket]:
            multiply(bracket, weight)
    return _joined([(str(text), float(weight)) for text, weight in pieces])


def check_weights(prompts: Iterable[object], weighted: bool) -> None:
    """Before anything is drawn: weights that are read are right, and those that are not are said.

    Raises: SettingsError as `weighted_parts`. Warns: WeightsWarning where a weight is read as text.
    """
    for prompt in prompts:
        if not isinstance(prompt, str):
            continue
        if not weighted:
            if found := _WEIGHT.search(prompt):
                _warn(
                    f"{short(found[0])} is read as text; --prompt-weights (prompt_weights=True) reads weights"
                )
            continue
        weighted_parts(prompt)
        if found := _NO_WEIGHT.search(prompt):
            _warn(f"{short(found[1])} is read as text; a weight is a number such as 1.3")
        if found := _OTHER_SYNTAX.search(prompt):
            _warn(f"{short(found[0])} is read as text; weights are all that is read of that syntax")


def _warn(line: str) -> None:
    warnings.warn(line, WeightsWarning, stacklevel=5)


def _joined(parts: list[Part]) -> list[Part]:
    found: list[Part] = []
    for text, weight in parts:
        if not abs(weight) <= _MOST:
            raise SettingsError(
                f"prompt: weights within ±{_MOST:g} are expected, received {weight:g} on {short(text)}"
            )
        if found and found[-1][1] == weight:
            found[-1] = (found[-1][0] + text, weight)
        else:
            found.append((text, weight))
    return found or [("", 1.0)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SettingsError(f"prompt: a weight such as 1.3 is expected, received {short(text)}") from error
