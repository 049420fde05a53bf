"""JSON that anybody may have written: each key once, no text that cannot be written again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dreamcache.runtime.untrusted import parse_json, utf8_path


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '["x\\udc80y"]', b'{"a": "\xed\xa0\x80"}']
)
def test_half_a_character_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"half a character|can't decode"):
        parse_json(text)


def test_whole_characters_are_read_in_any_form() -> None:
    value = {"😀": ["é", "😀", "\\ud800 as text"], "n": 1}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        for given in (text, text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
            assert parse_json(given) == value


@pytest.mark.skipif(sys.platform == "win32", reason="names are bytes elsewhere")
def test_paths_for_libraries_are_utf_8_whatever_python_reads_names_as() -> None:
    """In the locale C, Python has each byte of "é" as half a character."""
    assert utf8_path(Path("b/\udcc3\udca9")) == utf8_path(Path("b/é")) == "b/é"
    with pytest.raises(ValueError, match="a path in UTF-8 is expected"):
        utf8_path(Path("b/\udcff"))
