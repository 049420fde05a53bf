"""CLIP's tokenizer from a folder, in either form: tokenizer.json, or vocab.json and merges.txt.

transformers 4 writes both forms or the older one, transformers 5 writes tokenizer.json alone. Both are read
into the class that the `tokenizers` library backs, as the runner is: saved, it writes both forms.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import CLIPTokenizerFast

from dreamcache.models.bases.files import read_json
from dreamcache.models.errors import AdapterError, reason

WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"

# The second and third say nothing of the kind: transformers 4 and 5 write them for any tokenizer.json.
_CLASSES = ("CLIPTokenizer", "PreTrainedTokenizer", "TokenizersBackend")
_WORD_END = "</w>"
# CLIP's own vocabulary less bytes and special tokens: transformers reads no further in merges.txt.
_MOST_MERGES = 49152 - 256 - 2


def load_tokenizer(folder: Path) -> CLIPTokenizerFast:
    """The tokenizer of a folder.

    Raises:
        AdapterError: none there, another kind than CLIP's, or files that contradict each other; one line.
    """
    try:
        return _load(folder)
    except AdapterError:
        raise
    except Exception as error:  # the Rust side raises bare Exception
        raise AdapterError(
            f"the tokenizer in {folder} cannot be read ({reason(error)}); download the base again"
        ) from error


# transformers writes a number beyond it where a tokenizer states no length.
_NO_LENGTH = 10**6


def _load(folder: Path) -> CLIPTokenizerFast:
    whole, words, config, added = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in (WHOLE, VOCABULARY, "tokenizer_config.json", "added_tokens.json")
    )
    pairs = _merges(folder)
    _check_kind(folder, whole, words, config)
    length = config.get("model_max_length")
    if isinstance(length, (str, bool)) or (isinstance(length, float) and length < _NO_LENGTH):
        raise AdapterError(
            f"the tokenizer in {folder} has model_max_length {json.dumps(length)}, expected a whole number; correct "
            "tokenizer_config.json"
        )
    if not whole and not (words and pairs is not None):
        raise AdapterError(
            f"{folder} holds neither {WHOLE} nor {VOCABULARY} with {MERGES}; download the base again"
        )
    if whole:
        _check_agreement(folder, whole, words, pairs)
    tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True, **_renamed(config))
    stated = [(token["content"], token["id"]) for token in whole.get("added_tokens", [])]
    stated += [(token["content"], int(n)) for n, token in config.get("added_tokens_decoder", {}).items()]
    for token, number in [*stated, *added.items()]:
        if (received := tokenizer.convert_tokens_to_ids(token)) != number:
            raise AdapterError(
                f"the tokenizer in {folder} gives its added token {token!r} the id {number} and is read with "
                f"{received}; save it again with transformers"
            )
    return _in_own_spelling(tokenizer)


def _in_own_spelling(tokenizer: CLIPTokenizerFast) -> CLIPTokenizerFast:
    """Added tokens are read as they are spelled, as the tokenizer in Python does, and not in any case."""
    record = json.loads(tokenizer.backend_tokenizer.to_str())
    loose = [token for token in record["added_tokens"] if token["normalized"] and not token["special"]]
    if loose:
        for token in loose:
            token["normalized"] = False
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(record))
        tokenizer._wrap_decode_method_backend_tokenizer()
    return tokenizer


def _merges(folder: Path) -> list[tuple[str, ...]] | None:
    """The pairs of merges.txt; None where there is no such file."""
    if not (folder / MERGES).is_file():
        return None
    lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()
    found = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    return found[:_MOST_MERGES]


def _check_kind(folder: Path, whole: dict[str, Any], words: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises: AdapterError naming a tokenizer of another kind than CLIP's."""
    check_tokenizer_class(f"the tokenizer in {folder}", str(config.get("tokenizer_class") or _CLASSES[0]))
    if (folder / "spiece.model").is_file() and not whole and not words:
        named = "SentencePiece, as T5 has it"
    elif whole and (model := whole.get("model", {})).get("end_of_word_suffix") != _WORD_END:
        named = f"{model.get('type', 'unknown')} without CLIP's word ends {_WORD_END}"
    elif whole and whole["model"].get("dropout"):
        named = f"one that splits words at random (dropout {whole['model']['dropout']:g} in {WHOLE})"
    elif words and not any(word.endswith(_WORD_END) for word in words):
        named = f"a vocabulary without CLIP's word ends {_WORD_END}"
    else:
        return
    raise _other_kind(f"the tokenizer in {folder}", named)


def check_tokenizer_class(name: str, kind: str) -> None:
    """Raises: AdapterError naming a class that reads no CLIP tokenizer."""
    if kind.removesuffix("Fast") not in _CLASSES:
        raise _other_kind(name, f"a {kind}")


def _other_kind(name: str, found: str) -> AdapterError:
    return AdapterError(f"{name} is {found}, expected CLIPTokenizer; give an SD 1.x or 2.x base")


def _check_agreement(
    folder: Path, whole: dict[str, Any], words: dict[str, Any], pairs: list[tuple[str, ...]] | None
) -> None:
    """Raises: AdapterError where the two forms would give other ids. Added tokens may be in either or both."""
    apart = {token["content"] for token in whole.get("added_tokens", [])}
    held, listed = (
        {word: number for word, number in vocabulary.items() if word not in apart}
        for vocabulary in (whole["model"].get("vocab", {}), words)
    )
    # Once "a b" a merge, in newer files ["a", "b"].
    merged = [
        tuple(pair.split() if isinstance(pair, str) else pair) for pair in whole["model"].get("merges", [])
    ]
    for name, differs in (
        (VOCABULARY, bool(words) and listed != held),
        (MERGES, pairs not in (None, merged)),
    ):
        if differs:
            raise AdapterError(
                f"{WHOLE} and {name} in {folder} contradict each other; remove the one that is not the base's"
            )


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers 5 lists as extra_special_tokens, by its name in transformers 4."""
    extra = config.get("extra_special_tokens")
    if not isinstance(extra, list):
        return {}
    tokens = [token["content"] if isinstance(token, dict) else token for token in extra]
    return {"extra_special_tokens": {}, "additional_special_tokens": tokens}


def vectors_of(tokenizer: CLIPTokenizerFast) -> dict[str, int]:
    """How many vectors an added token stands for, of those that were trained with several.

    As diffusers' `maybe_convert_prompt` has it: ``<t>`` stands for ``<t>``, ``<t>_1``, ``<t>_2``, as far as there are.
    """
    added = tokenizer.get_added_vocab()
    found: dict[str, int] = {}
    for token in sorted(added):
        count = 1
        while f"{token}_{count}" in added:
            count += 1
        if count > 1:
            found[token] = count
    return found


def chunks_of(prompt: str, tokenizer: CLIPTokenizerFast, length: int, count: int = 1) -> list[list[int]]:
    """Token ids of a prompt in `count` chunks of `length`, each with its own start, end and padding; the rest is cut.

    A shorter prompt is repeated as often as it fits whole: to attention, tokens that all come twice are tokens that
    come once. What is left are empty chunks.
    """

    def split(text: str) -> list[list[int]]:
        # A diffusers pipeline's tokenizer is the one in Python, which gives no further chunks.
        found: list[list[int]] = tokenizer(
            [text],
            padding="max_length",
            max_length=length,
            truncation=True,
            return_overflowing_tokens=count > 1,
        ).input_ids
        return found

    chunks = split(expanded(prompt, tokenizer))[:count]
    whole, left = divmod(count, len(chunks))
    return chunks * whole + split("") * left


def expanded(prompt: str, tokenizer: CLIPTokenizerFast) -> str:
    """A prompt with such tokens spelled out."""
    vectors = vectors_of(tokenizer)
    for token in sorted(set(tokenizer.tokenize(prompt)) & set(vectors)) if vectors else ():
        spelled = [token, *(f"{token}_{i}" for i in range(1, vectors[token]))]
        prompt = prompt.replace(token, " ".join(spelled))
    return prompt
