"""The peers: which script runs what, what it needs, and which rows of the table its samples make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Subject = Literal["none", "once", "each picture"]
Copy = Literal["none", "each branch", "each step"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: unique.
        method: as the table names it.
        subject: when the subject's stage runs; none is a plain model, which draws no subject.
        copy: how often a second UNet runs.
    """

    name: str
    method: str
    subject: Subject = "none"
    copy: Copy = "none"


@dataclass(frozen=True)
class Case:
    """One process.

    Attributes:
        script: module of this folder; its requirements file has the same name.
        imports: what must be importable for it to run.
        parts: of `peers.prepare`, that it reads.
        bundle: of DreamCache, that it reads.
    """

    name: str
    engine: str
    precision: str
    script: str
    method: str
    imports: tuple[str, ...]
    rows: tuple[Row, ...]
    parts: tuple[str, ...] = ()
    bundle: Path | None = None


_TORCH = ("torch", "diffusers", "transformers")
_ENCODER = "IP-Adapter"
_COPY = "second UNet"


def ip_rows(name: str) -> tuple[Row, ...]:
    """As its pipeline runs it, and with the embedding kept, as a careful application would."""
    return (
        Row(name, f"{_ENCODER}, encoder for each picture", "each picture"),
        Row(f"{name}-kept", f"{_ENCODER}, embedding kept", "once"),
    )


def copy_rows(name: str) -> tuple[Row, ...]:
    """The copy runs with every UNet call, as the published cost has it, and once a step, for both branches."""
    return (
        Row(name, f"{_COPY}, for each branch", "once", "each branch"),
        Row(f"{name}-shared", f"{_COPY}, shared by the branches", "once", "each step"),
    )


def all_cases(fp32: Path | None, int8: tuple[Path, ...]) -> list[Case]:
    """In the order of the run: what is compared stands close together. Bundles that are None or empty have no cases."""
    cases = [*_pytorch("bf16")]
    for i, bundle in enumerate(int8):
        cases += _runtime("int8", bundle, f"int8-{bundle.name}" if i else "int8", whole=False, peers=i == 0)
    cases += _pytorch("fp32")
    if fp32 is not None:
        cases += _runtime("fp32", fp32, "fp32", whole=True, peers=True)
        cases += _runtime("bf16", fp32, "openvino-bf16", whole=False, peers=True, engine="OpenVINO")
    optimum = ("onnxruntime", "optimum.onnxruntime", *_TORCH)
    row = Row("optimum", "plain model, optimum's pipeline")
    cases.append(
        Case("optimum", "ONNX Runtime", "fp32", "optimum_pipeline", "plain", optimum, (row,), ("optimum",))
    )
    row = Row("openvino", "plain model")
    cases.append(
        Case(
            "openvino",
            "OpenVINO",
            "own choice",
            "openvino_plain",
            "plain",
            ("openvino",),
            (row,),
            ("optimum",),
        )
    )
    row = Row("sd-cpp", "plain model")
    cases.append(
        Case("sd-cpp", "stable-diffusion.cpp", "f16", "sd_cpp", "plain", ("stable_diffusion_cpp",), (row,))
    )
    return cases


def _pytorch(precision: str) -> list[Case]:
    def case(name: str, script: str, method: str, rows: tuple[Row, ...], parts: tuple[str, ...] = ()) -> Case:
        return Case(f"{name}-{precision}", "PyTorch", precision, script, method, _TORCH, rows, parts)

    plain = Row(f"pytorch-{precision}", "plain model")
    return [
        case("pytorch", "pytorch", "plain", (plain,)),
        case("pytorch-second-unet", "pytorch", "second_unet", copy_rows(f"pytorch-second-unet-{precision}")),
        case(
            "pytorch-ip-adapter",
            "ip_adapter",
            "ip_adapter",
            ip_rows(f"pytorch-ip-adapter-{precision}"),
            ("ip_adapter",),
        ),
    ]


def _runtime(
    precision: str, bundle: Path, name: str, whole: bool, peers: bool, engine: str = "ONNX Runtime"
) -> list[Case]:
    """whole: the other methods were exported in this precision; else their lower bounds run."""
    package = "openvino" if engine == "OpenVINO" else "onnxruntime"
    suffix = "" if whole else "_bound"

    def case(kind: str, method: str, rows: tuple[Row, ...], parts: tuple[str, ...] = ()) -> Case:
        return Case(
            f"{kind}-{name}",
            engine,
            precision,
            "onnx_runtime",
            method,
            (package, "dreamcache.runtime"),
            rows,
            parts,
            bundle,
        )

    label = "DreamCache" if peers else f"DreamCache ({bundle.name})"
    ours = case("dreamcache", "dreamcache", (Row(f"dreamcache-{name}", label, "once"),))
    if not peers:
        return [ours]
    return [
        ours,
        case("plain", "plain", (Row(f"plain-{name}", "plain model, our runner"),)),
        case("ip-adapter", f"ip_adapter{suffix}", ip_rows(f"ip-adapter-{name}"), ("ip_adapter", "onnx")),
        case(
            "second-unet",
            f"second_unet{suffix}",
            copy_rows(f"second-unet-{name}"),
            ("ip_adapter", "onnx") if whole else (),
        ),
    ]
