"""`dreamcache verify --coreml`: saved packages against what PyTorch computed, without a Mac; and with one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dreamcache.export.coreml.checks.measure import compared
from dreamcache.export.coreml.checks.ranges import MAX_FP16, SENTINEL
from dreamcache.export.coreml.checks.recording import load_recording
from dreamcache.export.coreml.convert import coreml_name
from dreamcache.export.coreml.graph import Interpreted, saved_function
from dreamcache.export.coreml.mil.interpreter import Arithmetic, check_known
from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.checks import Check
from dreamcache.runtime.errors import DreamCacheError


def verify_coreml(bundle: Bundle, tell: Callable[[str], None] = lambda _: None) -> Iterator[Check]:
    """Check the Core ML packages, one result at a time; what depends on a failed part is left out.

    Args:
        bundle: whose files were checked.
        tell: called with what begins.
    """
    part = bundle.contract.coreml
    if part is None:
        yield Check("Core ML", False, "the bundle holds no packages; export with --target all or coreml")
        return
    tell("Core ML: reading packages")
    try:
        detail = _read(bundle.folder, part)
        recording = load_recording(bundle.path(part.recording), bundle.contract.scheduler)
    except DreamCacheError as error:
        yield Check("Core ML packages", False, str(error))
        return
    yield Check("Core ML packages", True, detail)
    arithmetics: Mapping[str, Arithmetic] = {"in 32 bits": "fp32", "in 16 bits": "fp16"}
    for title, arithmetic in arithmetics.items():
        tell(f"Core ML: running the programs {title}")
        interpreted = Interpreted(arithmetic)
        yield from compared(bundle.folder, bundle.contract, part, recording, interpreted, title)
    yield _range(interpreted, part)
    if sys.platform == "darwin":
        from dreamcache.export.coreml.checks.native import verify_native

        yield from verify_native(bundle, part, recording, tell)
    else:
        yield Check(
            "Core ML itself", True, "left out: it runs on macOS alone; the checks above ran without it"
        )


def _read(folder: Path, part: CoreMLPart) -> str:
    """Every declared function is stored, with its tensors, and made of known operations."""
    operations = 0
    for model in part.models.values():
        for name, declared in model.functions.items():
            saved = saved_function(folder / model.package, name)
            check_known(saved)
            operations += len(saved.operations)
            expected = {coreml_name(spec.name): spec.shape for spec in declared.inputs}
            stored = {tensor.name: tensor.shape for tensor in saved.inputs}
            if stored != expected:
                raise ExportError(
                    f"{model.package}, {name}: inputs {expected} are declared, {stored} are stored"
                )
            outputs = {coreml_name(spec.name) for spec in declared.outputs}
            if set(saved.outputs) != outputs:
                received = sorted(saved.outputs)
                raise ExportError(
                    f"{model.package}, {name}: outputs {sorted(outputs)} are declared, {received} are stored"
                )
    functions = sum(len(model.functions) for model in part.models.values())
    return f"{len(part.models)} packages, {functions} functions, {operations} operations, all known"


def _range(interpreted: Interpreted, part: CoreMLPart) -> Check:
    """Largest activation of the programs with every result rounded; a mask's sentinel does not count."""
    largest, where = 0.0, "nothing"
    for seen in interpreted.largest.values():
        for name, value in seen.items():
            if largest < value < SENTINEL or value != value:  # NaN
                largest, where = value, name
    kept = f"; {len(part.kept_in_fp32)} activations stay in 32 bits" if part.kept_in_fp32 else ""
    detail = f"largest magnitude {largest:.4g} ({where}), 16 bits end at {MAX_FP16:.0f}{kept}"
    return Check("range of 16 bits", largest <= MAX_FP16, detail)
