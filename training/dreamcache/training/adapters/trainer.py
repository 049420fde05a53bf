"""The training loop on one device or several, with accelerate: accumulate, check, step, average, keep.

The base is frozen, in bfloat16 where the preset says so; the adapters and their moments are float32. What an
update trains on depends on its number alone (`order.py`), so a run that was killed continues from its last
checkpoint to the weights it would have had: bit for bit on a CPU with as many threads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.models.bases.base import Base
from dreamcache.models.checkpoint import read_adapters, save_adapters
from dreamcache.models.errors import AdapterError
from dreamcache.runtime.progress import progress_bar
from dreamcache.training.adapters.checkpoints import (
    NAME,
    Origin,
    TrainedState,
    load_checkpoint,
    save_checkpoint,
)
from dreamcache.training.adapters.encoded import EncodedData
from dreamcache.training.adapters.logs import Logs, write_curve
from dreamcache.training.adapters.objective import AdapterLoss, first_not_finite, plain_products
from dreamcache.training.adapters.optimizers import make_optimizers
from dreamcache.training.adapters.order import Drawn, Order, Pass, Passes, SampleStream, held_out
from dreamcache.training.adapters.preset import Preset
from dreamcache.training.adapters.random_state import gather_random, restore_random
from dreamcache.training.adapters.validation import averaged, draw_validation_sheet, on_device, validate
from dreamcache.training.errors import DivergenceError

ADAPTERS = "adapters.safetensors"


@dataclass(frozen=True)
class ForwardPass:
    """What a pass was of, and its losses [n]."""

    data: EncodedData
    drawn: Drawn
    losses: Tensor


class Trainer:
    """A run in a folder: `checkpoint.safetensors`, `adapters.safetensors`, `log.jsonl`, sheets.

    pairs: samples with two subjects, of which every so many steps are.
    Raises: CheckpointError when the folder holds a damaged checkpoint or another run.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        base: Base,
        loss: AdapterLoss,
        data: EncodedData,
        preset: Preset,
        folder: Path,
        origin: Origin,
        pairs: EncodedData | None = None,
    ) -> None:
        self.accelerator, self.base, self.data, self.preset = accelerator, base, data, preset
        self.folder, self.origin = folder, origin
        parameters = dict(loss.conditioned.adapters.named_parameters())
        optimizers = make_optimizers(parameters, preset)
        self.loss = loss
        self.model, *self.optimizers = accelerator.prepare(loss, *optimizers)
        average = {} if preset.ema is None else {n: p.detach().clone() for n, p in parameters.items()}
        self.state = TrainedState(parameters, optimizers, average)
        train_rows, self.held_out = held_out(preset.seed, len(data), preset.validation)
        self.singles = SampleStream(data, self._order(data, train_rows))
        self.pairs = None if pairs is None else SampleStream(pairs, self._order(pairs, np.arange(len(pairs))))
        self.step = 0
        self.last: dict[str, float] = {}
        if (found := load_checkpoint(folder, self.state, origin)) is not None:
            self.step = found[0]
            restore_random(found[1], accelerator)

    def _order(self, data: EncodedData, rows: NDArray[np.int64]) -> Order:
        preset = self.preset
        return Order(
            preset.seed,
            rows,
            data.latent_shape,
            preset.variants,
            preset.caption_drop,
            int(self.base.scheduler.config.num_train_timesteps),
            data.subjects,
            self.origin.update if preset.stratified else 1,
        )

    def train(self) -> None:
        """Run the remaining steps; leaves the adapters beside the checkpoint.

        Raises: DivergenceError where a loss or gradient is not finite; the last checkpoint stays as it was.
        """
        main, preset = self.accelerator.is_main_process, self.preset
        logs = Logs(self.folder, self.step, preset.tensorboard) if main else None
        try:
            process, count = self.accelerator.process_index, self.accelerator.num_processes
            passes = Passes(self.singles, self.pairs, preset, process, count).after(self.step)
            with progress_bar("adapters", shown=main) as advance:
                while self.step < preset.steps:
                    started = time.perf_counter()
                    values = self._update(passes)
                    self.step += 1
                    advance(self.step, preset.steps, loss=values["loss"])
                    if logs is not None:
                        self._report(logs, values, time.perf_counter() - started)
                    if self._due(preset.checkpoint_every):
                        self._save()
            if main and self._steps_of_adapters() != self.step:
                self._save_adapters()  # the run was killed between the last checkpoint and the adapters
        finally:
            if logs is not None:
                logs.close()
        if main:
            write_curve(self.folder, preset, self.origin.update)
        self.accelerator.wait_for_everyone()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.preset.steps

    def _update(self, passes: Iterator[Pass]) -> dict[str, float]:
        """One step of the optimizer; loss and gradient norm over all its samples."""
        preset, accelerator = self.preset, self.accelerator
        rate = preset.rate(self.step)
        for group in (group for optimizer in self.state.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        total = torch.zeros((), device=accelerator.device)
        norm = math.nan
        done: list[ForwardPass] = []
        for of_two, drawn, samples in islice(passes, preset.accumulation):
            data = self.pairs.data if of_two and self.pairs is not None else self.data
            encoded = on_device(samples, accelerator.device)
            # the products are computed again on the way back: by the same kernel
            with accelerator.accumulate(self.model), plain_products(accelerator.device):
                losses = self.model(encoded, drawn)
                done.append(ForwardPass(data, drawn, losses.detach()))
                total += losses.detach().mean() / preset.accumulation
                accelerator.backward(losses.mean())
                if accelerator.sync_gradients:
                    total = accelerator.reduce(total, "mean")
                    self._check("loss", float(total), done)
                    norm = float(
                        accelerator.clip_grad_norm_(list(self.state.parameters.values()), preset.clip)
                    )
                    self._check("gradient norm", norm, done)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        if preset.ema is not None:
            decay = min(preset.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, value in self.state.average.items():
                    value.lerp_(self.state.parameters[name], 1 - decay)
        return {"loss": float(total), "gradient_norm": norm, "learning_rate": rate}

    def _check(self, what: str, value: float, passes: list[ForwardPass]) -> None:
        if math.isfinite(value):
            return
        kept = self.folder / NAME
        state = f"the last good checkpoint is {kept}" if kept.is_file() else "there is no checkpoint yet"
        raise DivergenceError(
            f"the {what} is {value} at step {self.step}{self._where(passes)}; {state}, and is left as it is"
        )

    def _where(self, passes: list[ForwardPass]) -> str:
        """The samples whose loss is not finite, and the first thing that explains it."""
        bad = [
            (one.data, one.drawn.rows[i], one.drawn.variants[i], int(one.drawn.timesteps[i]))
            for one in passes
            for i in range(len(one.losses))
            if not math.isfinite(float(one.losses[i]))
        ]
        named = f" (sample {bad[0][0].key(bad[0][1])}, timestep {bad[0][3]})" if bad else ""
        if (weight := first_not_finite(self.loss.conditioned.unet)) is not None:
            return f"{named}: the base's weight {weight} holds nan or inf: take another base"
        if any(
            not bool(t.isfinite().all()) for data, row, variant, _ in bad for t in data.take([row], [variant])
        ):
            return f"{named}: its encoded numbers are damaged: delete the cache of encoded samples"
        if (weight := first_not_finite(self.loss.conditioned.adapters)) is not None:
            return f"{named}: the adapters' weight {weight} holds nan or inf: lower the learning rate"
        return f"{named}: the numbers overflow: try --set precision=fp32 or a lower learning rate"

    def _report(self, logs: Logs, values: Mapping[str, float], seconds: float) -> None:
        """The log, validation and sheets of a step, all before its checkpoint: what is kept is told."""
        preset = self.preset
        line = dict(values) if self._due(preset.log_every) else {}
        if line:
            line["samples_per_second"] = round(self.origin.update / seconds, 3)
        with averaged(self.state.parameters, self.state.average), self.accelerator.autocast():
            if preset.validation and self._due(preset.validate_every):
                line |= validate(self.loss, self.data, self.held_out, preset.batch)
            if line:
                logs.write(self.step, line)
                self.last = line
            if (rows := self.held_out[: preset.sheet_rows]).size and self._due(preset.sheet_every):
                path = self.folder / f"sheet-{self.step:07d}.png"
                draw_validation_sheet(path, self.loss, self.base, self.data, rows, preset)
                logs.picture(self.step, path)

    def _save(self) -> None:
        """All processes take part, since each has its random state; the main one writes."""
        random = gather_random(self.accelerator)
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder, self.state, self.origin, self.step, random)
            self._save_adapters()

    def _steps_of_adapters(self) -> int | None:
        """Of the file beside the checkpoint; None where there is none that can be read."""
        try:
            _, about = read_adapters(self.folder / ADAPTERS)
        except AdapterError:
            return None
        return int(steps) if (steps := about.get("steps", "")).isdecimal() else None

    def _save_adapters(self) -> None:
        with averaged(self.state.parameters, self.state.average):
            about = {"steps": str(self.step), "preset": self.preset.model_dump_json()}
            if self.preset.recommend:
                about["guidance"] = json.dumps(self._recommended())
            save_adapters(self.folder / ADAPTERS, self.loss.conditioned, about, base=self.origin.base)

    def _recommended(self) -> dict[str, Any]:
        """What export writes into a bundle as its usual guidance."""
        preset = self.preset
        return {
            "mode": preset.guidance_mode,
            "guidance_scale": preset.guidance,
            "reference_guidance_scale": preset.reference_guidance,
            "steps": preset.sheet_steps,
        }
