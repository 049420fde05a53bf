"""Sentences of the page: how a background went, for somebody who has no mask to give, and where a record went."""

from __future__ import annotations

import inspect
import re

from page_files import ask_page

from dreamcache.runtime.reference import doubts, prepare

SAID = {
    "already on plain white; only the frame was changed": "",
    "background removed by u2net; give a mask where it errs": "Background removed by u2net. Not right?",
    doubts.with_doubt(
        "background removed", "most is taken"
    ): "Background removed; doubtful: most is taken. Not right?",
    "background kept: GrabCut found no clear subject; give a mask": "Background kept: GrabCut found no clear subject. "
    "Not right?",
    "background kept: give a mask, or install GrabCut with: pip install 'dreamcache[segment]'": "Background kept. "
    "Not right?",
}


def test_a_phone_is_not_asked_for_a_mask() -> None:
    plain, *others = ask_page([{"ask": "background", "how": how} for how in SAID])
    assert plain == "Already on plain white; only the frame was changed."
    for sentence, expected in zip(others, list(SAID.values())[1:], strict=True):
        assert sentence.startswith(f"{expected} Take it in front of a plain background.")
        assert "mask" not in sentence
    assert others[-1].endswith(" At your desk, pip install 'dreamcache[segment]' helps too.")
    # every way in which the desk's words end is among them
    source = inspect.getsource(prepare) + inspect.getsource(doubts)
    for words in re.findall(r"[:;][^:;\"]*give a mask[^\"]*(?=\")", source):
        assert any(words in how for how in SAID), words
    assert len(re.findall("give a mask", source)) >= 4


def test_a_record_that_cannot_be_kept_is_not_said_to_be() -> None:
    there, lost = ask_page([{"ask": "sent", "kept": "browser-1.json"}, {"ask": "sent", "kept": ""}])
    assert there == "Kept at your desk as browser-1.json."
    assert lost == {"error": "The connection to the desk is lost."}
