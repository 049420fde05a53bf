"""A stage through Ray Data, where that is installed: a row is a shard, an actor a worker with the models loaded.

Ray starts an actor that dies again and hands its row to another: shards that are whole are kept, so nothing is made
twice. docs.ray.io, `Dataset.map_batches`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.errors import DreamCacheError
from dreamcache.training.data.shards.index import ShardRecord
from dreamcache.training.data.stages.stage import Stage, Summary, open_output, run_shard
from dreamcache.training.errors import SynthesisError


class ShardWorker:
    """An actor: one stage with its models, asked for one shard after the other."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._folder = folder

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[str]]:
        """batch: "shard" int64 [n]. Returns per shard the outcome and its record, or the error, as text.

        Errors of the user travel as text: Ray would wrap them into its own with a page of traceback.
        """
        rows: dict[str, list[str]] = {"outcome": [], "record": [], "error": []}
        for shard in np.asarray(batch["shard"]).tolist():
            outcome, record, message = "", None, ""
            try:
                outcome, record = run_shard(self._stage, self._folder, shard)
            except DreamCacheError as error:
                message = str(error)
            rows["outcome"].append(outcome)
            rows["record"].append("" if record is None else record.model_dump_json())
            rows["error"].append(message)
        return rows


def run_with_ray(stage: Stage, folder: Path, workers: int, gpus_per_worker: float = 0) -> Summary:
    """All shards of a stage, by `workers` actors of the Ray cluster that is reached (a local one without any).

    stage: not yet used, so that it can be sent without its models. folder: on a file system that all nodes share.
    Raises: SynthesisError without Ray, and the first error of a stage; shards made before stay.
    """
    if find_spec("ray") is None:
        raise SynthesisError(
            '--ray needs Ray, which is not installed; install it with: pip install "dreamcache[ray]"'
        )
    import ray
    import ray.data

    folder = folder.absolute()
    open_output(folder, stage.index)
    count = stage.index.shards
    # A block a shard: what is lost with an actor, and done again, is one shard.
    shards = ray.data.from_items([{"shard": i} for i in range(count)], override_num_blocks=count)
    done = shards.map_batches(
        ShardWorker,
        fn_constructor_args=(stage, folder),
        batch_size=1,
        concurrency=workers,
        num_gpus=gpus_per_worker or None,
    )
    outcomes: list[tuple[str, ShardRecord | None]] = []
    errors = []
    for row in done.iter_rows():
        if row["error"]:
            errors.append(str(row["error"]))
            continue
        record = ShardRecord.model_validate_json(row["record"]) if row["record"] else None
        outcomes.append((str(row["outcome"]), record))
    if errors:
        raise SynthesisError(sorted(errors)[0])
    return Summary.of(outcomes)
