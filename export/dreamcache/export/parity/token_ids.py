"""Gate: the runner splits prompts into the tokens that PyTorch's tokenizer gives, added ones among them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from dreamcache.export.errors import ExportError
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.clip_tokenizer import chunks_of
from dreamcache.runtime.bundle.contract import TextSpec
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.sampling.prompts import PromptTokenizer, PromptWarning

PROMPTS = (
    "",
    "a photo of a toy robot on the beach, 4k, (best quality:1.2)",
    "  A Robot\tON\n\n the   beach!!",
    "the dog's bowl, they're 1990s we'd-haven't <lora:x> [a|b] #1 \u2013 50% €3.50",
    "naïve café Straße İstanbul e\u0301",
    "снег 机器人 عربي हिन्दी \U0001f916\u200d\U0001f525",
    "<|endoftext|> and <|startoftext|>",
    "word " * 99,
)
"""Case, spaces, clitics, digits, accents, scripts, special tokens in the text, and more than fits."""


def check_token_ids(base: Base, folder: Path, text: TextSpec) -> None:
    """Hold the files in `folder` to the base's own tokenizer.

    Raises:
        ExportError: no tokenizer.json, or a prompt that the runner reads as other tokens; one line.
    """
    whole, *parts = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not whole.is_file():
        raise ExportError(
            f"the base's tokenizer ({type(base.tokenizer).__name__}) writes no tokenizer.json, expected in every "
            "bundle; save it again with transformers' CLIPTokenizerFast"
        )
    added = list(base.tokenizer.get_added_vocab())
    around = [form.format(token) for token in added for form in ("{0}", "a {0} on a cat", "the{0}s, {0}!")]
    _compare(base, [whole], text, [*PROMPTS, *around])
    if all(part.is_file() for part in parts):
        # What Core ML's readers take; that form knows no added tokens.
        _compare(base, parts, text, PROMPTS)


def _compare(base: Base, files: Sequence[Path], text: TextSpec, prompts: Sequence[str]) -> None:
    length, chunks = base.text_length, base.text_chunks
    try:
        tokenizer = PromptTokenizer({file.name: file for file in files}, text, length, chunks)
    except BundleError as error:
        raise ExportError(f"the runner cannot read the base's tokenizer: {error}") from error
    for prompt in prompts:
        expected = [token for chunk in chunks_of(prompt, base.tokenizer, length, chunks) for token in chunk]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptWarning)
            received = tokenizer.encode(prompt).flatten().tolist()
        if received != expected:
            place = next(
                i for i, pair in enumerate(zip(received, expected, strict=True)) if pair[0] != pair[1]
            )
            raise ExportError(
                f"token {place} of {prompt[:40]!r} is {expected[place]} by the base's tokenizer and "
                f"{received[place]} by the runner's ({', '.join(file.name for file in files)}); save the tokenizer "
                "again with transformers, or give another base"
            )
