"""Whether a speed is what its precision promises on this kind of CPU, and whether the record's runner is today's."""

from __future__ import annotations

from dreamcache.benchmarks.record import Host, Measurement, Record
from dreamcache.benchmarks.runner_settings import is_current

# One int8 call over one fp32 call of the same denoiser with adapters, where 8 bits are as fast as they were seen to be:
# SD 1.5, 512 px, two cores. By kind of CPU; AMD EPYC: docs/results/sd15.json; Intel Xeon with AMX: 1.46 s over 2.72 s.
INT8_OVER_FP32 = {"AMX": 0.54, "AVX-512 VNNI": 0.48}
_LIKE = "sd15"
# Another size of picture, another number of cores and a machine's own noise.
_SLACK = 1.25


def cpu_kind(host: Host) -> str | None:
    """The CPU's instructions for 8-bit products by their usual name; None where none is known."""
    features = set(host.cpu_features)
    if "amx_int8" in features:
        return "AMX"
    if "avx512_vnni" in features:
        return "AVX-512 VNNI"
    if "avx_vnni" in features:
        return "AVX-VNNI"
    return "Arm dot products" if features & {"asimddp", "i8mm"} else None


def aged(record: Record, one: Measurement) -> str:
    """A line where the runner's settings have changed since the record was taken, or it did not keep them."""
    if is_current(one.conditions.model_dump()):
        return ""
    version = record.versions.get("dreamcache", "of an unknown version")
    when = f"aged: taken on {record.created[:10]} by dreamcache {version}"
    return f"{when}, whose session settings were others or not kept"


def guard_in_force(one: Measurement) -> str:
    """A line where 8-bit weights are stored as unsigned numbers, which is slower."""
    if one.bundle.precision != "int8" or not one.conditions.guarded or "openvino" in one.conditions.providers:
        return ""
    return "this CPU's 8-bit sums overflow, so weights are stored as unsigned numbers: 8 bits gain less speed here"


def slower_than_promised(record: Record, one: Measurement) -> str:
    """A line where an int8 call takes longer than it should, measured by the fp32 bundle in the same record.

    Empty where there is no such bundle. The bound is the ratio seen on this kind of CPU, and fp32's own time elsewhere.
    """
    wide = next((other for other in record.measurements() if _is_fp32_of(one, other)), None)
    if wide is None or not one.metrics.step_ms_p50 or not wide.metrics.step_ms_p50:
        return ""
    ratio = one.metrics.step_ms_p50 / wide.metrics.step_ms_p50
    kind = cpu_kind(record.host)
    known = INT8_OVER_FP32.get(kind or "") if one.bundle.architecture == _LIKE else None
    bound = 1.0 if known is None else min(1.0, known * _SLACK)
    if ratio <= bound:
        return ""
    seen = "no slower is expected" if known is None else f"{known:.2f} was seen on a CPU with {kind}"
    return (
        f"SLOWER than 8 bits promise: a step takes {ratio:.2f} × that of {wide.bundle.name} in fp32, {seen}"
    )


def _is_fp32_of(one: Measurement, other: Measurement) -> bool:
    """Whether `other` is the same model in fp32, measured under the same conditions."""
    ours, theirs = one.conditions, other.conditions
    same = ("profile", "providers", "threads", "math", "width", "height", "batch")
    return (
        (one.bundle.precision, other.bundle.precision) == ("int8", "fp32")
        and one.bundle.architecture == other.bundle.architecture
        and all(getattr(ours, name) == getattr(theirs, name) for name in same)
    )
