"""The gates as arithmetic: what a finding may be before an export is refused (docs/concepts/method.md, "Gates")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.parity import (
    CONDITION_TOLERANCE,
    DISK_GRANT_BYTES,
    MAX_DISK_RATIO,
    MIN_INT8_LATENT_DB,
    MIN_PSNR_DB,
)


class Finding(TypedDict):
    """What was compared at one point of a trajectory; sizes are Euclidean norms of predictions.

    psnr: worst dB of any branch. error: worst distance from PyTorch. torch_reference, onnx_reference:
    size of what the reference changes; torch_text, onnx_text: of what the text changes. stock_psnr: dB of
    strength 0 against the stock base. stock_leak: largest change at strength 0 when the cache is swapped.
    zeroed, swapped: size of the change at strength 1 when the cache is replaced so.
    """

    psnr: float
    error: float
    torch_reference: float
    onnx_reference: float
    torch_text: float
    onnx_text: float
    stock_psnr: float
    stock_leak: float
    zeroed: float
    swapped: float


def check_psnr(
    name: str,
    db: float,
    least_db: float = MIN_PSNR_DB,
    remedy: str = "try --attention plain, and report the base that fails",
) -> None:
    """Raises: ExportError when a graph is further from PyTorch than its precision explains."""
    if db < least_db:
        raise ExportError(
            f"graph {name} is {db:.1f} dB from PyTorch, at least {least_db:g} dB is expected; {remedy}"
        )


def check_final_latent(db: float) -> None:
    """Raises: ExportError when a quantised denoiser ends elsewhere than PyTorch."""
    if db < MIN_INT8_LATENT_DB:
        raise ExportError(
            f"the final latent in 8 bits is {db:.1f} dB from PyTorch's, at least {MIN_INT8_LATENT_DB:g} dB is "
            "expected; export with --precision fp32, and report the base"
        )


def check_disk(both: int, alone: int) -> None:
    """Raises: ExportError when the two graphs do not share their weights."""
    if both > MAX_DISK_RATIO * alone + DISK_GRANT_BYTES:
        raise ExportError(
            f"the two UNet graphs take {both / alone:.3f} times the denoiser, at most {MAX_DISK_RATIO} is "
            "expected; their weights are not shared"
        )


def condition_ratios(findings: Sequence[Finding]) -> dict[str, float]:
    """The effects of reference and text in the export over those in PyTorch.

    Raises:
        ExportError: one is nothing in PyTorch itself.
    """
    ratios = {}
    sizes = {
        "reference": [(finding["torch_reference"], finding["onnx_reference"]) for finding in findings],
        "text": [(finding["torch_text"], finding["onnx_text"]) for finding in findings],
    }
    for name, pairs in sizes.items():
        torch_size = sum(pair[0] for pair in pairs)
        if torch_size < 1e-6:
            raise ExportError(
                f"the {name} changes nothing in PyTorch itself, so the export cannot be judged; "
                "give adapters that were trained"
            )
        ratios[name] = sum(pair[1] for pair in pairs) / torch_size
    return ratios


def check_condition(findings: Sequence[Finding], mend: str = "try --attention plain") -> dict[str, float]:
    """As `condition_ratios`; `mend` is what to try where it fails.

    Raises:
        ExportError: one is off by more than `CONDITION_TOLERANCE`, or nothing in PyTorch itself.
    """
    ratios = condition_ratios(findings)
    for name, ratio in ratios.items():
        if abs(ratio - 1.0) > CONDITION_TOLERANCE:
            raise ExportError(
                f"the effect of the {name} is {ratio:.3f} times PyTorch's, expected within "
                f"{CONDITION_TOLERANCE:.0%} of it; {mend}"
            )
    return ratios


def check_sensitivity(
    findings: Sequence[Finding], least_db: float = MIN_PSNR_DB, times_error: float = 10.0
) -> None:
    """The cache counts at strength 1 and not at all at strength 0.

    Args:
        findings: of every point.
        least_db: how close strength 0 must be to the stock base.
        times_error: how far above the distance from PyTorch a replaced cache must move the prediction.

    Raises:
        ExportError: a replaced cache moves the prediction no more than rounding does, or strength 0 is not
            the stock base.
    """
    error = sum(finding["error"] for finding in findings)
    moves = {
        "zeroed": sum(finding["zeroed"] for finding in findings),
        "swapped": sum(finding["swapped"] for finding in findings),
    }
    for change, moved in moves.items():
        if moved <= times_error * error:
            raise ExportError(
                f"a {change} cache moves the prediction by {moved:.2e} only, where {error:.2e} is lost to rounding; "
                "the reference is not read"
            )
    stock = min(finding["stock_psnr"] for finding in findings)
    check_psnr("denoiser at strength 0 (against the stock base)", stock, least_db)
    leak = max(finding["stock_leak"] for finding in findings)
    if leak != 0.0:
        raise ExportError(
            f"at strength 0 the cache still moves the prediction by {leak:.2e}, expected exactly 0"
        )
