"""A bundle's weighted prompt is what transformers' tokenizer and text encoder give, times the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dreamcache.runtime import Pipeline


@torch.no_grad()
def test_a_weighted_prompt_is_transformers(tiny_base: Path, tiny_bundle: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(tiny_base / "text_encoder").eval()
    pieces = [("a ", 1.0), ("robot", 1.3), (" on ", 1.0), ("a", 1 / 1.1), (" toy", 1.0)]
    ids, weights = [tokenizer.bos_token_id], [1.0]
    for text, weight in pieces:
        found = tokenizer(text, add_special_tokens=False).input_ids
        ids, weights = ids + found, weights + [weight] * len(found)
    ids, weights = [*ids, tokenizer.eos_token_id], [*weights, 1.0]
    left = encoder.config.max_position_embeddings - len(ids)
    assert left > 0
    given = torch.tensor([ids + [tokenizer.pad_token_id] * left])
    factors = torch.tensor(weights + [1.0] * left)[None, :, None]
    expected = (encoder(given).last_hidden_state * factors).numpy()
    pipeline = Pipeline.load(tiny_bundle)
    prompt = {"prompt": "a (robot:1.3) on [a] toy"}
    received = pipeline.embed(prompt, weighted=True)["prompt"]["text"]
    np.testing.assert_allclose(received, expected, atol=2e-5)
    assert np.abs(pipeline.embed({"prompt": "a robot on a toy"})["prompt"]["text"] - expected).max() > 0.05
