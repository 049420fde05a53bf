"""The miniature's tokenizer: CLIP's byte-level BPE, trained on the world's captions.

All 256 bytes are in the vocabulary, so any text in any script can be tokenized, only in more pieces.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from dreamcache.runtime.sampling.tokenizer_rules import CLIP_WORDS
from dreamcache.training.world.captions import draw_words
from dreamcache.training.world.identity import draw_identity
from dreamcache.training.world.samples import SCENE_NAMES
from dreamcache.training.world.styles import STYLE_NAMES

TEXT_LENGTH = 32
VOCABULARY = 1024
START, END = "<|startoftext|>", "<|endoftext|>"


def training_captions(count: int = 20_000, seed: int = 1) -> Iterator[str]:
    """Captions as training sees them."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        toy = draw_identity(rng, held_out=False)
        scene, style = (names[rng.integers(len(names))] for names in (SCENE_NAMES, STYLE_NAMES))
        yield draw_words(toy, scene, rng, style).caption


def make_tokenizer() -> CLIPTokenizer:
    """Train the merges on captions; the same vocabulary every time."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 256 - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_captions(), trainer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.model.save(folder)
        merges = (Path(folder) / "merges.txt").read_text(encoding="utf-8")
    return _clip_tokenizer(alphabet, [m for m in merges.splitlines() if m and not m.startswith("#version")])


def _clip_tokenizer(alphabet: list[str], merges: list[str]) -> CLIPTokenizer:
    """CLIP's own order: bytes, bytes that end a word, merged pairs, the two special tokens."""

    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    known = set(tokens)
    for merge in merges:
        joined = merge.replace(" ", "")
        if joined not in known:
            known.add(joined)
            tokens.append(joined)
    tokens += [START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, rules = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        rules.write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        return CLIPTokenizer(
            str(vocabulary), str(rules), bos_token=START, eos_token=END, unk_token=END, pad_token=END,
            model_max_length=TEXT_LENGTH,
        )  # fmt: skip
