"""The tokenizer's files beside the packages, and what their page says of text.

apple/ml-stable-diffusion reads `vocab.json` and `merges.txt`, a form that knows no added tokens: those of textual
inversions are written as transformers 4 writes them, for the caller to look for first.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CLIPTokenizerFast

from dreamcache.runtime.bundle.contract import TextSpec

ADDED = "added_tokens.json"


def write_tokenizer(place: Path, tokenizer: CLIPTokenizerFast) -> dict[str, int]:
    """Write `vocab.json`, `merges.txt` and, where there are added tokens, `added_tokens.json`.

    Returns:
        The added tokens that the first two files do not give.
    """
    model = tokenizer.backend_tokenizer.model
    model.save(str(place))
    added = {
        token: number
        for token, number in tokenizer.get_added_vocab().items()
        if model.token_to_id(token) != number
    }
    if added:
        text = json.dumps(added, indent=1, ensure_ascii=False)
        (place / ADDED).write_text(text + "\n", encoding="utf-8")
    return added


def describe_text(length: int, first: TextSpec, second: TextSpec | None, added: dict[str, int]) -> str:
    """The page's words on prompts.

    Args:
        length: tokens that the text encoders read.
        first: the contract's tokenizer.
        second: SDXL's other one.
        added: what `write_tokenizer` returned.
    """
    said = (
        f"`vocab.json` and `merges.txt` are CLIP's, `{ADDED}` holds further tokens"
        if added
        else ("`vocab.json` and `merges.txt` are CLIP's")
    )
    said += f"; `../{first.folder}/tokenizer.json` says the same as one file. A prompt becomes {length} ids: "
    said += f"{first.bos_id}, its tokens, {first.eos_id}, and {first.pad_id} up to the end"
    said += "." if second is None else f"; `TextEncoder2` is padded with {second.pad_id}."
    if added:
        said += (
            f" Split the prompt at the tokens of `{ADDED}` first, in their own spelling, longest first; each is one "
            "id, and what lies between goes through the other two files."
        )
    if first.vectors:
        several = ", ".join(f"`{token}` ({count})" for token, count in sorted(first.vectors.items()))
        said += f" Before that, write `<t> <t>_1 …` for each `<t>` of several vectors: {several}."
    return said
