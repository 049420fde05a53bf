"""Sources of triplets: plain files, the drawn world, shards; and the order in which training sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamcache.runtime.errors import ImageError, SettingsError
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.training.adapters.data import DrawnWorld, StoredWorld, open_pairs, open_source
from dreamcache.training.adapters.order import Order, held_out
from dreamcache.training.data.stages.stage import run_stage
from dreamcache.training.data.stages.world import WorldStage
from dreamcache.training.world.dataset import draw_batch, shard_path, write_npz
from dreamcache.training.world.samples import draw_pair, draw_sample


def write_sample(folder: Path, name: str, reference: str = "reference.png") -> None:
    (folder / f"{name}.txt").write_text(f"a toy {name}\n", encoding="utf-8")
    Image.new("RGB", (60, 40), "red").save(folder / f"{name}.target.jpg", quality=95)
    subject = Image.new("RGB", (60, 80), "white")
    subject.paste("blue", (5, 5, 25, 45))
    subject.save(folder / f"{name}.{reference}")


def test_plain_files_are_read_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_sample(tmp_path, name)
    source = open_source(str(tmp_path), 32)
    first, second = source
    assert (first.key, first.caption, second.key) == ("a", "a toy a", "b")
    assert first.target.shape == first.reference.shape == (32, 32, 3)
    # the target fills the square, the reference stands in the middle, as the runner frames it
    assert (first.target[..., 0] > 250).all()
    assert (first.reference[:, 0] == 255).all()
    assert first.reference[16, 16].tolist() == [0, 0, 255]
    prepared = prepare_reference(tmp_path / "a.reference.png", size=32).image
    assert np.array_equal(first.reference, prepared)
    assert not np.array_equal(first.reference, Image.open(tmp_path / "a.reference.png").resize((32, 32)))
    kept = source.fingerprint
    assert open_source(str(tmp_path), 32).fingerprint == kept != open_source(str(tmp_path), 64).fingerprint
    (tmp_path / "b.txt").write_text("another", encoding="utf-8")
    assert open_source(str(tmp_path), 32).fingerprint != kept


def test_wrong_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"NAME\.target\.png .* expected, received none"):
        open_source(str(tmp_path), 32)
    write_sample(tmp_path, "a", "elsewhere.png")
    with pytest.raises(SettingsError, match=r"a\.reference\.png is expected in the same folder"):
        open_source(str(tmp_path), 32)
    (tmp_path / "a.reference.png").write_bytes(b"no picture")
    with pytest.raises(
        ImageError, match=r"a\.reference\.png: a PNG, JPEG, WebP, AVIF or HEIC file is expected"
    ):
        list(open_source(str(tmp_path), 32))


def test_the_drawn_world_is_a_source() -> None:
    source = open_source("world:3", 64)
    assert [sample.caption for sample in source] == [draw_sample(0, i).prompt for i in range(3)]
    assert source.fingerprint != open_source("world:4", 64).fingerprint
    (larger,) = open_source("world:1", 128)
    assert larger.target.shape == larger.reference.shape == (128, 128, 3)
    assert np.array_equal(larger.target, draw_sample(0, 0, size=128).target)
    for name in ("world:10000001", "world:2+99999999999999", "world:" + "9" * 5000):
        with pytest.raises(SettingsError, match="at most 10,000,000 samples are expected") as raised:
            open_source(name, 64)
        assert len(str(raised.value)) < 200
    for name in ("world:many", "world:0", "world:3+", "world:3+few", "world:³"):
        with pytest.raises(SettingsError, match=r"expected world:N with N samples.*world:N\+M"):
            open_source(name, 64)


def test_the_drawn_world_has_samples_with_two_toys() -> None:
    pairs = open_pairs("world:3+2", 64)
    assert pairs is not None
    assert len(open_source("world:3+2", 64)) == 3
    assert [sample.caption for sample in pairs] == [draw_pair(0, i).prompt for i in range(2)]
    assert {sample.reference.shape for sample in pairs} == {(2, 64, 64, 3)}
    assert pairs.fingerprint not in {open_source(f"world:{count}", 64).fingerprint for count in (2, 3)}
    assert open_pairs("world:3", 64) is None


def test_a_folder_of_shards_is_a_source(tmp_path: Path) -> None:
    run_stage(WorldStage(4, shard_size=2), tmp_path)
    with pytest.raises(SettingsError, match=r"512 x 512 px are expected, received 64 x 64.*resolution=64"):
        open_source(str(tmp_path), 512)
    source = open_source(str(tmp_path), 64)
    assert (len(source), source.resolution, [sample.key for sample in source][-1]) == (4, 64, "000000003")
    kept = source.fingerprint
    assert open_source(str(tmp_path), 64).fingerprint == kept
    record = tmp_path / "world-00001.json"
    record.write_text(record.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert source.fingerprint != kept


def order(seed: int = 0, rows: int = 7) -> Order:
    return Order(seed, np.arange(rows), (4, 8, 8), 3, 0.5)


def test_each_epoch_sees_each_row_once_in_another_order() -> None:
    ours = order()
    epochs = [[ours.row(7 * epoch + i) for i in range(7)] for epoch in range(3)]
    assert all(sorted(rows) == list(range(7)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # going back gives the same again
    assert [ours.row(i) for i in range(7)] == epochs[0]
    assert [order(seed=1).row(i) for i in range(7)] != epochs[0]


def test_samples_depend_on_their_number_alone() -> None:
    whole = order().draw(4, 6)
    parts = [order().draw(start, 2) for start in (8, 4, 6)]
    for name in ("timesteps", "dropped", "noise", "reference_noise"):
        joined = torch.cat([getattr(parts[i], name) for i in (1, 2, 0)])
        assert torch.equal(joined, getattr(whole, name))
    assert whole.rows == parts[1].rows + parts[2].rows + parts[0].rows
    assert not torch.equal(whole.noise, whole.reference_noise)
    assert not torch.equal(order(seed=1).draw(4, 6).noise, whole.noise)


def test_draws_are_as_stated() -> None:
    drawn = Order(3, np.arange(50), (1, 2, 2), 4, 0.07).draw(0, 2000)
    # four standard deviations of 2000 draws
    assert float(drawn.dropped.float().mean()) == pytest.approx(0.07, abs=0.023)
    assert float(drawn.timesteps.float().mean()) == pytest.approx(499.5, abs=26)
    assert set(drawn.variants) == {0, 1, 2, 3}
    assert int(drawn.timesteps.min()) >= 0
    assert int(drawn.timesteps.max()) <= 999
    assert float(drawn.noise.std()) == pytest.approx(1, abs=0.04)


def test_stratified_timesteps_lie_one_in_each_part_of_an_update() -> None:
    spread = Order(0, np.arange(9), (1, 2, 2), 1, 0.0, strata=20)
    for start in (0, 20, 40):
        timesteps = spread.draw(start, 20).timesteps
        assert (timesteps // 50).tolist() == list(range(20))
    plain = Order(0, np.arange(9), (1, 2, 2), 1, 0.0).draw(0, 20)
    assert (plain.timesteps // 50).tolist() != list(range(20))
    assert torch.equal(plain.noise, spread.draw(0, 20).noise)


def test_rows_are_held_out_once_and_for_all() -> None:
    train, validation = held_out(0, 20, 5)
    assert len(validation) == 5
    assert sorted([*train, *validation]) == list(range(20))
    assert held_out(0, 20, 5)[1].tolist() == validation.tolist() != held_out(1, 20, 5)[1].tolist()


def test_rendered_shards_are_the_drawn_world_and_no_sample_is_lost_between_them(tmp_path: Path) -> None:
    for shard, start in enumerate((0, 3)):  # short ones: read as if they were whole
        write_npz(shard_path(tmp_path, shard), **vars(draw_batch(0, start, 3)))
    stored, drawn = list(StoredWorld(1001, 64, folder=tmp_path)), list(DrawnWorld(6, 64))
    assert (
        [sample.key for sample in stored]
        == [sample.key for sample in drawn]
        == [f"{n:08d}" for n in range(6)]
    )
    for one, other in zip(stored, drawn, strict=True):
        assert one.caption == other.caption
        assert np.array_equal(one.target, other.target)
        assert np.array_equal(one.reference, other.reference)
    assert len(list(StoredWorld(2, 64, folder=tmp_path))) == 2
    assert StoredWorld(6, 64, folder=tmp_path).fingerprint == DrawnWorld(6, 64).fingerprint
    assert StoredWorld(6, 64, folder=tmp_path).fingerprint != StoredWorld(5, 64, folder=tmp_path).fingerprint
