"""JSON that anybody may have written: each key once, no text that cannot be written again."""

from __future__ import annotations

import json

import pytest

from dreamcache.runtime.untrusted import parse_json


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
