"""From what a language model answers to a caption, and whether that caption will do."""

from __future__ import annotations

import re
import unicodedata

MIN_WORDS = 3
_LABEL = re.compile(r"^(?:here(?:'s| is)[^:]*|caption|answer|photo(?:graph)?)\s*:\s*", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")
_QUOTES = "\"'“”‘’«»`*"


def clean_caption(answer: str) -> str:
    """The caption in an answer: its first line that says something, without label, bullet and quotes."""
    for line in answer.splitlines():
        text = _BULLET.sub("", unicodedata.normalize("NFC", line).strip())
        label = _LABEL.match(text.strip(_QUOTES))
        text = (text.strip(_QUOTES)[label.end() :] if label else text).strip()
        if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
            text = text.strip(_QUOTES)
        text = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
        if any(letter.isalnum() for letter in text):
            return text
    return ""


def names_subject(caption: str, subject: str) -> bool:
    """Whether the caption holds the subject's words side by side, also as a plural; case does not matter."""
    words = r"\W+".join(re.escape(word) for word in subject.split())
    return re.search(rf"(?<!\w){words}(?:e?s)?(?!\w)", caption, re.IGNORECASE) is not None


def fault_of(caption: str, subject: str, max_words: int) -> str | None:
    """Why a caption will not do, or None."""
    words = len(caption.split())
    if words < MIN_WORDS:
        return "too short"
    if words > max_words:
        return "too long"
    return None if names_subject(caption, subject) else "without the subject"


def dedup_key(caption: str) -> str:
    """Equal for captions that differ in case, punctuation or spaces alone."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", caption).casefold()))
