"""What a run tells: log.jsonl, one JSON object a line, the same numbers for TensorBoard, and at its end the loss curve.

A continued run drops the lines after its checkpoint, so each step stands in the log once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.files import replacing
from dreamcache.training.adapters.preset import Preset
from dreamcache.training.device import hardware
from dreamcache.training.miniature.plots import plot_losses

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; what a killed process left of one is skipped."""
    path = folder / LOG
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class Logs:
    """The open logs of a run. `step`: where it continues; later lines are dropped.

    Raises: SettingsError when TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self._board = _open_board(folder / TENSORBOARD, step) if tensorboard else None
        kept = [line for line in read_log(folder) if line.get("step", math.inf) <= step]
        partial = folder / f".{LOG}.part"
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(folder / LOG)
        self._file = (folder / LOG).open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line, there at once."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def picture(self, step: int, path: Path) -> None:
        """A sheet, for TensorBoard alone."""
        if self._board is not None:
            import numpy as np

            with Image.open(path) as sheet:
                self._board.add_image("sheet", np.asarray(sheet.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Finish both."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def write_curve(folder: Path, preset: Preset, samples: int) -> None:
    """losses.json and losses.png of a log: every loss in it, and the seconds of all steps.

    samples: of a step.
    """
    lines = [line for line in read_log(folder) if "loss" in line]
    record = {
        "schedule": preset.model_dump(mode="json"),
        "steps": lines[-1]["step"] if lines else 0,
        "seconds": sum(preset.log_every * samples / line["samples_per_second"] for line in lines),
        "losses": [round(line["loss"], 6) for line in lines],
        "hardware": hardware(),
    }
    with replacing(folder / "losses.json", overwrite=True) as beside:
        beside.write_text(json.dumps(record) + "\n", encoding="utf-8")
    title = "adapters" if preset.log_every == 1 else f"adapters, one step of {preset.log_every}"
    plot_losses(record["losses"], folder / "losses.png", title)


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            "tensorboard is expected, which is not installed; install it with: pip install tensorboard, or go "
            "without: --set tensorboard=false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
