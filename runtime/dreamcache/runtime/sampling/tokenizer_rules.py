"""What a bundle's `tokenizer.json` may ask for: the rules of CLIP's tokenizer, and no others.

The `tokenizers` library runs whatever rules the file names: a regular expression that backtracks for ever, or forty
replacements that each double the text. Format: huggingface.co/docs/tokenizers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.untrusted import parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Words are letters of any script, single digits, or runs of other signs; English clitics split off.
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MAX_FILE_BYTES = 32 << 20
MAX_PROMPT_CHARACTERS = 20_000
"""Fifty times what CLIP reads."""

_SPECIAL_FIRST = r"<\|startoftext\|>|<\|endoftext\|>|"
_PATTERNS = {"Replace": (r"\s+",), "Split": (CLIP_WORDS, _SPECIAL_FIRST + CLIP_WORDS)}
_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Replace"})
_SPLITTERS = frozenset({"ByteLevel", "Whitespace", "WhitespaceSplit", "Digits", "Punctuation", "Split"})
_MOST_RULES = 8
_MODEL_OPTIONS = (
    *("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk"),
    *("byte_fallback", "ignore_merges"),
)
_TOKEN_OPTIONS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def check_length(name: str, text: str) -> None:
    """Raises: SettingsError for a prompt of more characters than are read. name: of the argument."""
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise SettingsError(
            f"{name}: at most {MAX_PROMPT_CHARACTERS} characters are expected, received {len(text)}; shorten it"
        )


def read_tokenizer(text: str | bytes) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, as the library reads it, whose text is parsed once: that takes the longest.

    Raises: ValueError for one that is not byte-pair encoding by CLIP's rules; the library's errors for a broken one.
    """
    from tokenizers import AddedToken, Tokenizer, models

    content = _checked_rules(text)
    model, added = content["model"], content.get("added_tokens") or []
    bare = {"type": "BPE", "vocab": {}, "merges": []}
    tokenizer = Tokenizer.from_str(json.dumps(content | {"model": bare, "added_tokens": []}))
    tokenizer.model = models.BPE(
        model["vocab"],
        [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]],
        **{name: model[name] for name in _MODEL_OPTIONS if model.get(name) is not None},
    )
    for token in added:
        made = AddedToken(**{name: token[name] for name in _TOKEN_OPTIONS if name in token})
        (tokenizer.add_special_tokens if token.get("special") else tokenizer.add_tokens)([made])
    return tokenizer


def _checked_rules(text: str | bytes) -> dict[str, Any]:
    """The content. Raises: ValueError as `read_tokenizer`."""
    content = parse_json(text)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError("a tokenizer with a model is expected")
    if (kind := content["model"].get("type", "BPE")) != "BPE":
        raise ValueError(f"a model of type BPE is expected, received {kind!r}")
    if dropout := content["model"].get("dropout"):
        # the same prompt would be other ids each time
        raise ValueError(f"no dropout is expected, received {dropout!r}")
    if prefix := content["model"].get("continuing_subword_prefix"):
        # the library cuts it off every merged token without looking whether it is there, and panics
        raise ValueError(f"no prefix of continuing parts is expected, received {prefix!r}")
    for name, key, allowed in (
        ("normalizer", "normalizers", _NORMALIZERS),
        ("pre_tokenizer", "pretokenizers", _SPLITTERS),
    ):
        for rule in _rules(content.get(name), key):
            _check_rule(name, rule, allowed)
    return content


def _rules(rule: Any, key: str) -> list[Any]:
    if rule is None:
        return []
    inner = rule.get(key) if isinstance(rule, dict) and rule.get("type") == "Sequence" else [rule]
    if not isinstance(inner, list) or len(inner) > _MOST_RULES:
        raise ValueError(f"{key}: a list of at most {_MOST_RULES} rules is expected")
    return inner


def _check_rule(name: str, rule: Any, allowed: frozenset[str]) -> None:
    kind = rule.get("type") if isinstance(rule, dict) else None
    if kind not in allowed:
        raise ValueError(f"{name}: one of {', '.join(sorted(allowed))} is expected, received {kind!r}")
    if kind in _PATTERNS:
        pattern = rule.get("pattern")
        if pattern not in [{"Regex": known} for known in _PATTERNS[kind]]:
            raise ValueError(f"{name}: CLIP's own pattern is expected for {kind}, received {pattern!r}")
        if kind == "Replace" and rule.get("content") != " ":
            raise ValueError(
                f"{name}: one space is expected for white space, received {rule.get('content')!r}"
            )
