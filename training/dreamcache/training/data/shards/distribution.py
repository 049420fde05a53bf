"""Which shards a process takes, and that no two processes make one at the same time.

Stages never talk to each other across processes, so `accelerate launch` is asked for nothing but the rank that it
leaves in the environment. A process group, as `accelerate.PartialState` opens one, would make each wait for all
others, and a process that died could not be started again alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dreamcache.training.errors import SynthesisError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CLAIMS_NAME = ".claims"


@dataclass(frozen=True)
class ProcessRank:
    """One of `count` processes. `local`: its number on its machine, which chooses its GPU."""

    index: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> ProcessRank:
        """As `accelerate launch`, torchrun or a user set RANK, WORLD_SIZE and LOCAL_RANK; alone without them.

        Raises: SynthesisError when they are not numbers or do not fit together.
        """
        values = {}
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
            text = os.environ.get(name, default)
            if not text.isdecimal():
                raise SynthesisError(
                    f"{name}: a whole number is expected, received {text!r}; mend or unset it"
                )
            values[name] = int(text)
        if values["RANK"] >= values["WORLD_SIZE"]:
            raise SynthesisError(
                f"RANK: a number below WORLD_SIZE ({values['WORLD_SIZE']}) is expected, received {values['RANK']}"
            )
        return cls(values["RANK"], values["WORLD_SIZE"], values["LOCAL_RANK"])

    def shards(self, total: int) -> range:
        """Numbers of the shards that this process takes: every `count`-th."""
        return range(self.index, total, self.count)


@contextmanager
def claim(folder: Path, shard: int) -> Iterator[bool]:
    """Hold a shard while it is made; yields False when another living process holds it.

    The claim is a lock on byte `shard` of one empty file: the system lets go of it when a process dies, however
    it dies. Where the file system knows no locks nothing is claimed, and two processes that were given the same
    shard both make it, to the same bytes.
    """
    if fcntl is None:
        yield True
        return
    with (folder / CLAIMS_NAME).open("a+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError:
            pass
        yield True
