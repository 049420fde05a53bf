"""The random state of every process, which a checkpoint keeps so that a killed run ends with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


def gather_random(accelerator: Accelerator) -> dict[str, Tensor]:
    """Of every process, by device: [processes, bytes]."""
    states = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    gathered: dict[str, Any] = {
        name: accelerator.gather(state.to(accelerator.device)[None]) for name, state in states.items()
    }
    return gathered


def restore_random(states: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """This process's own; with another number of processes there is none, and nothing depends on it."""
    for name, state in states.items():
        if len(state) == accelerator.num_processes:
            own = state[accelerator.process_index]
            if name == "cpu":
                torch.set_rng_state(own)
            elif accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(own, accelerator.device)
