"""Prompts to token ids, the way of CLIP's tokenizer (Radford et al. 2021; openai/CLIP simple_tokenizer).

The bundle's `tokenizer/` folder is read with the `tokenizers` library alone: `tokenizer.json` when it is
there, else CLIP's `vocab.json` and `merges.txt`. Special tokens come from the contract.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.architecture import MAX_TEXT_CHUNKS
from dreamcache.runtime.bundle.contract import Contract, GraphSpec, TextSpec
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.errors import BundleError, first_line
from dreamcache.runtime.sampling.denoiser import Conditioning
from dreamcache.runtime.sampling.prompt_weights import weighted_parts
from dreamcache.runtime.sampling.tokenizer_rules import (
    CLIP_WORDS,
    MAX_FILE_BYTES,
    check_length,
    read_tokenizer,
)
from dreamcache.runtime.sessions.session import RunnableGraph, check_finite
from dreamcache.runtime.untrusted import read_bounded, utf8_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SHOWN = 100
"""Characters of what a prompt loses that its warning shows."""
_FILES = _WHOLE, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"


class PromptWarning(UserWarning):
    """A prompt was longer than the text encoder reads; the message shows what was lost."""


class PromptTokenizer:
    """Token ids of prompts in chunks that are padded to the text encoder's length; longer ones are cut.

    A prompt of fewer chunks is repeated as often as it fits whole: to attention, tokens that all come twice are tokens
    that come once, so such a prompt draws what it draws without chunks. What is left then are empty chunks.
    """

    def __init__(self, files: Mapping[str, Path], text: TextSpec, length: int, chunks: int = 1) -> None:
        """files: of the tokenizer's folder, by name. length: tokens that the text encoder reads at once.

        Raises: BundleError for a tokenizer that is absent or cannot be read, or lacks a special token of `text`.
        """
        self._text = text
        self._length, self._chunks = length, chunks
        self._tokenizer = _load(files, text)

    @classmethod
    def of(cls, bundle: Bundle, text: TextSpec | None = None) -> PromptTokenizer:
        """A bundle's own, None is the first text encoder's; its files are those that the contract lists."""
        text = bundle.contract.text if text is None else text
        listed = {name: f"{text.folder}/{name}" for name in _FILES}
        files = {name: bundle.path(place) for name, place in listed.items() if place in bundle.contract.files}
        shape = bundle.contract.architecture
        return cls(files, text, shape.text_length, shape.text_chunks)

    def encode(self, prompt: str) -> NDArray[np.int64]:
        """Ids [chunks, n]: start, the prompt's tokens, end, padding. The empty prompt is the unconditional one.

        Raises: SettingsError for a prompt of more than 20,000 characters. Warns: PromptWarning when it is cut.
        """
        return self.tokens(prompt)[0]

    def tokens(self, prompt: str, weighted: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids as `encode` has them, and the weight of each, [chunks, n]; 1 at start, end and padding.

        weighted: the prompt has weights (`prompt_weights.py`); its pieces become tokens each by itself, as that syntax
        has it. Raises: SettingsError also for a weight. Warns: as `encode`.
        """
        check_length("prompt", prompt)
        parts = weighted_parts(prompt) if weighted else [(prompt, 1.0)]
        ids: list[int] = []
        weights: list[float] = []
        room, lost = (self._length - 2) * self._chunks, ""
        for part, weight in parts:
            text = self._expanded(part)
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            left = max(room - len(ids), 0)
            if len(encoding.ids) > left:
                lost += text[encoding.offsets[left][0] :]
            ids += encoding.ids
            weights += [weight] * len(encoding.ids)
        if lost:
            warnings.warn(self._said_of(lost, len(ids), room), PromptWarning, stacklevel=3)
        rows = np.array(self._in_chunks(list(zip(ids, weights, strict=True))[:room]))
        return rows[..., 0].astype(np.int64), rows[..., 1].astype(np.float32)

    def _said_of(self, lost: str, tokens: int, room: int) -> str:
        """What a prompt of so many tokens loses, and what would read it."""
        reads = "the text encoder reads" if self._chunks == 1 else f"{self._chunks} chunks read"
        shown = repr(lost if len(lost) <= _SHOWN else lost[:_SHOWN] + "…")
        more = "" if len(lost) <= _SHOWN else f", {len(lost)} characters"
        needed = -(-tokens // (self._length - 2))
        mend = f"an export with --text-chunks {needed} reads all"
        if needed > MAX_TEXT_CHUNKS:
            most = MAX_TEXT_CHUNKS * (self._length - 2)
            mend = f"an export with --text-chunks {MAX_TEXT_CHUNKS}, the most, reads {most}"
        return f"the prompt has {tokens} tokens, {reads} {room}; lost: {shown}{more} ({mend})"

    def _in_chunks(self, tokens: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
        """Rows of ids and weights, as many as the denoiser reads."""
        room, text = self._length - 2, self._text

        def chunk(start: int) -> list[tuple[int, float]]:
            part = tokens[start : start + room]
            padding = [(text.pad_id, 1.0)] * (room - len(part))
            return [(text.bos_id, 1.0), *part, (text.eos_id, 1.0), *padding]

        rows = [chunk(start) for start in range(0, max(len(tokens), 1), room)]
        whole, left = divmod(self._chunks, len(rows))
        return rows * whole + [chunk(len(tokens))] * left

    def as_json(self) -> str:
        """The rules as `tokenizer.json` has them, whichever files they were read from."""
        rules: str = self._tokenizer.to_str()
        return rules

    def _expanded(self, prompt: str) -> str:
        """The prompt with every token of several vectors spelled out, as diffusers' `maybe_convert_prompt` does."""
        vectors = self._text.vectors
        if not vectors:
            return prompt
        found = set(self._tokenizer.encode(prompt, add_special_tokens=False).tokens)
        for token in sorted(found & set(vectors)):
            spelled = [token, *(f"{token}_{i}" for i in range(1, vectors[token]))]
            prompt = prompt.replace(token, " ".join(spelled))
            check_length("prompt", prompt)
        return prompt


def embedded(
    graph: RunnableGraph, spec: GraphSpec, ids: NDArray[np.int64], weights: NDArray[np.float32]
) -> list[NDArray[Any]]:
    """A text encoder's outputs for ids [chunks, n], which it reads one by one.

    The embedding [1, chunks · n, c] times the tokens' weights [chunks, n], then the others, of the first chunk.
    Raises: BundleError when the graph fails or gives NaN or infinities.
    """
    made = []
    for row in ids:
        given = graph.run({spec.inputs[0].name: row[None]})
        check_finite("text encoder", given)
        made.append([given[output.name] for output in spec.outputs])
    embedding = np.concatenate([outputs[0] for outputs in made], axis=1)
    return [embedding * weights.reshape(1, -1, 1), *made[0][1:]]


def conditioning(contract: Contract, outputs: Sequence[NDArray[Any]], empty_null: bool) -> Conditioning:
    """What the denoiser reads of one prompt.

    outputs: of the text encoders in order. empty_null: the prompt is empty and the null text, for which SDXL may want
    zeros.
    """
    added = contract.added_conditions
    if added is None:
        return {"text": outputs[0]}
    first, second, pooled = (
        np.zeros_like(output) if empty_null and added.force_zeros_for_empty_prompt else output
        for output in outputs
    )
    return {
        "text": np.concatenate([first, second], axis=-1),
        "text_embeds": pooled,
        "time_ids": np.array([added.time_ids], np.float32),
    }


def _load(files: Mapping[str, Path], text: TextSpec) -> Tokenizer:
    try:
        if _WHOLE in files:
            tokenizer = read_tokenizer(read_bounded(files[_WHOLE], MAX_FILE_BYTES))
            tokenizer.no_truncation()
            tokenizer.no_padding()
        elif _VOCABULARY in files and _MERGES in files:
            tokenizer = _clip_tokenizer(utf8_path(files[_VOCABULARY]), utf8_path(files[_MERGES]))
        else:
            raise BundleError(f"{text.folder}/ holds neither {_WHOLE} nor {_VOCABULARY} with {_MERGES}")
    except BundleError:
        raise
    except Exception as error:  # the Rust side raises bare Exception
        raise BundleError(
            f"the tokenizer in {text.folder}/ cannot be read: {first_line(error)}; export the bundle again"
        ) from error
    special = {tokenizer.id_to_token(token) for token in (text.bos_id, text.eos_id, text.pad_id)}
    if None in special:
        raise BundleError(f"the tokenizer in {text.folder}/ lacks a special token that the contract names")
    if _WHOLE not in files:
        # SD 2.x and SDXL's second tokenizer pad with "!", which then is a token by itself wherever it stands.
        tokenizer.add_special_tokens(sorted(special))
    return tokenizer


def _clip_tokenizer(vocabulary: str, merges: str) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    words, pairs = models.BPE.read_file(vocabulary, merges)
    unknown = "<|endoftext|>" if "<|endoftext|>" in words else None
    tokenizer = Tokenizer(
        models.BPE(
            words,
            pairs,
            unk_token=unknown,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
