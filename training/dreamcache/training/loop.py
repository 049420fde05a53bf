"""The training loop that the three stages share: AdamW on fp32 master weights, EMA, checkpoints, loss curve.

The parameters that are trained may be bfloat16: the loop keeps an fp32 copy of each, updates that and rounds it
back, which on CPUs without fast fp32 convolutions halves a step. A checkpoint holds all that the next step depends
on (master weights, both moments, EMA, losses so far); batches are drawn from generators seeded by (seed, step), so
a run that was killed continues to the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamcache.training.console import stderr
from dreamcache.training.plots import plot_losses


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn. `ema` is the decay a step of the averaged weights."""

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

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine down to `final_rate` of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (
            self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
        )


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step, whatever happened before it."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


class Run:
    """A directory with the state of one training stage: checkpoint, loss curve, sheets."""

    def __init__(self, directory: Path, parameters: Mapping[str, nn.Parameter], schedule: Schedule) -> None:
        self.directory = directory
        self.schedule = schedule
        self.parameters = dict(parameters)
        self.masters = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        self.average = {name: m.clone() for name, m in self.masters.items()}
        self.optimizer = torch.optim.AdamW(
            list(self.masters.values()), lr=schedule.learning_rate, betas=(0.9, 0.99),
            weight_decay=schedule.weight_decay, fused=True,
        )  # fmt: skip
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
        with safe_open(self.checkpoint, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            for name, master in self.masters.items():
                master.copy_(file.get_tensor(f"master.{name}"))
                self.average[name].copy_(file.get_tensor(f"average.{name}"))
                self.optimizer.state[master] = {
                    "step": torch.tensor(float(state["step"])),
                    "exp_avg": file.get_tensor(f"exp_avg.{name}").to(master.device),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}").to(master.device),
                }
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self._round_back()

    def save(self) -> None:
        """Write the checkpoint beside its place and rename it in; redraw the loss curve."""
        tensors = {}
        for name, master in self.masters.items():
            moments = self.optimizer.state[master]
            tensors[f"master.{name}"] = master
            tensors[f"average.{name}"] = self.average[name]
            tensors[f"exp_avg.{name}"] = moments["exp_avg"]
            tensors[f"exp_avg_sq.{name}"] = moments["exp_avg_sq"]
        state = {"step": self.step, "seconds": self.seconds, "losses": self.losses}
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"state": json.dumps(state)})
        partial.replace(self.checkpoint)
        record = {
            "schedule": asdict(self.schedule),
            "steps": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        (self.directory / "losses.json").write_text(json.dumps(record) + "\n")
        plot_losses(self.losses, self.directory / "losses.png", self.directory.name)

    def _round_back(self) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.masters[name])

    def load_average(self) -> None:
        """Put the averaged weights into the parameters, for sampling and shipping."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])

    def train(
        self, loss: Callable[[int], Tensor], sheet: Callable[[Path], None] | None = None, sheet_every: int = 0
    ) -> None:
        """Run the remaining steps; `loss(step)` returns the scalar to descend, `sheet(path)` draws samples.

        Raises FloatingPointError where the loss stops being finite; the last checkpoint stays as it was.
        """
        schedule = self.schedule
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                   TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.4f}"))  # fmt: skip
        with Progress(*columns, console=stderr) as progress:
            bar = progress.add_task(
                self.directory.name, total=schedule.steps, completed=self.step, loss=float("nan")
            )
            while self.step < schedule.steps:
                started = time.perf_counter()
                value = self._descend(loss)
                self.seconds += time.perf_counter() - started
                self.losses.append(round(value, 6))
                self.step += 1
                progress.update(bar, completed=self.step, loss=value)
                if self.step % schedule.checkpoint_every == 0 or self.step == schedule.steps:
                    self.save()
                if sheet is not None and sheet_every and self.step % sheet_every == 0:
                    self.load_average()
                    sheet(self.directory / f"sheet-{self.step:06d}.png")
                    self._round_back()
        self.load_average()

    def _descend(self, loss: Callable[[int], Tensor]) -> float:
        result = loss(self.step)
        value = float(result.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"loss is {value} at step {self.step}; the last checkpoint is {self.checkpoint}"
            )
        result.backward()
        for name, parameter in self.parameters.items():
            gradient, parameter.grad = parameter.grad, None
            self.masters[name].grad = None if gradient is None else gradient.float()
        masters = list(self.masters.values())
        nn.utils.clip_grad_norm_(masters, self.schedule.clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.optimizer.step()
        self._round_back()
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), masters, 1 - decay)
        return value
