"""Finished shards as training reads them: every sample once, whoever shares the reading, and checked."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dreamcache.training.data.shards.distribution import ProcessRank
from dreamcache.training.data.shards.index import read_index
from dreamcache.training.data.shards.shards import ShardSample, read_shard, tar_path, write_shard
from dreamcache.training.data.shards.triplets import TripletDataset, check_folder
from dreamcache.training.data.stages.stage import run_stage
from dreamcache.training.data.stages.world import WorldStage
from dreamcache.training.errors import ShardError
from dreamcache.training.world.samples import draw_sample

COUNT = 11


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triplets") / "world"
    run_stage(WorldStage(COUNT, seed=3, shard_size=3), folder)
    return folder


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world, tmp_path / "copy")
    return tmp_path / "copy"


def replace_member(folder: Path, shard: int, kind: str, data: bytes | None) -> None:
    """Put other bytes into the first sample of a shard, and write a record that fits them."""
    index = read_index(folder)
    samples = list(read_shard(tar_path(folder, index, shard)))
    members = {**samples[0].members}
    if data is None:
        del members[kind]
    else:
        members[kind] = data
    write_shard(folder, index, shard, [ShardSample(samples[0].key, members), *samples[1:]])


def png(size: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size)).save(stream, "PNG")
    return stream.getvalue()


def test_samples_are_the_worlds_own(world: Path) -> None:
    dataset = TripletDataset(world, resolution=64)
    triplets = list(dataset)
    assert len(dataset) == len(triplets) == COUNT
    for number, triplet in enumerate(triplets):
        drawn = draw_sample(3, number)
        assert np.array_equal(triplet.target, drawn.target)
        assert np.array_equal(triplet.reference, drawn.reference)
        assert np.array_equal(triplet.mask, drawn.mask)
        assert triplet.caption == drawn.prompt


def test_every_sample_is_seen_once_over_processes_and_workers(world: Path) -> None:
    keys = []
    for rank in range(2):
        dataset = TripletDataset(world, shuffle_seed=1, process=ProcessRank(rank, 2))
        for batch in DataLoader(dataset, batch_size=2, num_workers=2):
            assert batch.target.shape[1:] == (64, 64, 3)
            assert batch.mask.dtype == torch.uint8
            assert len(batch.caption) == len(batch.key)
            keys += batch.key
    assert sorted(keys) == [f"{number:09d}" for number in range(COUNT)]


def test_orders_differ_between_epochs_and_hold_the_same(world: Path) -> None:
    dataset = TripletDataset(world, shuffle_seed=1)
    first = [triplet.key for triplet in dataset]
    assert [triplet.key for triplet in dataset] == first
    dataset.set_epoch(1)
    second = [triplet.key for triplet in dataset]
    assert second != first != sorted(first)
    assert sorted(second) == sorted(first)


def test_another_resolution_is_refused(world: Path, copy: Path) -> None:
    with pytest.raises(ShardError, match="512 x 512 px are expected, received 64 x 64"):
        TripletDataset(world, resolution=512)
    replace_member(copy, 2, "target.png", png(32))
    with pytest.raises(
        ShardError,
        match=r"world-00002\.tar: sample 000000006: target: 64 x 64 px are expected, received 32 x",
    ):
        list(TripletDataset(copy))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("reference.png", None, r"reference\.png is expected, received none"),
        ("target.png", None, r"target\.jpg or target\.png is expected"),
        ("mask.png", b"no picture", "a whole PNG or JPEG is expected"),
        ("target.png", png(64)[:-30], "a whole PNG or JPEG is expected"),
        ("txt", b"\xff\xfe", "a caption as UTF-8 text is expected"),
    ],
)
def test_a_broken_sample_is_named(copy: Path, kind: str, data: bytes | None, message: str) -> None:
    assert check_folder(copy)["samples"] == COUNT
    replace_member(copy, 1, kind, data)
    with pytest.raises(ShardError, match=rf"world-00001\.tar: sample 000000003: .*{message}"):
        list(TripletDataset(copy))
    with pytest.raises(ShardError, match=message):
        check_folder(copy)


def test_a_shard_that_is_cut_stops_the_dataset_before_it_starts(copy: Path) -> None:
    path = copy / "world-00003.tar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"world-00003\.tar: .*truncated; run `dreamcache synthesize world`"):
        TripletDataset(copy)
