"""All that the next step depends on, in one safetensors file that is renamed in whole.

Tensors: the adapters, the moments of their optimizer, averaged weights where there are any, and torch's random states
of every process. Metadata: the step, the position in the data, and what the run was started
with. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamcache.runtime.errors import first_line
from dreamcache.training.adapters.preset import Preset
from dreamcache.training.errors import CheckpointError

FORMAT = "dreamcache-training-1"
NAME = "checkpoint.safetensors"
SCALAR = "step"
ADAMW_MOMENTS = (SCALAR, "exp_avg", "exp_avg_sq")
MUON_MOMENTS = ("momentum_buffer",)


@dataclass(frozen=True)
class Origin:
    """What a run is made of. `base`, `data`: fingerprints. `update`: samples an update takes, on all devices."""

    base: str
    data: str
    update: int
    preset: dict[str, Any]

    @classmethod
    def of(cls, base: str, data: str, preset: Preset, processes: int) -> Origin:
        """Without the values that may change when the run is continued."""
        return cls(base, data, preset.batch * preset.accumulation * processes, preset.fixed)

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """The first thing in which another differs, as expected and received."""
        ours = asdict(self)
        for name in ("base", "data", "update"):
            if ours[name] != other.get(name):
                return f"{name} {str(other.get(name))[:12]} is expected, received {str(ours[name])[:12]}"
        kept: Any = other.get("preset", {})
        usual = Preset().model_dump(mode="json")  # of values that an older version did not know
        for name, value in self.preset.items():
            if value != (expected := kept.get(name, usual[name])):
                return f"{name} {expected!r} is expected, received {value!r}"
        return None


@dataclass
class TrainedState:
    """The live tensors of a run, by the adapters' names; `average` is empty without averaging.

    random: uint8 [processes, n], torch's CPU and device states.
    """

    parameters: Mapping[str, Tensor]
    optimizers: Sequence[torch.optim.Optimizer]
    average: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Everything to be kept, on the CPU."""
        found = {f"weight.{name}": parameter for name, parameter in self.parameters.items()}
        found |= {f"average.{name}": value for name, value in self.average.items()}
        for name, state, moments in self.moments():
            found |= {f"{moment}.{name}": state[moment] for moment in moments}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def moments(self) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
        """Of each parameter its name, the state that its optimizer keeps of it, and what is in that."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        for optimizer in self.optimizers:
            kinds = MUON_MOMENTS if isinstance(optimizer, torch.optim.Muon) else ADAMW_MOMENTS
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    yield names[parameter], optimizer.state[parameter], kinds


def save_checkpoint(
    folder: Path, state: TrainedState, origin: Origin, step: int, random: Mapping[str, Tensor]
) -> Path:
    """Write the checkpoint of a step under another name, force it to the disk, and rename it.

    random: by name, uint8 [processes, n].
    Raises: CheckpointError when it cannot be written, on a full disk for example.
    """
    path = folder / NAME
    record = {"format": FORMAT, "step": step, "position": step * origin.update, "origin": asdict(origin)}
    tensors = state.tensors() | {f"random.{name}": value.cpu() for name, value in random.items()}
    # always the same name: a run that is killed again and again leaves one
    partial = path.with_name(f".{NAME}.part")
    try:
        save_file(tensors, partial, {"state": json.dumps(record)})
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be written: {first_line(error)}; the last one is left as it was: make room and continue"
        ) from error
    return path


def load_checkpoint(
    folder: Path, state: TrainedState, origin: Origin
) -> tuple[int, dict[str, Tensor]] | None:
    """Put a checkpoint into the live tensors; its step and random states. None where there is no checkpoint.

    Raises: CheckpointError when it is damaged, or of a run with another base, data or preset.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("state", "{}"))
            if "format" not in record and "losses" in record:
                raise CheckpointError(
                    f"{path} is of the miniature's trainer of version 0.1, which is gone: "
                    "give another folder with --run"
                )
            if record.get("format") != FORMAT:
                raise ValueError(f"format {FORMAT!r} is expected, received {record.get('format')!r}")
            if (difference := origin.difference(record["origin"])) is not None:
                raise CheckpointError(
                    f"{path} is of another run: {difference}; give the same again, or another folder with --run"
                )
            _restore(file, state)
            names = [name for name in file.keys() if name.startswith("random.")]  # noqa: SIM118 (no mapping)
            random = {name.removeprefix("random."): file.get_tensor(name) for name in names}
            return int(record["step"]), random
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"cannot continue from {path}: {' '.join(str(error).split())}; a whole checkpoint is expected: "
            "delete the file to start again"
        ) from error


def _restore(file: Any, state: TrainedState) -> None:
    # all is read and compared before anything is changed
    read: dict[str, Tensor] = {}
    expected = {f"weight.{n}": p.shape for n, p in state.parameters.items()}
    expected |= {f"average.{n}": a.shape for n, a in state.average.items()}
    for name, _, moments in state.moments():
        shape = state.parameters[name].shape
        expected |= {f"{m}.{name}": torch.Size([]) if m == SCALAR else shape for m in moments}
    for name, shape in expected.items():
        read[name] = file.get_tensor(name)
        if read[name].shape != shape:
            raise ValueError(f"{name} is {list(read[name].shape)}, expected {list(shape)}")
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(read[f"weight.{name}"])
        for name, kept, moments in state.moments():
            device = state.parameters[name].device
            kept.update({m: read[f"{m}.{name}"].to("cpu" if m == SCALAR else device) for m in moments})
        for name, value in state.average.items():
            value.copy_(read[f"average.{name}"])
