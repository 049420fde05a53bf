"""The gate without which no speed is reported: what the exporter measured against PyTorch.

docs/concepts/method.md, "Gates", has the bounds.
"""

from __future__ import annotations

from dreamcache.benchmarks.record import Fidelity
from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, MIN_PSNR_DB_BY_PRECISION
from dreamcache.runtime.errors import BundleError


def check_fidelity(contract: Contract) -> Fidelity:
    """The gate of one bundle, passed or not.

    Raises: BundleError when the parity report lacks a figure, so that nothing can be said of what a speed is worth.
    """
    parity = contract.parity
    for kind, figures, names in (
        ("psnr_db", parity.psnr_db, ("denoiser", "cache")),
        ("condition", parity.condition, ("reference", "text")),
    ):
        missing = [name for name in names if name not in figures]
        if missing:
            raise BundleError(
                f"no speed without its fidelity: the parity report has no {kind} of {' and '.join(missing)}; "
                "export the bundle again"
            )
    problems = [
        f"{name} {parity.psnr_db[name]:.0f} dB, at least {least:.0f} expected"
        for least in [MIN_PSNR_DB_BY_PRECISION.get(contract.precision)]
        if least is not None
        for name in ("denoiser", "cache")
        if parity.psnr_db[name] < least
    ]
    problems += [
        f"condition on the {name} at {parity.condition[name]:.3f} of PyTorch's"
        for name in ("reference", "text")
        if abs(parity.condition[name] - 1) > CONDITION_TOLERANCE
    ]
    return Fidelity(
        passed=not problems,
        reason="; ".join(problems),
        denoiser_db=parity.psnr_db["denoiser"],
        cache_db=parity.psnr_db["cache"],
        final_latent_db=parity.trajectory_db[-1] if parity.trajectory_db else None,
        reference_ratio=parity.condition["reference"],
        text_ratio=parity.condition["text"],
    )
