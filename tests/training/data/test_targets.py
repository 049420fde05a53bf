"""Stage 2 on a tiny Stable Diffusion: seeds of each sample, the safety checker, duplicates, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_synthesis import add_safety_checker

from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.index import read_index
from dreamcache.training.data.shards.pictures import decode_array, encode_target, target_member
from dreamcache.training.data.shards.seeds import derive_seed
from dreamcache.training.data.shards.shards import ShardSample, tar_path, write_shard
from dreamcache.training.data.stages.stage import ShardProgress, run_stage
from dreamcache.training.data.stages.targets import TargetStage
from dreamcache.training.errors import ShardError, SynthesisError, WeightsError


def pictures(folder: Path, shard: int = 0) -> dict[str, np.ndarray]:
    source = ShardFolder.open(folder, "targets")
    return {
        sample.key: decode_array(target_member(sample, "")[1], 32, "RGB", "") for sample in source.read(shard)
    }


def test_each_caption_gets_a_picture_of_its_own_seed(targets: Path, captions: Path) -> None:
    asked = {sample.key: sample for sample in ShardFolder.open(captions, "captions").read(0)}
    for sample in ShardFolder.open(targets, "targets").read(0):
        record = json.loads(sample.members["json"])
        assert record["target_seed"] == derive_seed(0, sample.key, "target")
        assert sample.members["txt"] == asked[sample.key].members["txt"]
        assert record["subject"] == json.loads(asked[sample.key].members["json"])["subject"]
    made = pictures(targets)
    assert made.keys() == asked.keys()
    assert len({picture.tobytes() for picture in made.values()}) == len(made)
    index = read_index(targets)
    assert index.source is not None
    assert index.source.fingerprint == read_index(captions).fingerprint
    assert (index.resolution, index.settings["steps"]) == (32, 2)


def test_neither_batch_nor_neighbours_change_a_picture(
    tmp_path: Path, targets: Path, target_stage: TargetStage
) -> None:
    run_stage(replace(target_stage, batch=3), tmp_path / "batch")
    run_stage(replace(target_stage, seed=1), tmp_path / "seed")
    whole, batch, seed = (pictures(folder) for folder in (targets, tmp_path / "batch", tmp_path / "seed"))
    for key, picture in whole.items():
        # sums of another batch may round to the neighbouring level
        assert np.abs(picture.astype(int) - batch[key]).max() <= 1
        assert np.abs(picture.astype(int) - seed[key]).mean() > 5


@pytest.mark.parametrize("flags", [True, False])
def test_the_safety_checker_is_honoured(
    tmp_path: Path, tiny_base: Path, target_stage: TargetStage, flags: bool
) -> None:
    shutil.copytree(tiny_base, tmp_path / "checked")
    stage = replace(target_stage, model=str(add_safety_checker(tmp_path / "checked", flags=flags)))
    assert stage.index.settings["safety_checker"] is True
    assert target_stage.index.settings["safety_checker"] is False
    if not flags:
        summary = run_stage(stage, tmp_path / "out")
        assert summary.rejected.get("flagged by the safety checker", 0) == 0
        assert summary.samples > 0
        return
    with pytest.raises(SynthesisError, match=r"\(flagged by the safety checker: 4\)"):
        run_stage(stage, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*targets*"))


def test_a_caption_that_another_shard_has_is_not_rendered(
    tmp_path: Path, captions: Path, target_stage: TargetStage
) -> None:
    shutil.copytree(captions, tmp_path / "captions")
    source = ShardFolder.open(captions, "captions")
    first, last = next(source.read(0)), list(source.read(2))
    last[0] = replace(last[0], members={**last[0].members, "txt": first.members["txt"]})
    write_shard(tmp_path / "captions", source.index, 2, last)
    report = ShardProgress()
    made = list(replace(target_stage, captions=tmp_path / "captions").samples(2, report))
    assert [sample.key for sample in made] == [sample.key for sample in last[1:]]
    assert report.rejected == {"duplicate": 1}


def test_unfinished_captions_are_refused(tmp_path: Path, captions: Path, target_stage: TargetStage) -> None:
    shutil.copytree(captions, tmp_path / "captions")
    tar_path(tmp_path / "captions", read_index(captions), 1).unlink()
    with pytest.raises(
        ShardError, match=r"3 shards are expected, 1 of them .*dreamcache synthesize captions"
    ):
        run_stage(replace(target_stage, captions=tmp_path / "captions"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_captions_are_other_settings(tmp_path: Path, targets: Path, target_stage: TargetStage) -> None:
    shutil.copytree(targets, tmp_path / "targets")
    assert run_stage(target_stage, tmp_path / "targets").kept == 3
    with pytest.raises(SynthesisError, match=r"made with other settings \(steps\)"):
        run_stage(replace(target_stage, steps=3), tmp_path / "targets")


def test_what_a_pipeline_cannot_do_is_one_line(
    tmp_path: Path, models: Path, target_stage: TargetStage
) -> None:
    with pytest.raises(SynthesisError, match="a multiple of 4 is expected by this pipeline, received 30"):
        run_stage(replace(target_stage, resolution=30), tmp_path / "odd")
    with pytest.raises(WeightsError, match=r"model_index\.json is expected"):
        run_stage(replace(target_stage, model=str(models / "llama")), tmp_path / "llama")
    broken = tmp_path / "broken"
    shutil.copytree(target_stage.model, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x08")
    with pytest.raises(WeightsError, match=r"received one that cannot be used \(.*hf download") as error:
        run_stage(replace(target_stage, model=str(broken)), tmp_path / "none")
    assert "\n" not in str(error.value)


def test_jpeg_stays_near_and_png_exact() -> None:
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(data.chelsea()[:256, :256])
    for form, least_db in (("jpg", 38.0), ("png", 1e9)):
        kind, encoded = encode_target(picture, "png" if form == "png" else "jpg")
        assert kind == f"target.{form}"
        kept = decode_array(encoded, 256, "RGB", "")
        error = np.mean((np.asarray(picture).astype(float) - kept) ** 2)
        db = np.inf if error == 0 else 10 * np.log10(255**2 / error)
        assert db >= least_db
        if form == "jpg":
            assert db < 60
    with pytest.raises(ShardError, match=r"target\.jpg or target\.png is expected"):
        target_member(ShardSample("1", {}), "here")
