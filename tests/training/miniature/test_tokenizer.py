"""The miniature's tokenizer: CLIP's format, any text, the same every time."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from dreamcache.training.miniature.tokenizer import (
    END,
    START,
    TEXT_LENGTH,
    VOCABULARY,
    make_tokenizer,
    training_captions,
)
from dreamcache.training.world.identity import COLOURS, KINDS
from dreamcache.training.world.scenes import SCENES


def test_the_vocabulary_is_the_same_every_time(tokenizer: CLIPTokenizer) -> None:
    again = make_tokenizer()
    assert again.get_vocab() == tokenizer.get_vocab()
    assert 512 < len(tokenizer) <= VOCABULARY
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_it_survives_save_pretrained(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [*islice(training_captions(seed=9), 50), "", "Ein Würfel: 3 × 5!", "玩具"]
    assert loaded(texts).input_ids == tokenizer(texts).input_ids
    assert loaded.model_max_length == TEXT_LENGTH
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == (START, END, END)


@pytest.mark.parametrize(
    "text", ["игрушечный робот на пляже", "ロボットのおもちゃ", "צעצוע", "🤖 in the snow", "naïve façade №5"]
)
def test_any_script_is_spelt_in_bytes_and_comes_back(tokenizer: CLIPTokenizer, text: str) -> None:
    pieces = tokenizer(text, add_special_tokens=False).input_ids
    # the unknown token is CLIP's end token: there is none inside a text
    assert tokenizer.eos_token_id not in pieces
    assert "".join(tokenizer.decode(pieces).split()) == "".join(text.lower().split())


def test_the_world_s_own_words_are_one_piece_each(tokenizer: CLIPTokenizer) -> None:
    for word in (*KINDS, *COLOURS, "toy", "the"):
        assert len(tokenizer.tokenize(word)) == 1, word


def test_every_caption_fits_and_longer_texts_are_cut(tokenizer: CLIPTokenizer) -> None:
    lengths = [len(ids) for ids in tokenizer(list(islice(training_captions(seed=11), 1500))).input_ids]
    longest = max((words for scene in SCENES.values() for words in scene.words), key=len)
    worst = f"a picture of a toy two-tone purple and orange mushroom {longest}"
    assert max([*lengths, len(tokenizer(worst).input_ids)]) <= TEXT_LENGTH
    cut = tokenizer("a toy robot " * 40, truncation=True).input_ids
    assert len(cut) == TEXT_LENGTH
    assert cut[-1] == tokenizer.eos_token_id
