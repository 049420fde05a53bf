"""What `dreamcache verify` checks: everything about a bundle that can be known without PyTorch.

First the files, then the graphs, then what this device computes of the golden tensors, then the condition
(docs/concepts/method.md, "Gates"): strength 0 must not depend on the reference at all, and a zeroed cache or another
text must change the prediction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dreamcache.runtime.bundle.folder import (
    Bundle,
    check_files,
    check_storage,
    non_finite_weights,
    open_contract,
)
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, EIGHT_BITS, MIN_PSNR_DB_BY_PRECISION
from dreamcache.runtime.errors import BundleError, first_line
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.progress import Progress
from dreamcache.runtime.sampling.denoiser import Denoiser, Latent
from dreamcache.runtime.sampling.device_check import check_device, least_device_db
from dreamcache.runtime.sampling.guidance import Branch
from dreamcache.runtime.sessions.providers import choose_providers
from dreamcache.runtime.sessions.session import SessionOpener, check_threads

# A relative change of the prediction below this is rounding, not a condition.
_LEAST_CHANGE = 1e-4

_PROMPT = "a toy on the beach"


@dataclass(frozen=True)
class Check:
    """One result. detail: what was found, in one line. value: the figure that was judged, in dB or as a ratio."""

    name: str
    passed: bool
    detail: str
    value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def verify_bundle(
    path: str | os.PathLike[str],
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Check]:
    """Check a bundle, one result at a time. Checks that need a part that failed are skipped.

    Raises: SettingsError for a provider that is absent or fewer than one thread.
    """
    chosen = choose_providers(providers)
    check_threads(threads)
    try:
        bundle = open_contract(path)
    except BundleError as error:
        yield Check("contract", False, str(error))
        return
    yield Check(
        "contract", True, f"format {bundle.contract.format_version}, {bundle.contract.weights} weights"
    )
    files = _attempt("files", lambda: _files(bundle, progress))
    if bundle.contract.onnx is None:
        yield files
        return
    sound = True
    for check in (
        files,
        _attempt("weights stored", lambda: _storage(bundle)),
        _attempt("weights finite", lambda: _finite(bundle)),
    ):
        sound = sound and check.passed
        yield check
    if not sound:
        return
    sessions = SessionOpener(bundle, chosen, threads)
    signatures = _attempt("graph signatures", lambda: _signatures(sessions))
    yield signatures
    yield _attempt("recorded parity", lambda: _parity(bundle))
    if signatures.passed:
        yield from _device(sessions)
        try:
            yield from _behaviour(Pipeline(bundle, sessions))
        except BundleError as error:
            yield Check("behaviour", False, str(error))


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except (BundleError, OSError) as error:  # a file may vanish or be unreadable between two checks
        return Check(name, False, first_line(error))


def _files(bundle: Bundle, progress: Progress | None) -> str:
    check_files(bundle, progress=progress)
    return f"{len(bundle.contract.files)} files, {bundle.total_bytes() / 1e6:.1f} MB, sizes and SHA-256 as recorded"


def _storage(bundle: Bundle) -> str:
    for graph in bundle.contract.graphs.by_name().values():
        check_storage(bundle, graph)
    return "every tensor lies inside its file and is as long as its shape"


def _finite(bundle: Bundle) -> str:
    for name, graph in bundle.contract.graphs.by_name().items():
        broken = list(non_finite_weights(bundle, graph))
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise BundleError(
                f"graph {name}: weight {broken[0] or 'without a name'}{more} holds NaN or infinite values; export again"
            )
    return "no NaN, no infinity"


def _signatures(sessions: SessionOpener) -> str:
    graphs = sessions.bundle.contract.graphs.by_name()
    for name in graphs:
        with sessions.open(name):
            pass
    return f"{len(graphs)} graphs open with the declared names, shapes and dtypes"


def _parity(bundle: Bundle) -> str:
    contract = bundle.contract
    recorded = contract.parity.psnr_db
    least = MIN_PSNR_DB_BY_PRECISION.get(contract.precision)
    for name in ("cache", "denoiser"):
        if least is not None and name in recorded and recorded[name] < least:
            raise BundleError(
                f"graph {name}: at least {least} dB are expected, recorded {recorded[name]:.1f}"
            )
    figures = ", ".join(f"{name} {value:.1f} dB" for name, value in recorded.items())
    return figures or "none recorded"


def _device(sessions: SessionOpener) -> Iterator[Check]:
    """What this device computes of the golden tensors; one check for each graph and for each condition."""
    contract = sessions.bundle.contract
    try:
        figures = check_device(sessions)
    except BundleError as error:
        yield Check("golden tensors", False, str(error))
        return
    if figures is None:
        yield Check("golden tensors", True, "none: the bundle was made by an older version")
        return
    least = least_device_db(contract.precision)
    # As the exporter does: random weights in 8 bits are for timing, and their figures are said.
    judged = contract.precision not in EIGHT_BITS or contract.weights == "trained"
    for name, db in figures.psnr_db.items():
        found = f"{db:.1f} dB from PyTorch on this device, at least {least:g} dB are expected"
        yield Check(f"golden {name}", db >= least or not judged, found, round(db, 2))
    for name, ratio in figures.condition.items():
        found = f"{ratio:.3f} times PyTorch's on this device, expected within {CONDITION_TOLERANCE:.0%}"
        passed = abs(ratio - 1) <= CONDITION_TOLERANCE or not judged
        yield Check(f"effect of the {name}", passed, found, round(ratio, 4))


def _behaviour(pipeline: Pipeline) -> Iterator[Check]:
    """Predictions at one latent with the real, a zeroed and another cache, with and without strength."""
    subject = pipeline.cache(_toy((200, 40, 40)))
    again = pipeline.cache(_toy((200, 40, 40)))
    other = pipeline.cache(_toy((30, 80, 200)))
    same = all(np.array_equal(subject.tensors[name], again.tensors[name]) for name in subject.tensors)
    yield Check("caching repeats", same, "the same picture gives the same keys and values, bit for bit")

    shape = pipeline.contract.architecture.latent_shape
    latent = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    texts = pipeline.embed({"prompt": _PROMPT, "null": ""})
    zeroed = {name: np.zeros_like(array) for name, array in subject.tensors.items()}
    with pipeline.sessions.open("denoiser") as graph:

        def predict(cache: Mapping[str, NDArray[Any]], branch: Branch) -> Latent:
            denoiser = Denoiser(graph, pipeline.contract.architecture, texts, cache)
            middle = pipeline.contract.scheduler.num_train_timesteps // 2
            return denoiser.predict(latent, middle, [branch])[0]

        stock, full = Branch("prompt", 0.0), Branch("prompt", 1.0)
        base = predict(zeroed, stock)
        exact = np.array_equal(base, predict(subject.tensors, stock))
        yield Check("strength 0", exact, "without strength the cache changes no bit of the prediction")
        conditioned = predict(subject.tensors, full)
        repeats = np.array_equal(conditioned, predict(subject.tensors, full))
        yield Check("denoising repeats", repeats, "the same inputs give the same prediction, bit for bit")
        yield _differs("reference counts", conditioned, base, "with the reference and without")
        yield _differs("zeroed cache", conditioned, predict(zeroed, full), "with the cache and a zeroed one")
        yield _differs("other cache", conditioned, predict(other.tensors, full), "with two references")
        yield _differs(
            "text counts", base, predict(zeroed, Branch("null", 0.0)), "with the text and null text"
        )


def _differs(name: str, one: Latent, two: Latent, between: str) -> Check:
    change = float(np.linalg.norm(one - two) / np.linalg.norm(one))
    return Check(name, change > _LEAST_CHANGE, f"the prediction differs by {change:.2%} {between}")


def _toy(colour: tuple[int, int, int]) -> Image.Image:
    """A plain figure on white, as a reference whose cache is not degenerate."""
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 18, 54, 60), fill=colour)
    draw.rectangle((22, 6, 42, 26), fill=tuple(255 - part for part in colour))
    return image
