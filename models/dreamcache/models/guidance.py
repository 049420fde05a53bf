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


class Branch(NamedTuple):
    """One prediction of a step: does it see the prompt (else the null text), does it see the reference?"""

    text: bool
    reference: bool


BRANCHES: dict[GuidanceMode, tuple[Branch, ...]] = {
    "dual": (Branch(False, False), Branch(False, True), Branch(True, True)),
    "text_first": (Branch(False, False), Branch(True, False), Branch(True, True)),
    "classic": (Branch(False, True), Branch(True, True)),
    "none": (Branch(True, True),),
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
    if mode == "dual":
        return dual(predictions[0], predictions[1], predictions[2], guidance_scale, reference_guidance_scale)
    if mode == "text_first":
        return text_first(
            predictions[0], predictions[1], predictions[2], guidance_scale, reference_guidance_scale
        )
    if mode == "classic":
        return classic(predictions[0], predictions[1], guidance_scale)
    return predictions[0]


def dual(
    null: Tensor,
    null_reference: Tensor,
    text_reference: Tensor,
    guidance_scale: float,
    reference_scale: float,
) -> Tensor:
    """The authors' guidance, from e(null, no ref), e(null, ref) and e(text, ref): [b, z, h, w] each."""
    return (
        null + guidance_scale * (text_reference - null_reference) + reference_scale * (null_reference - null)
    )


def text_first(
    null: Tensor, text: Tensor, text_reference: Tensor, guidance_scale: float, reference_scale: float
) -> Tensor:
    """The text before the reference, from e(null, no ref), e(text, no ref) and e(text, ref): [b, z, h, w] each."""
    return null + guidance_scale * (text - null) + reference_scale * (text_reference - text)


def classic(null_reference: Tensor, text_reference: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance on the text, the reference on in both: [b, z, h, w] each."""
    return null_reference + guidance_scale * (text_reference - null_reference)
