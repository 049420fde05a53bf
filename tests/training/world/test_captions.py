"""Captions: kind and scene always, the appearance only as often as stated."""

from __future__ import annotations

import numpy as np
import pytest

from dreamcache.training.world.captions import NAMES_ALL, NAMES_BODY, draw_words, plain_caption
from dreamcache.training.world.identity import COLOURS, KINDS, PATTERNS, Identity, draw_identity
from dreamcache.training.world.samples import PLACES
from dreamcache.training.world.scenes import SCENES
from dreamcache.training.world.styles import STYLES

DRAWS = 4000


def test_kind_and_scene_are_always_named() -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES:
        for _ in range(40):
            toy = draw_identity(rng, held_out=False)
            words = draw_words(toy, scene, rng)
            for text in (words.caption, words.prompt):
                assert toy.kind in text.split() or f"{toy.kind}," in text
                assert any(place in text for place in SCENES[scene].words)


def test_the_appearance_is_named_as_often_as_stated() -> None:
    # colours that no scene's words contain
    toy = Identity("car", "purple", "cyan", "spotted", 0, 0, 0)
    rng = np.random.default_rng(0)
    captions = [draw_words(toy, "forest", rng).caption for _ in range(DRAWS)]
    whole = np.mean(["purple" in c and "cyan" in c and "spotted" in c for c in captions])
    body = np.mean(["purple" in c and "cyan" not in c and "spotted" not in c for c in captions])
    neither = np.mean([not any(word in c for word in ("purple", "cyan", "spotted")) for c in captions])
    # four standard deviations of a share of 4000 draws are under 0.03
    assert whole == pytest.approx(NAMES_ALL, abs=0.03)
    assert body == pytest.approx(NAMES_BODY, abs=0.03)
    assert whole + body + neither == pytest.approx(1.0)
    assert neither > 0.2


def test_a_prompt_is_its_caption_without_the_appearance() -> None:
    rng = np.random.default_rng(2)
    appearance = {*COLOURS, *PATTERNS}
    for _ in range(200):
        toy = draw_identity(rng, held_out=False)
        # no scene's words but these of the white one name a colour
        words = draw_words(toy, "forest", rng)
        assert not appearance & set(words.prompt.replace(",", "").split())
        kept = [word for word in words.caption.split() if word in words.prompt.split() or word == "an"]
        assert len(kept) >= len(words.prompt.split()) - 1
        if not appearance & set(words.caption.replace(",", "").split()):
            assert words.caption == words.prompt


def test_a_style_is_said_after_the_place() -> None:
    toy = Identity("car", "purple", "cyan", "spotted", 0, 0, 0)
    assert plain_caption(toy, "beach", "oil paint") == "a toy car on the beach as an oil painting"
    rng = np.random.default_rng(0)
    for name, style in STYLES.items():
        assert draw_words(toy, "beach", rng, name).prompt.endswith(style.words)
    assert not any(style.words in plain_caption(toy, "beach") for style in STYLES.values())


def test_captions_are_seeded_and_vary() -> None:
    toy = Identity("fish", "orange", "white", "plain", 0, 0, 0)
    once, again = (
        [draw_words(toy, "beach", rng).caption for _ in range(200)]
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert once == again
    assert len(set(once)) > 15
    assert not any("a orange" in caption for caption in once)


@pytest.mark.parametrize("kind", KINDS)
def test_the_benchmark_s_prompts_name_nothing_of_the_appearance(kind: str) -> None:
    appearance = {*COLOURS, *PATTERNS}
    for scene in PLACES:
        prompts = {
            plain_caption(Identity(kind, body, accent, pattern, 0, 1, 2), scene)
            for body, accent, pattern in (("red", "white", "plain"), ("blue", "pink", "two-tone"))
        }
        (prompt,) = prompts
        assert not appearance & set(prompt.split())
        assert kind in prompt.split()
        assert SCENES[scene].words[0] in prompt
