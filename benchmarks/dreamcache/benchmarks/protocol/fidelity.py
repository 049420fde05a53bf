"""The gate without which no speed is reported (docs/method.md, "Gates"): what the exporter measured against PyTorch."""

from __future__ import annotations

from dreamcache.benchmarks.record import Fidelity
from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.errors import BundleError

# int8 has no bar a graph: it is judged by the condition and by the final latent, which stand beside its speed.
_LEAST_DB = {"fp32": 80.0, "fp16": 50.0}
_CONDITION_WITHIN = 0.05


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
        for least in [_LEAST_DB.get(contract.precision)]
        if least is not None
        for name in ("denoiser", "cache")
        if parity.psnr_db[name] < least
    ]
    problems += [
        f"condition on the {name} at {parity.condition[name]:.3f} of PyTorch's"
        for name in ("reference", "text")
        if abs(parity.condition[name] - 1) > _CONDITION_WITHIN
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
