"""A stage through Ray Data makes the same bytes; without Ray, one line says what to install."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from dreamcache.training.data.shards.distribution import CLAIMS_NAME, ProcessRank
from dreamcache.training.data.stages.captions import CaptionStage
from dreamcache.training.data.stages.ray_data import ShardWorker, run_with_ray
from dreamcache.training.data.stages.stage import open_output, run_stage
from dreamcache.training.data.stages.world import WorldStage
from dreamcache.training.errors import SynthesisError

HAS_RAY = find_spec("ray") is not None


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != CLAIMS_NAME}


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_one_line_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match=r"pip install \"dreamcache\[ray\]\""):
        run_with_ray(WorldStage(2), tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_an_actor_makes_shards_and_sends_errors_as_text(tmp_path: Path, caption_stage: CaptionStage) -> None:
    import numpy as np

    stage = WorldStage(5, shard_size=3)
    open_output(tmp_path, stage.index)
    rows = ShardWorker(stage, tmp_path)({"shard": np.asarray([0, 1, 0])})
    assert rows["outcome"] == ["made", "made", "kept"]
    assert rows["error"] == ["", "", ""]
    stranger = CaptionStage(2, caption_stage.model, ("zebra",), tries=1, max_words=12)
    open_output(tmp_path / "none", stranger.index)
    failed = ShardWorker(stranger, tmp_path / "none")({"shard": np.asarray([0])})
    assert "no sample of the shard passes" in failed["error"][0]


@pytest.mark.skipif(not HAS_RAY, reason='Ray is not installed: pip install "dreamcache[ray]"')
def test_ray_data_makes_the_same_bytes_and_continues(tmp_path: Path, caption_stage: CaptionStage) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        run_stage(caption_stage, tmp_path / "whole", ProcessRank())
        first = run_with_ray(caption_stage, tmp_path / "ray", workers=2)
        assert (first.made, first.kept) == (3, 0)
        assert content(tmp_path / "ray") == content(tmp_path / "whole")
        (tmp_path / "ray" / "captions-00001.tar").unlink()
        again = run_with_ray(caption_stage, tmp_path / "ray", workers=1)
        assert (again.made, again.kept, again.samples) == (1, 2, first.samples)
        stranger = CaptionStage(2, caption_stage.model, ("zebra",), tries=1, max_words=12)
        with pytest.raises(SynthesisError, match="no sample of the shard passes"):
            run_with_ray(stranger, tmp_path / "none", workers=1)
    finally:
        ray.shutdown()
