"""The training loop that the stages share: AdamW or Muon on fp32 master weights, EMA, checkpoints, loss curve.

The parameters that are trained may be bfloat16: the loop keeps an fp32 copy of each, updates that and rounds it
back, which on CPUs with instructions for bfloat16 halves a step. A checkpoint holds all that the next step depends
on (master weights, both moments, EMA, losses so far); batches are drawn from generators seeded by (seed, step), so
a run that was killed continues to the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamcache.runtime.progress import progress_bar
from dreamcache.training.device import hardware, training_dtype
from dreamcache.training.errors import CheckpointError
from dreamcache.training.miniature.muon import Muon
from dreamcache.training.miniature.plots import plot_losses

MUON_SMALLEST = 16

Loss = Callable[[int], Tensor | Iterator[Tensor]]
"""Of a step; parts that are yielded one after another need the memory of one."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    `ema` is the decay a step of the averaged weights; `muon` orthogonalises the updates of hidden matrices (Jordan
    et al. 2024, with the scale of Liu et al. 2025, so that AdamW's learning rates apply). `cooldown`: None lets the
    rate fall by half a cosine; a share keeps it constant and lets it fall over that share of the steps, at the end
    (Hägele et al. 2024, arXiv 2405.18392): such a run continues with more steps as if they had been planned.
    `compiled`: the UNet's transformer blocks, which costs half a minute at the first start. `parts`: of a
    batch, computed one after another: the optimizer's time is shared by a larger batch.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    final_rate: float = 0.02
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 250
    muon: bool = False
    cooldown: float | None = None
    compiled: bool = False
    parts: int = 1

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then down to `final_rate` of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.cooldown is None:
            progress = (step - self.warmup) / max(1, self.steps - self.warmup)
            share = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
            share = 1 - math.sqrt(1 - min(1.0, left))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * share)


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step, whatever happened before it."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def _make_optimizers(masters: Mapping[str, Tensor], schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices where the schedule asks for it, AdamW for everything else."""
    hidden = [
        name
        for name, master in masters.items()
        if schedule.muon
        and master.ndim == 2
        and min(master.shape) >= MUON_SMALLEST
        and "embedding" not in name
    ]
    decay = schedule.weight_decay
    others = [master for name, master in masters.items() if name not in set(hidden)]
    adamw = torch.optim.AdamW(
        others, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=decay, fused=True
    )
    if not hidden:
        return [adamw]
    matrices = [masters[name] for name in hidden]
    return [
        adamw,
        Muon(
            matrices, lr=schedule.learning_rate, weight_decay=decay, dtype=training_dtype(matrices[0].device)
        ),
    ]


class Run:
    """A directory with the state of one training stage: checkpoint, loss curve, sheets."""

    def __init__(self, directory: Path, parameters: Mapping[str, nn.Parameter], schedule: Schedule) -> None:
        self.directory = directory
        self.schedule = schedule
        self.parameters = dict(parameters)
        # as matrices [out, in]: a convolution's kernel is one row for each output channel
        self.masters = {
            name: (p.flatten(1) if p.ndim > 2 else p).detach().float().clone()
            for name, p in self.parameters.items()
        }
        self.average = {name: m.clone() for name, m in self.masters.items()}
        self.optimizers = _make_optimizers(self.masters, schedule)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        """Where the state lies."""
        return self.directory / "checkpoint.safetensors"

    def _load(self) -> None:
        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                self._restore(file)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"cannot continue from {self.checkpoint}: {error}; "
                "expected the whole state of this stage: delete the file to start the stage again"
            ) from error

    def _restore(self, file: Any) -> None:
        state = json.loads(file.metadata()["state"])
        stored = set(file.keys())
        for name, master in self.masters.items():
            for kind, ours in (("master", master), ("average", self.average[name])):
                kept = file.get_tensor(f"{kind}.{name}")
                if kept.shape != ours.shape:
                    raise ValueError(f"{kind}.{name} is {list(kept.shape)}, expected {list(ours.shape)}")
                ours.copy_(kept)
        for optimizer, name, master in self._optimized():
            for moment in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
                if f"{moment}.{name}" in stored:
                    optimizer.state[master][moment] = file.get_tensor(f"{moment}.{name}").to(master.device)
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self._round_back()

    def save(self) -> None:
        """Redraw the loss curve, then write the checkpoint beside its place and rename it in.

        In this order a run that is killed in between continues from the older checkpoint and writes both again.
        """
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        tensors |= {f"average.{name}": average for name, average in self.average.items()}
        for optimizer, name, master in self._optimized():
            tensors |= {f"{moment}.{name}": value for moment, value in optimizer.state[master].items()}
        state = {"step": self.step, "seconds": self.seconds, "losses": self.losses}
        self.directory.mkdir(parents=True, exist_ok=True)
        record = {
            "schedule": asdict(self.schedule),
            "steps": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "hardware": hardware(),
        }
        (self.directory / "losses.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
        plot_losses(self.losses, self.directory / "losses.png", self.directory.name)
        partial = self.checkpoint.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"state": json.dumps(state)})
        partial.replace(self.checkpoint)

    def _optimized(self) -> Iterator[tuple[torch.optim.Optimizer, str, Tensor]]:
        """Each master weight with its name and the optimizer that updates it."""
        names = {id(master): name for name, master in self.masters.items()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for master in group["params"]:
                    yield optimizer, names[id(master)], master

    def _round_back(self) -> None:
        with torch.no_grad():
            masters = [self.masters[name].view_as(parameter) for name, parameter in self.parameters.items()]
            torch._foreach_copy_(list(self.parameters.values()), masters)

    def load_average(self) -> None:
        """Put the averaged weights into the parameters, for sampling and shipping."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name].view_as(parameter))

    def train(self, loss: Loss, sheet: Callable[[Path], None] | None = None, sheet_every: int = 0) -> None:
        """Run the remaining steps; `loss(step)` returns the scalar to descend or yields those whose sum it is.

        `sheet(path)` draws samples.

        Raises FloatingPointError where the loss or its gradient stops being finite; the last checkpoint stays as
        it was.
        """
        schedule = self.schedule
        with progress_bar(self.directory.name) as advance:
            while self.step < schedule.steps:
                started = time.perf_counter()
                value = self._descend(loss)
                self.seconds += time.perf_counter() - started
                self.losses.append(round(value, 6))
                self.step += 1
                advance(self.step, schedule.steps, loss=value)
                if self.step % schedule.checkpoint_every == 0 or self.step == schedule.steps:
                    self.save()
                if sheet is not None and sheet_every and self.step % sheet_every == 0:
                    self.load_average()
                    sheet(self.directory / f"sheet-{self.step:06d}.png")
                    self._round_back()
        self.load_average()

    def _descend(self, loss: Loss) -> float:
        value = 0.0
        result = loss(self.step)
        for part in [result] if isinstance(result, Tensor) else result:
            value += float(part.detach())
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"loss is {value} at step {self.step}; the last checkpoint is {self.checkpoint}"
                )
            torch.autograd.backward(part)
        for name, parameter in self.parameters.items():
            gradient, parameter.grad = parameter.grad, None
            master = self.masters[name]
            master.grad = None if gradient is None else gradient.float().view_as(master)
        masters = list(self.masters.values())
        norm = float(nn.utils.clip_grad_norm_(masters, self.schedule.clip, foreach=True))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm is {norm} at step {self.step}; the last checkpoint is {self.checkpoint}"
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.rate(self.step)
            optimizer.step()
        self._round_back()
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), masters, 1 - decay)
        return value
