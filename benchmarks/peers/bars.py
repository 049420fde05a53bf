"""Speed beside PyTorch's bf16 and beside what the CPU could do at all: each bar's two figures from one run.

    PYTHONPATH=benchmarks python -m peers.bars --fp32 b32 --int8 b8 --pooled b8k --tiny b8t --json bars.json

Bundles of SD 1.5 (`--architecture sd15`): fp32; int8; int8 with `--kv-downsample 2`; int8 with `--vae taesd`. Each
group (steps, decode, picture, few_steps) is a run of its own: its calls alternate round by round, each bundle in a
fresh process and PyTorch in this one. It replaces its own part of the record, so that a machine can be had in slices.
The physical limit is the UNet's arithmetic at the rate of one large bf16 product of PyTorch.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dreamcache.benchmarks.host import describe_host, library_versions
from dreamcache.benchmarks.process.child import LoadSettings, MeasuredProcess, checked_settings
from dreamcache.benchmarks.protocol.reference import PROMPT, draw_reference
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.sessions.openvino import has_openvino
from dreamcache.runtime.sessions.providers import cpu_has_bf16
from peers.torch_baseline import Call, TorchBaseline, averaged

Samples = dict[str, list[float]]

BUNDLES = ("fp32", "int8", "pooled", "tiny")
PATHS = ("int8", "OpenVINO bf16", "OpenVINO int8")
GUIDED_CALLS = 60


@dataclass(frozen=True)
class Bar:
    """One ratio and the most that it may be. over, under: names of samples, each with how often it counts."""

    group: str
    name: str
    over: Mapping[str, float]
    under: Mapping[str, float]
    most: float

    def ratio(self, medians: Mapping[str, float]) -> float | None:
        """None where a sample of it was not taken."""
        if not (self.over.keys() | self.under.keys()) <= medians.keys():
            return None
        above, below = (
            sum(n * medians[name] for name, n in part.items()) for part in (self.over, self.under)
        )
        return above / below


def paths_of(group: str, name: str, over: str, under: Mapping[str, float], most: float) -> Iterator[Bar]:
    """A bar for each path: 8 bits on ONNX Runtime's CPU provider, bf16 by OpenVINO, and both (`--math fast`)."""
    for path in PATHS:
        told = {one.replace("PATH", path): count for one, count in under.items()}
        yield Bar(group, f"{name}, {path}", {f"{path} {over}": 1}, told, most)


BARS: tuple[Bar, ...] = (
    *paths_of("steps", "step over PyTorch bf16's plain step", "step", {"PyTorch bf16 plain step": 1}, 0.70),
    *paths_of("steps", "step over the limit", "step", {"limit": 1}, 2.0),
    Bar("steps", "int8 step over fp32 step, CPU provider", {"int8 step": 1}, {"fp32 step": 1}, 0.50),
    Bar("steps", "int8 --kv-downsample 2 over fp32", {"int8 pooled step": 1}, {"fp32 step": 1}, 0.36),
    Bar(
        "steps",
        "int8 --kv-downsample 2 by OpenVINO over fp32",
        {"OpenVINO int8 pooled step": 1},
        {"fp32 step": 1},
        0.36,
    ),
    *paths_of("steps", "step over plain step", "step", {"PATH plain step": 1}, 1.06),
    *paths_of("decode", "VAE decode over a step", "decode", {"PATH step": 1}, 1.0),
    *paths_of("decode", "VAE decode, graph kept open, over a step", "decode, kept", {"PATH step": 1}, 1.0),
    Bar("decode", "tiny decode over a step, int8", {"int8 tiny decode": 1}, {"int8 step": 1}, 0.15),
    Bar(
        "decode",
        "tiny decode, graph kept open, over a step, int8",
        {"int8 tiny decode, kept": 1},
        {"int8 step": 1},
        0.15,
    ),
    *paths_of(
        "picture",
        "picture of 20 guided steps over PyTorch bf16's calls and decode",
        "picture",
        {"PyTorch bf16 plain step": GUIDED_CALLS, "PyTorch bf16 decode": 1},
        0.72,
    ),
    Bar(
        "few_steps",
        "picture of 4 steps, LCM, tiny decoder, over one PyTorch bf16 call",
        {"int8 picture of 4 steps": 1},
        {"PyTorch bf16 plain step": 1},
        3.5,
    ),
)


class Runners:
    """Bundles in processes of their own, each opened once, with a subject of its own."""

    def __init__(self, stack: ExitStack, scratch: Path, threads: int | None) -> None:
        self._stack, self._scratch, self._threads = stack, scratch, threads
        self._reference = draw_reference(scratch / "reference.png")
        self._subjects: dict[Path, Path] = {}

    def open(self, bundle: Path, fast: bool = False) -> MeasuredProcess:
        """A process with the bundle loaded and a subject in use. fast: OpenVINO's bf16."""
        if bundle not in self._subjects:
            self._subjects[bundle] = self._scratch / f"{len(self._subjects)}.subject.safetensors"
            with MeasuredProcess() as once:
                once.load(bundle, self._settings(fast=False))
                once.ask("cache", reference=str(self._reference), out=str(self._subjects[bundle]))
        process = self._stack.enter_context(MeasuredProcess())
        process.load(bundle, self._settings(fast))
        process.ask("use_subject", path=str(self._subjects[bundle]))
        return process

    def _settings(self, fast: bool) -> LoadSettings:
        names = ["openvino"] if fast else None
        return checked_settings("speed", names, self._threads, "fast" if fast else "exact")


def graph(process: MeasuredProcess, name: str) -> Call:
    """One call of a UNet graph."""
    return lambda: float(process.ask("call", graph=name, count=1)[0]) / 1e3


def picture(process: MeasuredProcess, **options: Any) -> Call:
    """Prompt to picture of a cached subject."""
    return lambda: float(process.ask("picture", prompt=PROMPT, **options)[0]) / 1e3


def decode(process: MeasuredProcess, kept: bool = False) -> Call:
    """One latent to a picture, without opening the graph: as `generate` does it, or in a session that is kept open."""
    return lambda: float(process.ask("vae_decode", kept=kept)[0]) / 1e3


def calls_of(
    group: str, given: argparse.Namespace, runners: Runners, baseline: TorchBaseline
) -> dict[str, Call]:
    """The calls of a group, in the order of a round."""
    calls = {"PyTorch bf16 plain step": baseline.step}
    if group == "few_steps":
        tiny = runners.open(given.tiny)
        return calls | {
            "int8 picture of 4 steps": picture(tiny, steps=4, scheduler="lcm", guidance_mode="none")
        }
    if group == "decode":
        calls = {"PyTorch bf16 decode": baseline.decode}
    elif group == "picture":
        calls = {
            "PyTorch bf16 plain step": averaged(baseline.step),
            "PyTorch bf16 decode": averaged(baseline.decode, 1),
        }
    paths = {"int8": runners.open(given.int8)}
    if has_openvino() and cpu_has_bf16():
        paths |= {
            "OpenVINO bf16": runners.open(given.fp32, fast=True),
            "OpenVINO int8": runners.open(given.int8, fast=True),
        }
    if group == "picture":
        return calls | {f"{path} picture": picture(one, steps=20) for path, one in paths.items()}
    calls |= {f"{path} step": graph(one, "denoiser") for path, one in paths.items()}
    if group == "decode":
        for path, one in (paths | {"int8 tiny": runners.open(given.tiny)}).items():
            calls |= {f"{path} decode": decode(one), f"{path} decode, kept": decode(one, kept=True)}
        return calls
    calls |= {f"{path} plain step": graph(one, "plain") for path, one in paths.items()}
    calls["fp32 step"] = graph(runners.open(given.fp32), "denoiser")
    calls["int8 pooled step"] = graph(runners.open(given.pooled), "denoiser")
    if "OpenVINO int8" in paths:
        calls["OpenVINO int8 pooled step"] = graph(runners.open(given.pooled, fast=True), "denoiser")
    return calls | {"limit": baseline.limit}


def measure(calls: Mapping[str, Call], rounds: int, warm: bool) -> Samples:
    """Seconds of each call, one a round; warm: after a round that is not counted. The order turns round each time."""
    taken: Samples = {name: [] for name in calls}
    names = list(calls)
    for index in range(-int(warm), rounds):
        for name in names if index % 2 == 0 else reversed(names):
            found = calls[name]()
            if index >= 0:
                taken[name].append(round(found, 4))
    return taken


def report(groups: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Every bar whose samples were taken."""
    found = []
    for bar in BARS:
        samples = groups.get(bar.group, {}).get("samples_s", {})
        ratio = bar.ratio({name: statistics.median(values) for name, values in samples.items()})
        if ratio is not None:
            met = ratio <= bar.most
            found.append({"bar": bar.name, "ratio": round(ratio, 3), "most": bar.most, "met": met})
    return found


def _notes(bundle: Path) -> list[str]:
    """What a bundle's export says of itself."""
    return list(open_bundle(bundle, False).contract.parity.notes)


def main() -> None:
    """Measure groups, print the bars, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in BUNDLES:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--only", nargs="*", default=["steps", "decode", "picture", "few_steps"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    groups = json.loads(given.json.read_text())["groups"] if given.json.exists() else {}
    baseline = TorchBaseline(given.threads) if given.only else None
    for group in given.only:
        assert baseline is not None
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(TemporaryDirectory()))
            calls = calls_of(group, given, Runners(stack, scratch, given.threads), baseline)
            rounds = 1 if group == "picture" else given.rounds
            groups[group] = {
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "load_before": describe_host().load_before,
                "samples_s": measure(calls, rounds, warm=group != "picture"),
            }
    bars = report(groups)
    for bar in bars:
        verdict = "met" if bar["met"] else "MISSED"
        print(f"{bar['ratio']:7.3f}  at most {bar['most']:.2f}  {verdict:6}  {bar['bar']}")
    record = {
        "host": describe_host().model_dump(exclude={"load_before"}),
        "versions": library_versions() | {"torch": version("torch")},
        "architecture": "sd15",
        "weights": "random",
        "bundles": {name: _notes(path) for name in BUNDLES if (path := getattr(given, name)) is not None},
        "threads": given.threads,
        "torch_threads": None if baseline is None else baseline.threads,
        "settings": [runner_settings(), runner_settings(providers=("openvino",), math="fast")],
        "bars": bars,
        "groups": groups,
    }
    given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
