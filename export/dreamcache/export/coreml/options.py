"""How a bundle's Core ML side is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from dreamcache.export.errors import ExportError, refuse_unknown

Target = Literal["iOS16", "iOS17", "iOS18"]
TARGETS: tuple[Target, ...] = ("iOS16", "iOS17", "iOS18")
Attention = Literal["plain", "split_einsum"]
ATTENTIONS: tuple[Attention, ...] = ("plain", "split_einsum")
WeightFormat = Literal["fp16", "int8", "palette6", "palette4"]
FORMATS: tuple[WeightFormat, ...] = ("fp16", "int8", "palette6", "palette4")
"""Of a weight, from the most bits to the fewest."""
Weights = Literal["fp16", "int8", "palette6", "palette4", "mixed"]
WEIGHTS: tuple[Weights, ...] = (*FORMATS, "mixed")


@dataclass(frozen=True)
class Choices:
    """How the packages are made.

    Attributes:
        target: the oldest system; functions that share weights need iOS 18, older ones get a package for each.
        attention: ``plain`` for CPU and GPU, ``split_einsum`` for the Neural Engine.
        weights: how the UNet's weights are stored; ``mixed`` finds a format for each.
        least_db: of the denoiser, for ``mixed``.
        most_mb: of the denoiser's weights, for ``mixed``; `least_db` counts where both are given.
        chunked: cut the UNet in two packages.
        resolutions: further squares, in pixels, that the packages take.
    """

    target: Target = "iOS18"
    attention: Attention = "plain"
    weights: Weights = "fp16"
    least_db: float | None = None
    most_mb: float | None = None
    chunked: bool = False
    resolutions: tuple[int, ...] = ()

    @property
    def shares(self) -> bool:
        """Whether one package has several functions on one copy of the weights."""
        return self.target == "iOS18"

    @property
    def default_format(self) -> WeightFormat:
        """Of a weight that has none of its own: with ``mixed`` those that the caching graph alone has."""
        return "int8" if self.weights == "mixed" else self.weights

    def check(self) -> None:
        """Whether the choices go together.

        Raises:
            ExportError: one that asks for what the target lacks, or a bound without a recipe to find.
        """
        if self.weights != "fp16" and self.target == "iOS16":
            raise ExportError(
                "--coreml-weights: compressed weights are written for iOS17 and later; choose such a target"
            )
        if self.weights != "mixed" and (self.least_db is not None or self.most_mb is not None):
            raise ExportError("--coreml-psnr and --coreml-size belong to --coreml-weights mixed")
        if self.weights == "mixed" and (self.least_db is None) == (self.most_mb is None):
            raise ExportError(
                "--coreml-weights mixed: exactly one of --coreml-psnr and --coreml-size is expected"
            )


def chosen(
    target: str,
    attention: str,
    weights: str,
    *,
    least_db: float | None = None,
    most_mb: float | None = None,
    chunked: bool = False,
    resolutions: tuple[int, ...] = (),
) -> Choices:
    """What a command line asks for, checked.

    Raises:
        ExportError: an unknown word, or choices that do not go together.
    """
    refuse_unknown("--coreml-target", target, TARGETS)
    refuse_unknown("--coreml-attention", attention, ATTENTIONS)
    refuse_unknown("--coreml-weights", weights, WEIGHTS)
    choices = Choices(
        cast(Target, target),
        cast(Attention, attention),
        cast(Weights, weights),
        least_db,
        most_mb,
        chunked,
        resolutions,
    )
    choices.check()
    return choices
