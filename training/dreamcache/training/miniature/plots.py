"""Pictures of training: loss curves and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image


def plot_losses(losses: Sequence[float], path: Path, title: str) -> None:
    """The loss of every step, thin, and its running mean over 2 % of the run, bold."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, linewidth=0.4, alpha=0.4, color="tab:blue")
    window = max(1, len(losses) // 50)
    if len(losses) >= window:
        mean = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], mean, color="tab:blue", label=f"mean of {window} steps")
        axes.legend()
    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)


def save_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], path: Path, zoom: int = 2) -> None:
    """Pictures uint8 [h, w, 3] as a grid, enlarged without smoothing."""
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    image = Image.fromarray(grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)
