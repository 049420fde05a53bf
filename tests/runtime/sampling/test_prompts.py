"""Prompts to ids: equal to CLIP's tokenizer, cut with a warning, any script."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer  # type: ignore[import-untyped]

from dreamcache.runtime.bundle.folder import MINI_FOLDER, open_bundle
from dreamcache.runtime.errors import BundleError, SettingsError
from dreamcache.runtime.sampling.prompts import PromptTokenizer, PromptWarning
from dreamcache.runtime.sampling.tokenizer_rules import read_tokenizer

PROMPTS = [
    "",
    "a robot on the beach",
    "A  ROBOT\n on the Beach!",
    "toy's 42",
    "снег",
    "机器",
    "🤖",
    "naïve",
    "robot, the toy.",
    "<|endoftext|> a",
]


@pytest.fixture(scope="module")
def tokenizer(pristine: Path) -> PromptTokenizer:
    return PromptTokenizer.of(open_bundle(pristine))


@pytest.mark.filterwarnings("ignore::dreamcache.runtime.sampling.prompts.PromptWarning")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_equal_those_of_the_clip_tokenizer(
    tokenizer: PromptTokenizer, pristine: Path, prompt: str
) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.CLIPTokenizerFast(
        str(pristine / "tokenizer/vocab.json"), str(pristine / "tokenizer/merges.txt")
    )
    expected = reference(prompt, padding="max_length", max_length=8, truncation=True)["input_ids"]
    assert tokenizer.encode(prompt).tolist() == [expected]


def test_the_empty_prompt_is_start_end_and_padding(tokenizer: PromptTokenizer, pristine: Path) -> None:
    text = open_bundle(pristine).contract.text
    ids = tokenizer.encode("")
    assert ids.shape == (1, 8)
    assert ids.dtype == np.int64
    assert ids.tolist() == [[text.bos_id, text.eos_id, *[text.pad_id] * 6]]


def test_a_long_prompt_is_cut_and_the_warning_shows_what_was_lost(tokenizer: PromptTokenizer) -> None:
    with pytest.warns(PromptWarning, match=r"has 8 tokens, the text encoder reads 6; lost: 'the снег'"):
        cut = tokenizer.encode("a robot on the beach toy the снег")
    np.testing.assert_array_equal(cut, tokenizer.encode("a robot on the beach toy"))


def test_a_prompt_that_just_fits_is_not_warned_about(tokenizer: PromptTokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer.encode("a robot on the beach toy")


def test_tokenizer_json_is_preferred_and_its_own_padding_ignored(
    bundle: Path, tiny: ModuleType, tokenizer: PromptTokenizer
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = bundle / "tokenizer"
    fast = transformers.CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    backend: Tokenizer = fast.backend_tokenizer
    backend.enable_padding(length=30)
    backend.enable_truncation(3)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text("{}", encoding="utf-8")
    tiny.seal(bundle)
    again = PromptTokenizer.of(open_bundle(bundle))
    for prompt in ("", "a robot on the beach", "снег"):
        np.testing.assert_array_equal(again.encode(prompt), tokenizer.encode(prompt))


def test_broken_or_absent_tokenizers_are_refused(bundle: Path, tiny: ModuleType) -> None:
    vocabulary = bundle / "tokenizer/vocab.json"
    words = json.loads(vocabulary.read_text(encoding="utf-8"))
    vocabulary.write_text("{", encoding="utf-8")
    tiny.seal(bundle)
    with pytest.raises(BundleError, match="cannot be read"):
        PromptTokenizer.of(open_bundle(bundle))
    del words["<|startoftext|>"]
    vocabulary.write_text(json.dumps(words), encoding="utf-8")
    tiny.seal(bundle)
    with pytest.raises(BundleError, match="lacks a special token"):
        PromptTokenizer.of(open_bundle(bundle))
    shutil.rmtree(bundle / "tokenizer")
    tiny.seal(bundle)
    with pytest.raises(BundleError, match="holds neither"):
        PromptTokenizer.of(open_bundle(bundle))


def _split(pattern: object) -> dict[str, object]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("part", "rule", "message"),
    [
        ("pre_tokenizer", _split({"Regex": "(a+)+$"}), "CLIP's own pattern is expected for Split"),
        ("pre_tokenizer", _split({"String": "a"}), "CLIP's own pattern is expected for Split"),
        (
            "pre_tokenizer",
            {"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}]},
            "received 'Metaspace'",
        ),
        (
            "normalizer",
            {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
            "CLIP's own pattern is expected for Replace",
        ),
        (
            "normalizer",
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "  " * 99},
            "one space is expected for white space",
        ),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 9}, "at most 8 rules"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Sequence"}]}, "received 'Sequence'"),
        ("normalizer", {"type": "Precompiled"}, "received 'Precompiled'"),
        ("model", {"type": "Unigram"}, "a model of type BPE is expected, received 'Unigram'"),
        ("model", [], "a tokenizer with a model is expected"),
        (
            "model",
            {"type": "BPE", "continuing_subword_prefix": "long"},
            "no prefix of continuing parts is expected",
        ),
        ("model", {"type": "BPE", "dropout": 0.5}, "no dropout is expected, received 0.5"),
    ],
)
def test_rules_that_are_not_clip_s_are_refused(
    bundle: Path, tiny: ModuleType, tokenizer: PromptTokenizer, part: str, rule: object, message: str
) -> None:
    """A pattern that backtracks ends the process in the library's own panic; doubling replacements hang."""
    content = json.loads(tokenizer._tokenizer.to_str())
    path = bundle / "tokenizer/tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    tiny.seal(bundle)
    np.testing.assert_array_equal(
        PromptTokenizer.of(open_bundle(bundle)).encode("a toy"), tokenizer.encode("a toy")
    )
    path.write_text(json.dumps({**content, part: rule}), encoding="utf-8")
    tiny.seal(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        PromptTokenizer.of(open_bundle(bundle))
    assert "\n" not in str(caught.value)


def _token(number: int, content: str, **changes: bool) -> dict[str, object]:
    """An entry of `added_tokens`."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **flags, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"ignore_merges": True, "fuse_unk": True}},
        {"model": {"end_of_word_suffix": None, "byte_fallback": True}},
        {"added_tokens": [_token(900, "<my-toy>", lstrip=True), _token(901, "<b>", special=True)]},
        {"added_tokens": [_token(7, "<my-toy>", normalized=True), _token(8, "<my-toy>", single_word=True)]},
    ],
)
def test_a_tokenizer_is_what_the_library_reads_though_its_text_is_parsed_once(
    changes: dict[str, Any],
) -> None:
    content = json.loads((MINI_FOLDER / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    content["model"] |= changes.get("model", {})
    content["added_tokens"] += changes.get("added_tokens", [])
    for strings in (True, False):
        pairs = [" ".join(pair) if strings else pair for pair in content["model"]["merges"]]
        text = json.dumps(content | {"model": content["model"] | {"merges": pairs}})
        ours, library = read_tokenizer(text), Tokenizer.from_str(text)
        assert json.loads(ours.to_str()) == json.loads(library.to_str())
        for prompt in ("a red toy robot", "<my-toy> on  <b> <|endoftext|> x", "снег 😀 12", ""):
            assert ours.encode(prompt).ids == library.encode(prompt).ids


def test_a_prompt_of_megabytes_is_refused(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(SettingsError, match="at most 20000 characters are expected, received 5000000"):
        tokenizer.encode("a" * 5_000_000)


def test_chunks_have_their_own_start_and_end_and_short_prompts_are_repeated(
    pristine: Path, tokenizer: PromptTokenizer
) -> None:
    bundle = open_bundle(pristine)
    files = {name: bundle.path(f"tokenizer/{name}") for name in ("vocab.json", "merges.txt")}
    three = PromptTokenizer(files, bundle.contract.text, 8, chunks=3)
    first, second, third = ("a robot on the beach toy", "the toy on a beach robot", "снег toy")
    rows = [tokenizer.encode(prompt)[0].tolist() for prompt in (first, second, third)]
    empty = tokenizer.encode("")[0].tolist()
    assert three.encode(f"{first} {second} {third}").tolist() == rows
    assert three.encode(f"{first} {second}").tolist() == [*rows[:2], empty]
    assert three.encode(first).tolist() == rows[:1] * 3
    assert three.encode("").tolist() == [empty] * 3
    weights = three.tokens("a robot on the beach toy (the:1.5)", weighted=True)[1]
    assert np.argwhere(weights != 1).tolist() == [[1, 1]]
    with pytest.warns(PromptWarning, match=r"has 19 tokens, 3 chunks read 18; lost: 'a' .*--text-chunks 4"):
        three.encode(f"{first} {second} {second} a")
    with pytest.warns(PromptWarning, match="lost: 'a") as warned:
        three.encode("a " * 9_000)
    (line,) = [str(warning.message) for warning in warned]
    assert line.endswith("…', 17964 characters (an export with --text-chunks 16, the most, reads 96)")
    assert len(line) < 300


@pytest.mark.parametrize("pad", ["!", "<|endoftext|>"])
def test_a_token_that_pads_is_one_by_itself_as_transformers_has_it(pristine: Path, pad: str) -> None:
    """SD 2.x and SDXL pad with "!"; without that rule "toy!!" ends in another token."""
    transformers = pytest.importorskip("transformers")
    places = [pristine / "tokenizer" / name for name in ("vocab.json", "merges.txt")]
    theirs = transformers.CLIPTokenizerFast(*map(str, places), pad_token=pad)
    text = open_bundle(pristine).contract.text.model_copy(update={"pad_id": theirs.pad_token_id})
    ours = PromptTokenizer({place.name: place for place in places}, text, 12)
    ids = ours.encode("a toy!! on the! beach")[0].tolist()
    assert ids == theirs("a toy!! on the! beach", padding="max_length", max_length=12).input_ids
    assert (ids[3:5] == [theirs.convert_tokens_to_ids("!")] * 2) is (pad == "!")
