"""The drawn world as a source of the same shards: target, mask, reference and caption without any model.

A reference here is the same toy in another pose, which a photograph's own cut-out cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from dreamcache.training.data.shards.index import StageIndex, installed_versions
from dreamcache.training.data.shards.pictures import encode_json, encode_png
from dreamcache.training.data.shards.seeds import sample_key
from dreamcache.training.data.shards.shards import ShardSample
from dreamcache.training.data.stages.stage import ShardProgress
from dreamcache.training.world.render import SIZE
from dreamcache.training.world.samples import draw_sample


@dataclass(frozen=True)
class WorldStage:
    """Samples 0 … n − 1 of the stream `seed`, of toys that training may see."""

    samples_wanted: int
    seed: int = 0
    shard_size: int = 500

    @cached_property
    def index(self) -> StageIndex:
        """64 × 64 px, as the world is drawn."""
        return StageIndex(
            stage="world",
            seed=self.seed,
            shards=-(-self.samples_wanted // self.shard_size),
            shard_size=self.shard_size,
            resolution=SIZE,
            settings={"samples": self.samples_wanted, "held_out": False},
            made_with=installed_versions(),
        )

    def source_sha256(self, shard: int) -> None:
        """The world comes from nothing."""

    def expected(self, shard: int) -> int:
        """Samples of the shard."""
        return min(self.shard_size, self.samples_wanted - shard * self.shard_size)

    def samples(self, shard: int, report: ShardProgress) -> Iterator[ShardSample]:
        """target.png, reference.png, mask.png, txt, and json: key, subject, scene, identity."""
        start = shard * self.shard_size
        for number in range(start, start + self.expected(shard)):
            drawn = draw_sample(self.seed, number)
            key = sample_key(number)
            record = {
                "key": key,
                "subject": drawn.identity.kind,
                "scene": drawn.scene,
                "identity": drawn.identity.key,
            }
            yield ShardSample(
                key,
                {
                    "target.png": encode_png(Image.fromarray(drawn.target)),
                    "reference.png": encode_png(Image.fromarray(drawn.reference)),
                    "mask.png": encode_png(Image.fromarray(drawn.mask)),
                    "txt": drawn.prompt.encode(),
                    "json": encode_json(record),
                },
            )
            report.advance(1)
