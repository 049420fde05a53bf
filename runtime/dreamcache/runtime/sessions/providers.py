"""ONNX Runtime's providers and OpenVINO: which are installed, what they cannot do, and how they may round.

`math` says how: "exact" is fp32 wherever the graph is; "fast" is the machine's own 16 bits: OpenVINO's bf16 on an x86
CPU that has it, and ONNX Runtime's bf16 products on an Arm one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sessions.openvino import INSTALL, has_openvino
from dreamcache.runtime.sessions.processor import processor_features, processor_fields

Math = Literal["exact", "fast"]
MATHS: tuple[Math, ...] = get_args(Math)

OPENVINO = "openvino"
ARM_BF16 = ("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
"""Entry of a session's configuration: fp32 products of matrices in bf16 (onnxruntime_session_options_config_keys.h)."""

# Providers that leave com.microsoft.MultiHeadAttention to the CPU, and with it most of what they are chosen for.
_WITHOUT_ATTENTION = {"coreml", "nnapi", "qnn", "xnnpack", "tensorrt", "nvtensorrtrtx", "vitisai"}
_SUFFIX = "ExecutionProvider"
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}
_ARM_BF16_FEATURES = {"bf16", "svebf16"}


class ProviderWarning(UserWarning):
    """A provider runs only a part of the bundle itself."""


def short_name(provider: str) -> str:
    """ "CPUExecutionProvider" -> "cpu"."""
    return provider.removesuffix(_SUFFIX).lower()


def choose_providers(names: Sequence[str] | None) -> tuple[str, ...]:
    """ONNX Runtime's full names for short or full ones, or "openvino"; None is the CPU.

    Raises: SettingsError for a provider that is not installed, or others beside openvino.
    """
    import onnxruntime

    available = {short_name(name): name for name in onnxruntime.get_available_providers()}
    # It runs by its own package: the onnxruntime with that provider is another build of the same module, a year behind.
    available.pop(OPENVINO, None)
    if has_openvino():
        available[OPENVINO] = OPENVINO
    if names is None:
        return ("CPUExecutionProvider",)
    chosen = []
    if not isinstance(names, (str, list, tuple)):
        raise SettingsError(f"providers: a list of names is expected, received {type(names).__name__}")
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str):
            raise SettingsError(
                f"providers: names such as cpu are expected, received {type(name).__name__}; options are not passed on"
            )
        short = short_name(name) if name.endswith(_SUFFIX) else name.lower()
        if short not in available:
            if short == OPENVINO:
                raise SettingsError(f"provider openvino is not installed; install it with: {INSTALL}")
            raise SettingsError(
                f"provider {name!r} is not in this onnxruntime, which has: {', '.join(sorted(available))}; "
                "install the onnxruntime package that brings it"
            )
        chosen.append(available[short])
    if OPENVINO in chosen and len(chosen) > 1:
        raise SettingsError("provider openvino runs whole graphs; give it alone, received others beside it")
    if not chosen:
        raise SettingsError("at least one provider is expected, received none; leave it out for the CPU")
    return tuple(dict.fromkeys(chosen))


def wants_portable(providers: Sequence[str]) -> bool:
    """Whether the first provider knows standard operators alone."""
    return short_name(providers[0]) in _WITHOUT_ATTENTION


def warn_of_attention(contract: Contract, providers: Sequence[str]) -> None:
    """Warns: ProviderWarning where a provider has to leave the bundle's attention to the CPU."""
    first = short_name(providers[0])
    fused = contract.attention == "multi_head_attention" and contract.graphs.denoiser.portable is None
    if fused and wants_portable(providers):
        warnings.warn(
            f"{first} has no operator for this bundle's attention, so the CPU provider computes it; "
            "a bundle exported with --attention both or plain runs on it entirely",
            ProviderWarning,
            stacklevel=3,
        )


def check_math(
    math: str, providers: Sequence[str], bf16: bool | None = None, arm_bf16: bool | None = None
) -> Math:
    """`math`, where the first provider can compute so.

    providers: full or short names. bf16, arm_bf16: whether the CPU has such instructions; None asks the CPU.
    Raises: SettingsError for a name that does not exist, and for "fast" where nothing would be faster.
    """
    if math == "exact":
        return "exact"
    if math != "fast":
        raise SettingsError(f"math: one of {', '.join(MATHS)} is expected, received {math!r}")
    # The first provider takes every node that it can, so a later one has nothing to be fast with.
    first = short_name(providers[0])
    if first == "cpu" and (arm_has_bf16() if bf16 is None and arm_bf16 is None else arm_bf16):
        return "fast"
    if first != OPENVINO:
        raise SettingsError(
            f"math fast: provider {first} computes in fp32 only; choose provider openvino, or math exact"
        )
    if not (cpu_has_bf16() if bf16 is None else bf16):
        raise SettingsError(
            f"math fast: this CPU reports no bf16 instructions ({' or '.join(sorted(_BF16_FLAGS))}); "
            "choose math exact, or another machine"
        )
    return "fast"


def describe_math(math: Math, machine: str = "x86_64") -> str | None:
    """What "fast" did on a machine, by Python's name of it, in one line; None for "exact"."""
    if math == "exact":
        return None
    arm = machine.lower() in ("aarch64", "arm64")
    return f"math fast: {'ONNX Runtime multiplies matrices' if arm else 'OpenVINO computes'} in bf16"


def cpu_has_bf16(cpuinfo: str | None = None) -> bool:
    """Whether an x86 CPU reports bf16 instructions; False where the system does not report any.

    cpuinfo: the text of Linux's /proc/cpuinfo; None reads it.
    """
    return not _BF16_FLAGS.isdisjoint(processor_features(processor_fields(cpuinfo)))


def arm_has_bf16(cpuinfo: str | None = None) -> bool:
    """Whether an Arm CPU does; cpuinfo: as `cpu_has_bf16`."""
    return not _ARM_BF16_FEATURES.isdisjoint(processor_features(processor_fields(cpuinfo)))
