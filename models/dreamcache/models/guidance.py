"""Guidance: which predictions a step needs, and how they become one (paper, section 3.4).

`dual` is the authors' formula,

    e(null, no ref) + s_text · (e(text, ref) - e(null, ref)) + s_ref · (e(null, ref) - e(null, no ref))

three predictions a step. `text_first` is ours: it turns the text on before the reference,

    e(null, no ref) + s_text · (e(text, no ref) - e(null, no ref)) + s_ref · (e(text, ref) - e(text, no ref))

so that what the reference adds is asked of a model that knows what it is drawing. `classic` keeps the reference on in
both of its two; `none` is one prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor

GuidanceMode = Literal["dual", "text_first", "classic", "none"]


class Conditions(NamedTuple):
    """One prediction of a step: does it see the prompt (else the null text), does it see the reference?"""

    text: bool
    reference: bool


BRANCHES: dict[GuidanceMode, tuple[Conditions, ...]] = {
    "dual": (Conditions(False, False), Conditions(False, True), Conditions(True, True)),
    "text_first": (Conditions(False, False), Conditions(True, False), Conditions(True, True)),
    "classic": (Conditions(False, True), Conditions(True, True)),
    "none": (Conditions(True, True),),
}


def combine(
    mode: GuidanceMode, predictions: Sequence[Tensor], guidance_scale: float, reference_guidance_scale: float
) -> Tensor:
    """Join the predictions of one step.

    Args:
        mode: see the module's text.
        predictions: one [b, z, h, w] for each of ``BRANCHES[mode]``, in that order.
        guidance_scale: s_text; not used by `none`.
        reference_guidance_scale: s_ref; used by `dual` and `text_first`.

    Raises:
        ValueError: unknown mode, or another number of predictions than the mode needs.
    """
    if mode not in BRANCHES:
        raise ValueError(f"guidance mode is {mode!r}; choose one of {', '.join(get_args(GuidanceMode))}")
    if len(predictions) != len(BRANCHES[mode]):
        raise ValueError(
            f"{mode} guidance takes {len(BRANCHES[mode])} predictions, received {len(predictions)}"
        )
    if mode == "none":
        return predictions[0]
    first, *middle, last = predictions
    if mode == "classic":
        return first + guidance_scale * (last - first)
    between = middle[0]
    if mode == "dual":
        return first + guidance_scale * (last - between) + reference_guidance_scale * (between - first)
    return first + guidance_scale * (between - first) + reference_guidance_scale * (last - between)
