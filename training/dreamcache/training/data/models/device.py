"""The device and the number format that a stage's models run with."""

from __future__ import annotations

import torch

from dreamcache.runtime.errors import first_line
from dreamcache.training.data.shards.distribution import ProcessRank
from dreamcache.training.errors import SynthesisError


def choose_device(name: str = "auto", process: ProcessRank | None = None) -> torch.device:
    """`auto`: the GPU of the process's number on its machine, else the CPU.

    Raises: SynthesisError for a device that is not there.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = ProcessRank.from_environment().local if process is None else process.local
        return torch.device("cuda", local % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SynthesisError(
            f"--device: auto, cpu or cuda:N is expected, received {name!r} ({first_line(error)})"
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
