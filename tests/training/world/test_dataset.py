"""Rendered shards and their latents: whole or not there, and continued where they were stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer
from typer.testing import CliRunner

from dreamcache.training.command import train
from dreamcache.training.errors import CheckpointError
from dreamcache.training.miniature.latents import encode_dataset, load_latents
from dreamcache.training.miniature.recipe import Recipe, continue_stage
from dreamcache.training.miniature.stages.autoencoder import LATENT_CHANNELS, make_autoencoder
from dreamcache.training.world.dataset import (
    SHARD,
    draw_batch,
    read_shards,
    render_dataset,
    shard_path,
    stored_size,
    write_npz,
)
from dreamcache.training.world.samples import draw_sample


def test_two_processes_render_the_missing_shard_alone_and_to_the_same_bytes(
    tmp_path: Path, small_shard: Path
) -> None:
    kept = shard_path(tmp_path, 0)
    kept.write_bytes(shard_path(small_shard, 0).read_bytes())
    before = kept.stat().st_mtime_ns
    render_dataset(tmp_path, SHARD + 1, processes=2)
    made = shard_path(tmp_path, 1)
    first = made.read_bytes()
    assert kept.stat().st_mtime_ns == before, "a shard that exists is not rendered again"
    assert sorted(tmp_path.iterdir()) == [kept, made], "no partial file is left"
    batch = list(read_shards(tmp_path, 2 * SHARD))[1]
    assert len(batch.targets) == len(batch.captions) == SHARD
    for row in (0, 517, SHARD - 1):
        sample = draw_sample(0, SHARD + row)
        assert np.array_equal(batch.targets[row], sample.target)
        assert np.array_equal(batch.references[row], sample.reference)
        assert batch.captions[row] == sample.caption
        assert batch.prompts[row] == sample.prompt
    made.unlink()
    render_dataset(tmp_path, 2 * SHARD, processes=1)
    assert made.read_bytes() == first
    assert kept.stat().st_mtime_ns == before


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    whole = shard_path(tmp_path, 0)
    write_npz(whole, numbers=np.arange(3))
    kept = whole.read_bytes()
    with pytest.raises(ValueError, match="pickle"):
        write_npz(whole, numbers=np.arange(4), strange=np.asarray([{}], object))
    assert whole.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [whole]


def test_a_missing_shard_names_the_command_that_renders_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dreamcache train miniature data --samples 1000"):
        list(read_shards(tmp_path, 1000))
    with pytest.raises(FileNotFoundError, match="dreamcache train miniature latents --samples 1000"):
        load_latents(tmp_path, 1000)


def test_a_batch_is_its_samples() -> None:
    batch = draw_batch(4, 10, 3, held_out=True)
    for row in range(3):
        sample = draw_sample(4, 10 + row, held_out=True)
        assert np.array_equal(batch.masks[row], sample.mask)
        assert np.array_equal(batch.labels[row], sample.labels)


def test_latents_are_encoded_once_and_scaled_to_unit_variance(
    tmp_path: Path, small_shard: Path, tokenizer: CLIPTokenizer
) -> None:
    torch.manual_seed(0)
    vae = make_autoencoder().eval()
    encode_dataset(small_shard, tmp_path, 1, vae, tokenizer)
    (shard,) = tmp_path.iterdir()
    first = shard.read_bytes()
    encode_dataset(small_shard, tmp_path, 1, vae, tokenizer)
    assert shard.read_bytes() == first
    latents = load_latents(tmp_path, 1)
    assert latents.targets.shape == (6, LATENT_CHANNELS, 8, 8)
    # float16 storage: three digits
    assert float(latents.targets.float().std()) == pytest.approx(1.0, abs=2e-3)
    (batch,) = read_shards(small_shard, 1)
    for ids, text in zip(latents.tokens, batch.captions, strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_a_run_of_another_picture_size_is_refused_in_one_line(tmp_path: Path) -> None:
    write_npz(shard_path(tmp_path / "data", 0), **vars(draw_batch(0, 0, 2)))
    assert stored_size(shard_path(tmp_path / "data", 0)) == 64
    for stage in ("autoencoder", "adapters"):
        outcome = CliRunner().invoke(train, ["miniature", stage, "--run", str(tmp_path)])
        assert isinstance(outcome.exception, CheckpointError)
        message = str(outcome.exception)
        assert "64 × 64" in message
        assert "128 × 128" in message
        assert "--run" in message
        assert "\n" not in message
        assert not (tmp_path / stage).exists()
    shutil.rmtree(tmp_path / "data")
    write_npz(shard_path(tmp_path / "data", 0), **vars(draw_batch(0, 0, 2, size=Recipe().size)))
    continue_stage("data", tmp_path, Recipe(samples=1, pairs=0, stylised=0))
