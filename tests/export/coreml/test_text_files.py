"""A textual inversion's tokens reach an app: the page's rule on the files beside the packages gives PyTorch's ids."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny_models import tiny_tokenizer
from transformers import CLIPTokenizerFast

from dreamcache.export.coreml.text_files import ADDED, describe_text, write_tokenizer
from dreamcache.export.declare.settings import declare_text
from dreamcache.runtime.bundle.contract import TextSpec
from dreamcache.runtime.sampling.prompts import PromptTokenizer

PROMPTS = ("a rat", "a <toy> on <toy>_1, <toy>!", "<toys> rat", "the<dog>s")


@pytest.fixture(name="tokenizer")
def _tokenizer(tmp_path: Path) -> CLIPTokenizerFast:
    tiny_tokenizer(tmp_path / "tokenizer")
    return CLIPTokenizerFast.from_pretrained(tmp_path / "tokenizer")


def by_the_page(place: Path, text: TextSpec, prompt: str, added: dict[str, int]) -> list[int]:
    """Split at added tokens, longest first; the rest by vocab.json and merges.txt."""
    files = {name: place / name for name in ("vocab.json", "merges.txt")}
    plain = PromptTokenizer(files, text, 99)
    longest_first = sorted(added, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", prompt) if added else [prompt]
    ids: list[int] = []
    for piece in pieces:
        row = [added[piece]] if piece in added else plain.encode(piece)[0].tolist()[1:]
        ids += row[: row.index(text.eos_id)] if text.eos_id in row else row
    return ids


def test_added_tokens_are_beside_the_packages(tokenizer: CLIPTokenizerFast, tmp_path: Path) -> None:
    tokenizer.add_tokens(["<toy>", "<toy>_1", "<dog>"])
    place = tmp_path / "coreml"
    place.mkdir()
    text = declare_text(tokenizer)
    assert write_tokenizer(place, tokenizer) == json.loads((place / ADDED).read_text(encoding="utf-8"))
    added = json.loads((place / ADDED).read_text(encoding="utf-8"))
    assert added == {"<toy>": 516, "<toy>_1": 517, "<dog>": 518}
    for prompt in PROMPTS:
        wanted = tokenizer(prompt, add_special_tokens=False).input_ids
        assert by_the_page(place, text, prompt, added) == wanted
        assert (by_the_page(place, text, prompt, {}) == wanted) == (prompt in ("a rat", "<toys> rat"))
    page = describe_text(16, text, None, added)
    assert "becomes 16 ids: 514, its tokens, 515, and 515" in page
    assert "`added_tokens.json` first" in page
    assert "several vectors: `<toy>` (2)." in page


def test_without_added_tokens_there_is_no_such_file(tokenizer: CLIPTokenizerFast, tmp_path: Path) -> None:
    assert write_tokenizer(tmp_path, tokenizer) == {}
    assert not (tmp_path / ADDED).exists()
    text = declare_text(tokenizer)
    page = describe_text(16, text, text.model_copy(update={"pad_id": 0}), {})
    assert "`TextEncoder2` is padded with 0." in page
    assert ADDED not in page
    assert "vectors" not in page
