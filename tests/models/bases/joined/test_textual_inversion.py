"""Textual inversions: ids and embeddings are those of diffusers' `load_textual_inversion`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from stock_pictures import decibels_from_diffusers
from tiny_models import TEXT_WIDTH

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.joined.textual_inversion import join_inversion
from dreamcache.models.bases.parts.clip_tokenizer import expanded, vectors_of
from dreamcache.models.errors import AdapterError

PROMPTS = ["a <toy> on a cat", "<toy>, <toy>!", "<Ring>", "<ring> rat", "Style a<toy>b", "<toy>_1", ""]


def vectors(count: int, seed: int, width: int = TEXT_WIDTH) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(name="base")
def _base(tiny_base: Path) -> Base:
    return load_base(tiny_base)


def test_ids_and_embeddings_are_diffusers(base: Base, tiny_base: Path, tmp_path: Path) -> None:
    save_file({"<toy>": vectors(3, 1)}, tmp_path / "toy.safetensors")
    save_file({"<old>": vectors(1, 2)[0]}, tmp_path / "ring.safetensors")
    save_file({"emb_params": vectors(2, 3)}, tmp_path / "Style.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    for file, ours, theirs in (("toy", "", None), ("ring", ":<Ring>", "<Ring>"), ("Style", "", "Style")):
        record = join_inversion(base.parts, f"{tmp_path / file}.safetensors{ours}")
        pipeline.load_textual_inversion(str(tmp_path / f"{file}.safetensors"), token=theirs)
    assert record.tokens == ("Style", "Style_1")
    assert vectors_of(base.tokenizer) == {"<toy>": 3, "Style": 2}
    arguments = {"padding": "max_length", "max_length": 16, "truncation": True}
    wanted = [pipeline.maybe_convert_prompt(prompt, pipeline.tokenizer) for prompt in PROMPTS]
    assert [expanded(prompt, base.tokenizer) for prompt in PROMPTS] == wanted
    ids = base.tokenizer(wanted, **arguments).input_ids
    assert ids == pipeline.tokenizer(wanted, **arguments).input_ids
    # In another spelling it is no token, with diffusers' tokenizer as with ours.
    assert max(ids[3]) < 516 <= min(max(ids[i]) for i in (0, 1, 2, 4))
    table = base.text_encoder.get_input_embeddings().weight
    assert torch.equal(table, pipeline.text_encoder.get_input_embeddings().weight)
    assert decibels_from_diffusers(base, pipeline) >= 55


def test_what_does_not_fit_is_one_line(base: Base, tmp_path: Path) -> None:
    refused = {
        "wide": ({"<toy>": vectors(1, 1, 48)}, "width 48, and the base's text encoder takes 32"),
        "sdxl": ({"clip_l": vectors(1, 1), "clip_g": vectors(1, 1)}, "SDXL's two text encoders"),
        "two": ({"a": vectors(1, 1), "b": vectors(1, 1)}, "holds 2 tensors, expected one"),
        "cube": ({"<toy>": torch.zeros(1, 2, 32)}, r"a tensor \[1, 2, 32\]"),
        "nan": ({"<toy>": vectors(1, 1) * torch.nan}, "not finite in <toy>"),
        "known": ({"<|endoftext|>": vectors(1, 1)}, "has '<|endoftext|>' already"),
        "spaces": ({"my toy": vectors(1, 1)}, "without spaces is expected"),
        "empty": ({"": vectors(1, 1)}, "without spaces is expected, received ''"),
    }
    for name, (tensors, message) in refused.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(AdapterError, match=message) as raised:
            join_inversion(base.parts, str(tmp_path / f"{name}.safetensors"))
        assert "\n" not in str(raised.value), name
    (tmp_path / "learned_embeds.bin").touch()
    with pytest.raises(AdapterError, match="is a pickle"):
        join_inversion(base.parts, str(tmp_path / "learned_embeds.bin"))
    with pytest.raises(FileNotFoundError, match="no file at"):
        join_inversion(base.parts, str(tmp_path / "absent.safetensors:<x>"))
    assert len(base.tokenizer) == base.text_encoder.config.vocab_size == 516
