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
from typing import Literal

import torch

from dreamcache.training.errors import SynthesisError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CLAIMS_NAME = ".claims"
Dtype = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Process:
    """One of `count` processes. `local`: its number on its machine, which chooses its GPU."""

    index: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Process:
        """As `accelerate launch`, torchrun or a user set RANK, WORLD_SIZE and LOCAL_RANK; alone without them.

        Raises: SynthesisError when they are no numbers or do not fit together.
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


def choose_device(name: str = "auto", process: Process | None = None) -> torch.device:
    """`auto`: the GPU of the process's number on its machine, else the CPU.

    Raises: SynthesisError for a device that is not there.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = Process.from_environment().local if process is None else process.local
        return torch.device("cuda", local % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SynthesisError(
            f"--device: auto, cpu or cuda:N is expected, received {name!r} ({reason})"
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: float32 on a CPU, bfloat16 elsewhere.

    Raises: SynthesisError for another name.
    """
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name == "auto":
        return known["float32" if device.type == "cpu" else "bfloat16"]
    if name not in known:
        raise SynthesisError(f"--dtype: auto, {', '.join(known)} are expected, received {name!r}")
    return known[name]
