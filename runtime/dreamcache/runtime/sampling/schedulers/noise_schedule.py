"""Noise schedules: how much signal is left at each training timestep, and which timesteps are visited.

Variance-preserving notation of DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 4):
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with abar_t the running product of 1 - beta_t.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.errors import SettingsError

Spacing = Literal["leading", "trailing", "linspace"]

# Samplers that divide by the signal level use this one where it is really zero: the smallest
# positive number of half precision, as in diffusers.
_SMALLEST_SIGNAL = 2.0**-24
_LARGEST_COSINE_BETA = 0.999


def betas(config: SchedulerSpec) -> NDArray[np.float32]:
    """Variance added at each training timestep: [num_train_timesteps].

    linear: DDPM, section 4. scaled_linear: the square of a straight line, latent diffusion models.
    squaredcos_cap_v2: Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17. Kept in single precision,
    because the bases were trained with these rounded values.
    """
    count = config.num_train_timesteps
    if config.beta_schedule == "linear":
        values = np.linspace(config.beta_start, config.beta_end, count, dtype=np.float32)
    elif config.beta_schedule == "scaled_linear":
        root = np.linspace(math.sqrt(config.beta_start), math.sqrt(config.beta_end), count, dtype=np.float32)
        values = root**2
    else:
        edges = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        values = np.minimum(1 - edges[1:] / edges[:-1], _LARGEST_COSINE_BETA).astype(np.float32)
    return rescaled_to_zero_terminal_snr(values) if config.rescale_betas_zero_snr else values


def rescaled_to_zero_terminal_snr(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Betas stretched so that the last timestep holds no signal at all: [num_train_timesteps].

    Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed" (arXiv 2305.08891),
    algorithm 1.
    """
    root = np.sqrt(_running_product(values))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    signal = root**2
    kept = np.concatenate([signal[:1], signal[1:] / signal[:-1]])
    return np.asarray(1 - kept, dtype=np.float32)


def signal_levels(config: SchedulerSpec, *, never_zero: bool = False) -> NDArray[np.float64]:
    """abar_t for each training timestep: [num_train_timesteps], falling from near 1 towards 0.

    never_zero: lift the last level of a zero-terminal-SNR schedule off zero (Euler and DPM-Solver work
    with sqrt(1 - abar) / sqrt(abar)).
    """
    levels = _running_product(betas(config)).astype(np.float64)
    if never_zero and config.rescale_betas_zero_snr:
        levels[-1] = _SMALLEST_SIGNAL
    return levels


def _running_product(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # Accumulated in double precision and rounded once, as PyTorch's cumprod does.
    kept = (np.float32(1) - values).astype(np.float64)
    return np.cumprod(kept).astype(np.float32)


def spaced_timesteps(spacing: Spacing, train_timesteps: int, steps: int, offset: int) -> NDArray[np.float64]:
    """The visited timesteps, noisiest first, not yet rounded for "linspace": [steps].

    Lin et al. 2023, table 2. offset applies to "leading" alone.
    """
    if spacing == "linspace":
        # With one step this is timestep 0, as in diffusers: "trailing" is the choice for so few.
        return np.linspace(0, train_timesteps - 1, steps)[::-1]
    if spacing == "leading":
        return np.arange(steps, dtype=np.float64)[::-1] * (train_timesteps // steps) + offset
    # Counting the steps keeps their number exact where a floating-point range may gain one at its end.
    return np.round(train_timesteps - np.arange(steps) * (train_timesteps / steps)) - 1


def visited(timesteps: NDArray[np.float64], train_timesteps: int, spacing: str) -> NDArray[np.float64]:
    """The timesteps unchanged when a sampler can visit them: distinct, falling, inside the training range.

    Raises: SettingsError when there are too many for the spacing.
    """
    falling = bool(np.all(np.diff(timesteps) < 0))
    if falling and timesteps[0] <= train_timesteps - 1 and timesteps[-1] >= 0:
        return timesteps
    raise SettingsError(
        f"steps: fewer distinct timesteps below {train_timesteps} exist with {spacing} spacing than the "
        f"{len(timesteps)} steps received; ask for fewer steps"
    )
