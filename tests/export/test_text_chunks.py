"""A bundle that reads prompts of two chunks, each as long as the text encoder reads."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import write_tiny_sdxl
from transformers import CLIPTextModel, CLIPTokenizerFast

from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, dump_contract, parse_contract
from dreamcache.runtime.bundle.parity import MIN_PSNR_DB, psnr_db
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.prompts import PromptWarning

FIRST = "a red cat a red cat on"
"""As many tokens as the tiny text encoder reads at once; no word would cross the border."""
LONG = f"{FIRST} the snow"
LENGTH = 16


@pytest.fixture(scope="module")
def in_two(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("chunks") / "bundle"
    export(out=out, base=str(tiny_base), adapters=tiny_adapters, text_chunks=2, attention="mha")
    return Pipeline.load(out)


@pytest.fixture(scope="module")
def tokens(tiny_base: Path) -> CLIPTokenizerFast:
    return CLIPTokenizerFast.from_pretrained(tiny_base / "tokenizer")


def final(pipeline: Pipeline, prompt: str) -> NDArray[np.float32]:
    *_, last = pipeline.denoise(prompt, steps=3, seed=0, guidance_scale=4.0, guidance_mode="classic")
    return last.latent


@torch.no_grad()
def test_each_chunk_is_what_transformers_makes_of_it(
    in_two: Pipeline, tokens: CLIPTokenizerFast, tiny_base: Path
) -> None:
    encoder = CLIPTextModel.from_pretrained(tiny_base / "text_encoder").eval()
    ids = tokens(LONG, add_special_tokens=False).input_ids
    assert len(tokens(FIRST, add_special_tokens=False).input_ids) == LENGTH - 2 < len(ids) < 2 * (LENGTH - 2)
    rows = []
    for part in (ids[: LENGTH - 2], ids[LENGTH - 2 :]):
        row = [tokens.bos_token_id, *part, tokens.eos_token_id]
        rows.append(row + [tokens.pad_token_id] * (LENGTH - len(row)))
    states = encoder(torch.tensor(rows)).last_hidden_state
    wanted = torch.cat([states[:1], states[1:]], dim=1).numpy()
    received = in_two.embed({"prompt": LONG})["prompt"]["text"]
    assert received.shape == wanted.shape == (1, 2 * LENGTH, states.shape[-1])
    np.testing.assert_allclose(received, wanted, atol=2e-5)
    assert np.abs(received[:, :LENGTH] - received[:, LENGTH:]).max() > 0.1


def test_the_runner_draws_what_pytorch_draws(in_two: Pipeline, tiny_base: Path, tiny_adapters: Path) -> None:
    base = replace(load_base(str(tiny_base)), text_chunks=2)
    torch_side = DreamCachePipeline(base, load_adapters(tiny_adapters, base.unet))
    options = {"steps": 3, "seed": 0, "guidance_scale": 4.0}
    *_, expected = torch_side.denoise(LONG, **options, guidance_mode="classic")
    wanted = expected.latent.numpy()
    ours = psnr_db(wanted, final(in_two, LONG))
    assert ours > 90
    # The second chunk dropped, as without --text-chunks, is another picture.
    assert psnr_db(wanted, final(in_two, FIRST)) < 60


def test_a_prompt_of_one_chunk_draws_what_it_draws_without_chunks(
    in_two: Pipeline, tiny_bundle: Path
) -> None:
    plain = Pipeline.load(tiny_bundle)
    assert psnr_db(final(plain, FIRST), final(in_two, FIRST)) > 90
    np.testing.assert_array_equal(*np.split(in_two.embed({"prompt": FIRST})["prompt"]["text"], 2, axis=1))


def test_the_pooled_embedding_of_sdxl_is_of_the_first_chunk(tmp_path: Path) -> None:
    plain = load_base(write_tiny_sdxl(tmp_path / "sdxl"))
    one, two, other = (
        replace(plain, text_chunks=count).condition([prompt], (32, 32))
        for count, prompt in ((1, FIRST), (2, LONG), (1, "the snow"))
    )
    assert two.text.shape == (1, 2 * LENGTH, one.text.shape[-1])
    torch.testing.assert_close(two.added, one.added)
    torch.testing.assert_close(two.text, torch.cat([one.text, other.text], dim=1))
    assert (two.added["text_embeds"] - other.added["text_embeds"]).abs().max() > 0.1


def test_more_than_two_chunks_are_cut_and_said(in_two: Pipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_two.embed({"prompt": LONG})
    with pytest.warns(PromptWarning, match=r"2 chunks read 28; lost: '.*snow' .*--text-chunks 3 reads all"):
        in_two.embed({"prompt": LONG * 2})


def test_the_contract_says_so_where_there_are_several(in_two: Pipeline, tiny_bundle: Path) -> None:
    contract = in_two.contract
    assert (contract.format_version, contract.architecture.text_chunks) == (2, 2)
    assert contract.graphs.text_encoder.inputs[0].shape == (1, LENGTH)
    shapes = {spec.name: spec.shape for spec in contract.graphs.denoiser.inputs}
    assert shapes["text"][1] == 2 * LENGTH
    assert min(contract.parity.psnr_db.values()) >= MIN_PSNR_DB
    assert "text_chunks" not in (tiny_bundle / CONTRACT_NAME).read_text(encoding="utf-8")
    with pytest.raises(BundleError, match="format version 2 is expected, received 1"):
        parse_contract(dump_contract(contract).replace('"format_version": 2', '"format_version": 1'))
    with pytest.raises(BundleError, match=r"text_chunks: Input should be less than or equal to 16"):
        parse_contract(dump_contract(contract).replace('"text_chunks": 2', '"text_chunks": 1000000'))


@pytest.mark.parametrize("count", [0, 17])
def test_other_numbers_are_refused(tiny_base: Path, tiny_adapters: Path, tmp_path: Path, count: int) -> None:
    with pytest.raises(ExportError, match=f"--text-chunks is {count}; give 1 to 16"):
        export(out=tmp_path / "no", base=str(tiny_base), adapters=tiny_adapters, text_chunks=count)
