"""ONNX Runtime's providers: which are installed, their options, and what they cannot do.

`math` says how a provider may round. "exact" is fp32 wherever the graph is; "fast" lets it compute in the machine's
own 16 bits, which only OpenVINO on a CPU with bf16 instructions does today.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Literal, get_args

from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sessions.processor import processor_features, processor_fields

Math = Literal["exact", "fast"]
MATHS: tuple[Math, ...] = get_args(Math)

# onnxruntime and its variants are one module: two of them installed overwrite each other's files.
_PACKAGES = {
    "openvino": 'in an environment without onnxruntime: pip install "onnxruntime-openvino>=1.24"',
}
# Providers that leave com.microsoft.MultiHeadAttention to the CPU, and with it most of what they are chosen for.
_WITHOUT_ATTENTION = {"openvino", "coreml", "nnapi", "qnn", "xnnpack", "tensorrt", "nvtensorrtrtx", "vitisai"}
_SUFFIX = "ExecutionProvider"
# OpenVINO's INFERENCE_PRECISION_HINT. It ignores a word that it does not know and computes in fp32.
_OPENVINO_PRECISION: dict[Math, str] = {"exact": "f32", "fast": "bf16"}
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}


class ProviderWarning(UserWarning):
    """A provider runs only a part of the bundle itself."""


def short_name(provider: str) -> str:
    """ "CPUExecutionProvider" -> "cpu"."""
    return provider.removesuffix(_SUFFIX).lower()


def choose_providers(names: Sequence[str] | None) -> tuple[str, ...]:
    """Full provider names for short or full ones; None is the CPU.

    Raises: SettingsError for a provider that this ONNX Runtime does not have.
    """
    import onnxruntime

    available = {short_name(name): name for name in onnxruntime.get_available_providers()}
    if names is None:
        return ("CPUExecutionProvider",)
    chosen = []
    for name in [names] if isinstance(names, str) else names:
        short = short_name(name) if name.endswith(_SUFFIX) else name.lower()
        if short not in available:
            raise SettingsError(
                f"provider {name!r} is not in this onnxruntime, which has: {', '.join(sorted(available))}; "
                f"{_PACKAGES.get(short, 'install the onnxruntime package that brings it')}"
            )
        chosen.append(available[short])
    if not chosen:
        raise SettingsError("at least one provider is expected, received none; leave it out for the CPU")
    return tuple(chosen)


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


def check_math(math: str, providers: Sequence[str], bf16: bool | None = None) -> Math:
    """`math`, where the first provider can compute so.

    providers: full or short names. bf16: whether the CPU has bf16 instructions; None asks the CPU.
    Raises: SettingsError for a name that does not exist, and for "fast" where nothing would be faster.
    """
    if math == "exact":
        return "exact"
    if math != "fast":
        raise SettingsError(f"math: one of {', '.join(MATHS)} is expected, received {math!r}")
    # The first provider takes every node that it can, so a later one has nothing to be fast with.
    first = short_name(providers[0])
    if first != "openvino":
        raise SettingsError(
            f"math fast: provider {first} computes in fp32 only; choose provider openvino, or math exact"
        )
    if not (cpu_has_bf16() if bf16 is None else bf16):
        raise SettingsError(
            f"math fast: this CPU reports no bf16 instructions ({' or '.join(sorted(_BF16_FLAGS))}); "
            "choose math exact, or another machine"
        )
    return "fast"


def describe_math(math: Math) -> str | None:
    """What "fast" did, in one line; None for "exact"."""
    return "math fast: OpenVINO computes in bf16" if math == "fast" else None


def provider_options(
    providers: Sequence[str], math: Math, constant_keys: bool = False
) -> list[dict[str, str]]:
    """Options of each provider in turn, as `InferenceSession(provider_options=…)` takes them.

    constant_keys: the graph has attention whose keys and values are constants.
    """
    return [
        _openvino(math, constant_keys) if short_name(provider) == "openvino" else {} for provider in providers
    ]


def cpu_has_bf16(cpuinfo: str | None = None) -> bool:
    """Whether the CPU reports bf16 instructions; False where the system does not report any.

    cpuinfo: the text of Linux's /proc/cpuinfo; None reads it.
    """
    return not _BF16_FLAGS.isdisjoint(processor_features(processor_fields(cpuinfo)))


def _openvino(math: Math, constant_keys: bool) -> dict[str, str]:
    # "exact" is set too: OpenVINO's default may change with a version.
    config = {"INFERENCE_PRECISION_HINT": _OPENVINO_PRECISION[math]}
    if constant_keys:
        # Fused attention over constant keys gives noise in fp32, and at 77 keys in bf16 too
        # (onnxruntime-openvino 1.24.1, a CPU with AMX); over computed ones it is right.
        config["SNIPPETS_MODE"] = "DISABLE"
    return {"load_config": json.dumps({"CPU": config})}
