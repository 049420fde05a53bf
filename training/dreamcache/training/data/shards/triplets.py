"""Finished shards as training reads them: target, reference, mask and caption, checked on the way.

loader = DataLoader(TripletDataset(Path("references"), resolution=512), batch_size=12, num_workers=4)
for batch in loader:      # a Triplet of tensors uint8 [12, 512, 512, 3] …, and a list of captions
    ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from dreamcache.runtime.files import sha256_file
from dreamcache.training.data.shards.distribution import ProcessRank
from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.pictures import decode_array, decode_text, target_member
from dreamcache.training.data.shards.shards import ShardSample, check_shard, tar_path
from dreamcache.training.errors import ShardError


class MaskedTriplet(NamedTuple):
    """One sample; r is the resolution of its folder.

    target, reference: uint8 [r, r, 3]. mask: uint8 [r, r], 255 on the subject in the target.
    """

    key: str
    caption: str
    target: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class TripletDataset(IterableDataset[MaskedTriplet]):
    """The samples of a folder that `dreamcache synthesize references` or `world` wrote.

    Shards are dealt to processes (`RANK`, `WORLD_SIZE`) and to the workers of a DataLoader; each sample is seen
    once an epoch. Shards may hold different numbers of samples, so processes may see different numbers too.
    """

    def __init__(
        self,
        folder: Path,
        resolution: int | None = None,
        *,
        shuffle_seed: int | None = None,
        process: ProcessRank | None = None,
    ) -> None:
        """Check every shard's record and length before anything is read.

        Args:
            folder: of shards.
            resolution: that is expected, in pixels; None takes the folder's.
            shuffle_seed: shuffles the shards, and the samples within each; None keeps their order.
            process: which of several; None asks the environment.

        Raises: ShardError when a shard is absent, truncated, mixed in or of another version or resolution.
        """
        self._source = ShardFolder.open(Path(folder), "references", "world")
        size = self._source.index.resolution
        if size is None or (resolution is not None and size != resolution):
            raise ShardError(
                f"{folder}: {resolution} x {resolution} px are expected, received {size} x {size}; make shards of "
                "that resolution, or train at this one"
            )
        self.resolution = size
        self._seed = shuffle_seed
        self._process = process
        self._epoch = 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the folder's JSON records, each of which holds the SHA-256 of its shard."""
        digest = hashlib.sha256()
        for path in sorted(self._source.folder.glob("*.json")):
            digest.update(f"{path.name}\0{sha256_file(path)}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        """Samples of all shards, over all processes."""
        return sum(record.samples for record in self._source.records)

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch, where the order is shuffled."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[MaskedTriplet]:
        """Raises: ShardError naming the shard and sample that cannot be read."""
        process = ProcessRank.from_environment() if self._process is None else self._process
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        order = np.arange(self._source.index.shards)
        if self._seed is not None:
            np.random.default_rng([self._seed, self._epoch]).shuffle(order)
        for shard in order[process.index * workers + number :: process.count * workers]:
            yield from self._read(int(shard))

    def _read(self, shard: int) -> Iterator[MaskedTriplet]:
        where = str(tar_path(self._source.folder, self._source.index, shard))
        if self._seed is None:
            for sample in self._source.read(shard):
                yield decode_triplet(sample, self.resolution, where)
            return
        # Encoded samples of one shard fit into memory; pictures are decoded as they are dealt.
        samples = list(self._source.read(shard))
        for i in np.random.default_rng([self._seed, self._epoch, shard]).permutation(len(samples)):
            yield decode_triplet(samples[i], self.resolution, where)


def decode_triplet(sample: ShardSample, size: int, where: str) -> MaskedTriplet:
    """The pictures and the caption of a sample.

    Raises: ShardError when a member is absent, broken or of another size.
    """
    for kind in ("reference.png", "mask.png"):
        if kind not in sample.members:
            raise ShardError(f"{where}: sample {sample.key}: {kind} is expected, received none")
    at = f"{where}: sample {sample.key}"
    return MaskedTriplet(
        key=sample.key,
        caption=decode_text(sample, where),
        target=decode_array(target_member(sample, where)[1], size, "RGB", f"{at}: target"),
        reference=decode_array(sample.members["reference.png"], size, "RGB", f"{at}: reference"),
        mask=decode_array(sample.members["mask.png"], size, "L", f"{at}: mask"),
    )


def check_folder(folder: Path) -> dict[str, int | str | None]:
    """Read and decode all of a folder of any stage, hashes included; its counts.

    Raises: ShardError at the first thing that is wrong.
    """
    source = ShardFolder.open(folder, "references", "world", "targets", "captions")
    index = source.index
    samples = 0
    for shard in range(index.shards):
        check_shard(folder, index, shard, hashed=True)
        where = str(tar_path(folder, index, shard))
        for sample in source.read(shard):
            decode_text(sample, where)
            if index.stage in ("references", "world"):
                decode_triplet(sample, index.resolution or 0, where)
            elif index.stage == "targets":
                decode_array(target_member(sample, where)[1], index.resolution or 0, "RGB", where)
            samples += 1
    return {"stage": index.stage, "shards": index.shards, "samples": samples, "resolution": index.resolution}
