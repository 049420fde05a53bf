"""Shards: the same bytes each time, whole or not there, and read as untrusted."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.index import INDEX_NAME, StageIndex, read_index
from dreamcache.training.data.shards.shards import (
    MAX_MEMBER_BYTES,
    ShardSample,
    check_shard,
    find_whole_shard,
    read_shard,
    tar_path,
    write_shard,
)
from dreamcache.training.data.stages.stage import open_output, run_stage
from dreamcache.training.data.stages.world import WorldStage
from dreamcache.training.errors import ShardError, SynthesisError

INDEX = StageIndex(stage="captions", seed=0, shards=2, shard_size=3)


def samples(count: int = 3) -> list[ShardSample]:
    return [ShardSample(f"{i:09d}", {"txt": f"caption {i}".encode(), "json": b"{}"}) for i in range(count)]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    run_stage(WorldStage(5, shard_size=3), tmp_path / "world")
    return tmp_path / "world"


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_shard_is_the_same_bytes_each_time_and_its_headers_hold_no_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        record = write_shard(tmp_path / name, INDEX, 1, samples())
    one, other = (tar_path(tmp_path / name, INDEX, 1) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert record.bytes == one.stat().st_size
    assert record.samples == 3
    with tarfile.open(one) as tar:
        assert {(member.mtime, member.uid, member.gid) for member in tar} == {(0, 0, 0)}
        assert tar.getnames()[:3] == ["000000000.json", "000000000.txt", "000000001.json"]
    changed = write_shard(tmp_path / "other", INDEX, 1, samples(2))
    assert changed.sha256 != record.sha256


def test_the_library_reads_what_is_written(world: Path) -> None:
    shards = [str(path) for path in sorted(world.glob("*.tar"))]
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    ours = [sample for shard in range(2) for sample in ShardFolder.open(world, "world").read(shard)]
    assert [sample["__key__"] for sample in found] == [sample.key for sample in ours]
    assert len(found) == 5
    assert found[4]["target.png"].shape == (64, 64, 3)
    assert found[4]["txt"] == ours[4].members["txt"].decode()
    assert np.array_equal(
        found[4]["reference.png"], np.asarray(Image.open(io.BytesIO(ours[4].members["reference.png"])))
    )


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_shard(tmp_path, INDEX, 0, samples())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing() -> Iterator[ShardSample]:
        yield samples()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, INDEX, 0, failing())
    with pytest.raises(SynthesisError, match=r"no sample of the shard passes \(too small: 3\)"):
        write_shard(tmp_path, INDEX, 0, [], rejected=Counter({"too small": 3}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / ".captions-00000.tar.dead.part").write_bytes(b"what a killed process left")
    write_shard(tmp_path, INDEX, 0, samples())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_shard_counts_as_whole_only_while_every_byte_is_there(world: Path) -> None:
    index = read_index(world)
    assert find_whole_shard(world, index, 0, None) is not None
    assert find_whole_shard(world, index, 0, "another source") is None
    path = tar_path(world, index, 0)
    data = path.read_bytes()
    for damaged in (data[:-512], data[:600] + b"!" + data[601:]):
        path.write_bytes(damaged)
        assert find_whole_shard(world, index, 0, None) is None
    path.write_bytes(data)
    path.with_suffix(".json").unlink()
    assert find_whole_shard(world, index, 0, None) is None


def test_a_damaged_shard_is_made_again_and_a_whole_one_is_not(world: Path) -> None:
    index = read_index(world)
    first, second = (tar_path(world, index, shard) for shard in range(2))
    data, kept = first.read_bytes(), second.stat().st_mtime_ns
    first.write_bytes(data[:1000])
    summary = run_stage(WorldStage(5, shard_size=3), world)
    assert (summary.made, summary.kept, summary.samples) == (1, 1, 5)
    assert first.read_bytes() == data
    assert second.stat().st_mtime_ns == kept


def test_a_truncated_shard_is_named(world: Path) -> None:
    index = read_index(world)
    path = tar_path(world, index, 1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ShardError, match=r"world-00001\.tar: \d+ bytes are expected, received \d+: it is trunc"
    ):
        ShardFolder.open(world, "world")
    # without its record's length a cut still shows, inside a member and between two of them
    with pytest.raises(ShardError, match=r"world-00001\.tar: a whole tar is expected, received a truncated"):
        list(read_shard(path))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        cut = [member.offset for member in tar if member.name.endswith(".json")][1]
    path.write_bytes(data[:cut])
    with pytest.raises(ShardError, match="2 samples are expected, received 1"):
        list(read_shard(path, 2))
    path.write_bytes(data)
    assert len(list(read_shard(path, 2))) == 2


def test_changed_bytes_are_found_by_their_hash(world: Path) -> None:
    index = read_index(world)
    path = tar_path(world, index, 0)
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    check_shard(world, index, 0)
    with pytest.raises(ShardError, match="the bytes of its record are expected"):
        check_shard(world, index, 0, hashed=True)


def test_other_versions_and_mixed_folders_are_refused(world: Path, tmp_path: Path) -> None:
    record, index = world / "world-00001.json", world / INDEX_NAME
    saved = record.read_text(), index.read_text()
    rewrite(record, version=2)
    with pytest.raises(ShardError, match=r"world-00001\.json: version 1 is expected, received 2"):
        ShardFolder.open(world, "world")
    record.write_text(saved[0])
    rewrite(index, version=7)
    with pytest.raises(ShardError, match=r"index\.json: version 1 is expected, received 7"):
        ShardFolder.open(world, "world")
    index.write_text(saved[1])
    other = tmp_path / "other"
    run_stage(WorldStage(5, seed=1, shard_size=3), other)
    for suffix in ("tar", "json"):
        (world / f"world-00001.{suffix}").write_bytes((other / f"world-00001.{suffix}").read_bytes())
    with pytest.raises(ShardError, match=r"world-00001\.tar: .* the folder is mixed"):
        ShardFolder.open(world, "world")
    # nor is a shard of somebody else's overwritten
    with pytest.raises(ShardError, match="the folder is mixed"):
        run_stage(WorldStage(5, shard_size=3), world)
    assert (world / "world-00001.tar").read_bytes() == (other / "world-00001.tar").read_bytes()


def test_a_folder_is_continued_with_the_same_settings_alone(world: Path) -> None:
    with pytest.raises(SynthesisError, match=r"made with other settings \(seed, shards, samples\)"):
        open_output(world, WorldStage(9, seed=4, shard_size=3).index)
    (world / INDEX_NAME).unlink()
    with pytest.raises(ShardError, match=r"shards without index\.json"):
        open_output(world, WorldStage(5, shard_size=3).index)


def test_missing_shards_name_the_command_that_makes_them(world: Path, tmp_path: Path) -> None:
    (world / "world-00000.tar").unlink()
    with pytest.raises(ShardError, match=r"1 of them are not there; .*dreamcache synthesize world"):
        ShardFolder.open(world, "world")
    with pytest.raises(ShardError, match="stage captions are expected, received world"):
        ShardFolder.open(world, "captions")
    with pytest.raises(ShardError, match="received no such folder"):
        ShardFolder.open(tmp_path / "nowhere", "world")


class Trap:
    """Would run as it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


def malicious(path: Path, kind: str) -> None:
    mode = "w:gz" if kind == "compressed" else "w:"
    with tarfile.open(path, mode) as tar:
        member = tarfile.TarInfo("0000.txt")
        data = b"text"
        if kind == "pickle":
            member.name, data = "0000.pyd", pickle.dumps(Trap())
        elif kind == "link":
            member.type, member.linkname, data = tarfile.SYMTYPE, "/etc/hostname", b""
        elif kind == "sparse":
            member.type = tarfile.GNUTYPE_SPARSE
        elif kind == "outside":
            member.name = "../0000.txt"
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        if kind == "huge":
            claim = tarfile.TarInfo("0001.txt")
            claim.size = MAX_MEMBER_BYTES + 1
            tar.addfile(claim)
            tar.fileobj.truncate(claim.size + 4096)  # type: ignore[union-attr]  # a sparse file on disk


@pytest.mark.parametrize("kind", ["pickle", "link", "sparse", "outside", "compressed", "huge"])
def test_nothing_but_plain_members_of_known_kinds_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "captions-00000.tar"
    malicious(path, kind)
    with pytest.raises(ShardError, match=r"captions-00000\.tar: "):
        list(read_shard(path))
    malicious(path, "plain")
    assert [sample.members for sample in read_shard(path)] == [{"txt": b"text"}]
