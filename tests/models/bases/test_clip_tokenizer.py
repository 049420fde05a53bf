"""A tokenizer in either form is the same one; what is not CLIP's, or not whole, is named in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from ldm_layout import write_ldm_checkpoint
from tiny_models import add_tokens, save_as_transformers_5, tiny_tokenizer
from transformers import CLIPTokenizer, CLIPTokenizerFast

from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.parts.clip_tokenizer import load_tokenizer
from dreamcache.models.bases.random_base import _byte_tokenizer
from dreamcache.models.errors import AdapterError

PROMPTS = ["", "a rat", "A  Robot,\n on <my-toy>!", "<my-toy><my-toy> of <spec>", "naïve 42 toy's", "снег"]


@pytest.fixture(name="base")
def _base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base with a token of its own."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    add_tokens(base, "<my-toy>")
    return base


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A tokenizer in the older form."""
    tiny_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ids(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(prompt).input_ids for prompt in PROMPTS]


ORDINARY = (
    *("a robot on the beach, 4k", "na\u00efve caf\u00e9", "dog's they're I'LL", "#1 50% (x:1.2) [a|b]"),
    *(
        "\u0441\u043d\u0435\u0433",
        "\ud55c\uad6d\uc5b4",
        "\U0001f916 robot",
        "a\u2013b\u2014c\u2026",
        "\u0130stanbul",
    ),
    *("a\r\nb\tc", "a\u00a0b", "<|endoftext|> a"),
)
"""Alike in every tokenizer of CLIP's vocabulary."""
IN_PYTHON = ("\u4e2d\u6587 cat", "\u65e5\u672c", "a\u200bb", "a\u00adb", "a\x07b", "\ufeffa", "a\ufffdb")
"""Split otherwise by transformers 4's in Python without ftfy: Chinese characters, invisible and control characters."""
BY_FTFY = (
    *(
        "it\u2019s a \u201crat\u201d",
        "of\ufb01ce",
        "\uff21\uff22",
        "&amp; x",
        "sch\u00c3\u00b6n",
        "a\x07b",
        "\ufeffa",
    ),
)
"""What ftfy mends before it: typographic quotes, ligatures, full-width letters, entities, broken encodings."""


def older(folder: Path) -> None:
    """The two files alone, as original releases have them."""
    for name in names(folder) - {"vocab.json", "merges.txt"}:
        (folder / name).unlink()


def both(folder: Path) -> None:
    load_tokenizer(folder).save_pretrained(folder)
    assert names(folder) >= {"tokenizer.json", "vocab.json", "merges.txt"}


@pytest.mark.parametrize("form", [older, save_as_transformers_5, both])
def test_every_form_gives_clip_s_ids(folder: Path, form: Callable[[Path], None]) -> None:
    expected = ids(CLIPTokenizer.from_pretrained(folder))
    form(folder)
    assert ids(load_tokenizer(folder)) == expected


def test_special_tokens_of_transformers_5_keep_their_ids_and_their_role(folder: Path) -> None:
    slow = CLIPTokenizer.from_pretrained(folder)
    slow.add_tokens(["<my-toy>"])
    slow.add_special_tokens({"additional_special_tokens": ["<spec>"]})
    slow.save_pretrained(folder)
    plain = ids(slow)
    assert {516, 517} <= {number for prompt in plain for number in prompt}
    save_as_transformers_5(folder)
    assert names(folder) == {"tokenizer.json", "tokenizer_config.json"}
    loaded = load_tokenizer(folder)
    assert ids(loaded) == plain
    assert loaded.additional_special_tokens == ["<spec>"]
    # Without the two tokens the same prompts are other ids: the comparison can fail.
    edit(folder / "tokenizer.json", lambda record: record["added_tokens"].__delitem__(slice(2, None)))
    edit(folder / "tokenizer_config.json", lambda record: record.pop("extra_special_tokens"))
    assert ids(load_tokenizer(folder)) != plain


def test_a_base_reads_the_same_text_in_either_form(base: Path, tmp_path: Path) -> None:
    checkpoint = write_ldm_checkpoint(tmp_path / "m.safetensors", base)
    first = load_base(base)
    expected = first.encode_text(PROMPTS)
    save_as_transformers_5(base / "tokenizer")
    for again in (load_base(base), load_base(checkpoint, config=base)):
        assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()
        assert again.encode_text(PROMPTS).equal(expected)
    edit(base / "tokenizer/tokenizer.json", lambda record: record["model"]["merges"].pop())
    assert not load_base(base).encode_text(PROMPTS).equal(expected)


def test_a_random_base_s_tokenizer_is_saved_in_both_forms(tmp_path: Path) -> None:
    _byte_tokenizer(tmp_path / "bytes").save_pretrained(tmp_path / "saved")
    assert names(tmp_path / "saved") >= {"tokenizer.json", "vocab.json", "merges.txt"}


def test_more_tokens_than_embeddings_are_refused(base: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    tokenizer.add_tokens(["<too-many>"])
    tokenizer.save_pretrained(base / "tokenizer")
    with pytest.raises(AdapterError, match="has 518 tokens and its text encoder 517 embeddings"):
        load_base(base)


def t5(folder: Path) -> None:
    """What transformers 5 writes for T5: the class by name."""
    save_as_transformers_5(folder)
    edit(folder / "tokenizer_config.json", lambda record: record.update(tokenizer_class="T5Tokenizer"))


def unigram(folder: Path) -> None:
    save_as_transformers_5(folder)
    (folder / "tokenizer_config.json").unlink()
    edit(
        folder / "tokenizer.json",
        lambda record: record.update(model={"type": "Unigram", "vocab": [["a", 0]]}),
    )


def sentencepiece(folder: Path) -> None:
    empty(folder)
    (folder / "spiece.model").write_bytes(b"pieces")


def gpt2(folder: Path) -> None:
    older(folder)
    (folder / "vocab.json").write_text('{"a": 0, "<|endoftext|>": 1}', encoding="utf-8")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def without_merges(folder: Path) -> None:
    (folder / "merges.txt").unlink()


def other_words(folder: Path) -> None:
    both(folder)
    edit(folder / "vocab.json", lambda words: words.update({"a": words["b"], "b": words["a"]}))


def other_merges(folder: Path) -> None:
    both(folder)
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\nr o\n", encoding="utf-8")


def moved_token(folder: Path) -> None:
    """An id that leaves a gap, which the `tokenizers` library would close without a word."""
    edit(
        folder / "tokenizer_config.json",
        lambda record: record["added_tokens_decoder"].update({"600": {"content": "<my-toy>"}}),
    )


def no_json(folder: Path) -> None:
    save_as_transformers_5(folder)
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def no_model(folder: Path) -> None:
    save_as_transformers_5(folder)
    edit(folder / "tokenizer.json", lambda record: record.update(pre_tokenizer={"type": "Unheard"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (t5, "is a T5Tokenizer, expected CLIPTokenizer"),
        (unigram, "is Unigram without CLIP's word ends </w>, expected CLIPTokenizer"),
        (sentencepiece, "is SentencePiece, as T5 has it, expected CLIPTokenizer"),
        (gpt2, "is a vocabulary without CLIP's word ends"),
        (empty, "holds neither tokenizer.json nor vocab.json with merges.txt"),
        (without_merges, "holds neither tokenizer.json nor vocab.json with merges.txt"),
        (shutil.rmtree, "holds neither tokenizer.json nor vocab.json with merges.txt"),
        (other_words, "tokenizer.json and vocab.json in .* contradict each other"),
        (other_merges, "tokenizer.json and merges.txt in .* contradict each other"),
        (moved_token, "'<my-toy>' the id 600 and is read with 516"),
        (no_json, "tokenizer.json is not JSON"),
        (no_model, "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(AdapterError, match=message) as raised:
        load_tokenizer(folder)
    assert "\n" not in str(raised.value)


def differing(folder: Path, prompts: Iterable[str]) -> list[str]:
    """Those that the tokenizer in Python splits otherwise than the one that is loaded."""
    ours, slow = load_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    return [prompt for prompt in prompts if ours(prompt).input_ids != slow(prompt).input_ids]


def test_ids_are_those_of_transformers_5(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives diffusers the class that the tokenizers library backs; transformers 4 the one in Python."""
    everything = (*ORDINARY, *IN_PYTHON, *BY_FTFY)
    ours, fast = load_tokenizer(folder), CLIPTokenizerFast.from_pretrained(folder)
    assert [ours(prompt).input_ids for prompt in everything] == [
        fast(prompt).input_ids for prompt in everything
    ]
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert differing(folder, ORDINARY) == []
    assert differing(folder, IN_PYTHON) == list(IN_PYTHON)


def test_where_ftfy_differs(folder: Path) -> None:
    pytest.importorskip("ftfy")
    assert differing(folder, ORDINARY) == []
    assert differing(folder, BY_FTFY) == list(BY_FTFY)
