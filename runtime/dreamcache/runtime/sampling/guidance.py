"""Guidance as arithmetic over predictions (docs/concepts/bundle.md, "Guidance").

A mode says which (text, strength) pairs the denoiser has to predict, and how they combine. Strength 0 is
the stock model, so ε(∅, ∅) needs no second graph. Noise and v predictions combine alike: both are affine
in each other at a given latent and timestep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import GuidanceMode
from dreamcache.runtime.bundle.sampling import MAX_SCALE
from dreamcache.runtime.errors import SettingsError

MODES: tuple[GuidanceMode, ...] = get_args(GuidanceMode)


@dataclass(frozen=True)
class Branch:
    """One prediction that guidance needs: which text, and how much of the reference."""

    text: Literal["prompt", "null"]
    strength: float


@dataclass(frozen=True)
class Guidance:
    """A mode with its scales.

    guidance_scale: s_text. reference_guidance_scale: s_ref, of the modes with three predictions. strength: the
    denoiser's `reference_strength` where the reference is on. interval: from where to where in the steps,
    as fractions of them, there is guidance; elsewhere one prediction, of the prompt with the reference, is
    taken as it is (Kynkäänniemi et al. 2024, arXiv 2404.07724).
    """

    mode: GuidanceMode
    guidance_scale: float
    reference_guidance_scale: float
    strength: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(
                f"guidance mode: one of {', '.join(MODES)} is expected, received {self.mode!r}"
            )
        for name in ("guidance_scale", "reference_guidance_scale", "strength"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_SCALE:  # no comparison accepts NaN
                raise SettingsError(f"{name}: a number from 0 to {MAX_SCALE:g} is expected, received {value}")
        start, end = self.interval
        if not 0 <= start <= end <= 1:
            raise SettingsError(
                "guidance interval: two fractions of the steps, 0 to 1 and rising, are expected, "
                f"received {start:g} {end:g}"
            )

    def branches(self, has_reference: bool) -> tuple[Branch, ...]:
        """The predictions to make, in the order in which `combine` takes them.

        Without a reference every strength is 0, and three predictions become classifier-free guidance on the text.
        """
        strength = self.strength if has_reference else 0.0
        if self.mode == "none":
            return (Branch("prompt", strength),)
        if self.mode == "classic" or not has_reference:
            return (Branch("null", strength), Branch("prompt", strength))
        middle = Branch("prompt", 0.0) if self.mode == "text_first" else Branch("null", strength)
        return (Branch("null", 0.0), middle, Branch("prompt", strength))

    def branches_at(self, step: int, steps: int, has_reference: bool) -> tuple[Branch, ...]:
        """`branches` where the middle of the step lies in the interval, else one prediction."""
        start, end = self.interval
        if start <= (step + 0.5) / steps <= end:
            return self.branches(has_reference)
        return (Branch("prompt", self.strength if has_reference else 0.0),)

    def combine(self, predictions: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Combine predictions of equal shape, one per branch.

        One: itself. Two: p∅ + s_text·(p_text - p∅). Three, with the reference r and without it, in "dual":
        p(∅,∅) + s_text·(p(text,r) - p(∅,r)) + s_ref·(p(∅,r) - p(∅,∅)), in "text_first":
        p(∅,∅) + s_text·(p(text,∅) - p(∅,∅)) + s_ref·(p(text,r) - p(text,∅)).
        """
        text_scale = np.float32(self.guidance_scale)
        if len(predictions) == 1:
            return predictions[0]
        if len(predictions) == 2:
            null, text = predictions
            return null + text_scale * (text - null)
        stock, middle, both = predictions
        last, first = text_scale, np.float32(self.reference_guidance_scale)
        if self.mode == "text_first":
            first, last = last, first
        combined: NDArray[np.float32] = stock + last * (both - middle) + first * (middle - stock)
        return combined
