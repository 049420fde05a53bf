"""The subcommand `dreamcache demo`: the shipped miniature from PyTorch to ONNX to personalised pictures.

It does what a user would: runs `dreamcache export`, then `dreamcache.runtime`, then measures one picture in a fresh
process. The toys are held-out ones that no training stage saw.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.runtime.cli.words import cell
from dreamcache.runtime.sessions.system import module_command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dreamcache.training.evaluation.toys.benchmark import Condition, ToyCase
    from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter

SCENES, SHOWN_TOYS, SHOWN_SCENES, FEATURE_ROWS, SHEET_TILE = 4, 3, 3, 6, 256
SEED = 7


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("demo"),
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    toys: Annotated[int, typer.Option(min=1, help="Held-out toys, each in four scenes.")] = 12,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replacement of existing results.")] = False,
) -> None:
    """Export the shipped miniature, draw unseen toys in new places, and report quality, speed and memory."""
    from dreamcache.runtime.files import check_output

    # A fresh folder holds no results to protect; it is made once every import has succeeded.
    if out.is_dir():
        for name in ("bundle", "demo.png", "features.png", "report.json"):
            check_output(out / name, overwrite)
    from dreamcache.training.evaluation.toys.benchmark import draw_cases

    out.mkdir(parents=True, exist_ok=True)
    bundle = out / "bundle"
    _export(bundle, overwrite)
    painter = _painter(bundle, steps)
    cases = draw_cases(toys, SCENES, SEED, painter.size)
    pictures, quality = _paint(painter, cases)
    _draw_demo_sheet(painter, cases, pictures, out / "demo.png")
    _draw_features(cases, out / "features.png")
    _report(bundle, cases, quality, steps, out)


def _export(bundle: Path, overwrite: bool) -> None:
    command = [
        *module_command("dreamcache.runtime.cli"),
        "export",
        "--base",
        "mini",
        "--out",
        str(bundle),
    ]
    done = subprocess.run(
        [*command, *(["--overwrite"] if overwrite else [])], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise typer.Exit(done.returncode)


def _painter(bundle: Path, steps: int) -> BundlePainter:
    from dreamcache.runtime import Pipeline
    from dreamcache.runtime.settings import Options
    from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter

    return BundlePainter(Pipeline.load(bundle, keep_sessions=True), Options(steps=steps))


def _paint(
    painter: BundlePainter, cases: list[ToyCase]
) -> tuple[dict[Condition, NDArray[np.uint8]], dict[str, dict[str, float]]]:
    """The pictures of every condition and their scores, from the bundle through the runner."""
    from dreamcache.training.evaluation.toys.attribute_classifier import load_classifier
    from dreamcache.training.evaluation.toys.benchmark import run_benchmark

    pictures: dict[Condition, NDArray[np.uint8]] = {}

    def paint(chosen: list[ToyCase], condition: Condition) -> NDArray[np.uint8]:
        pictures[condition] = painter(chosen, condition)
        return pictures[condition]

    scores = run_benchmark(cases, paint, load_classifier())
    quality: dict[str, dict[str, float]] = {
        "identity_accuracy": {name: round(value.identity_accuracy.mean, 4) for name, value in scores.items()},
        "scene_accuracy": {name: round(value.scene_accuracy.mean, 4) for name, value in scores.items()},
        "colour_distance": {name: round(value.colour_distance.mean, 2) for name, value in scores.items()},
    }
    return pictures, quality


def _draw_demo_sheet(
    painter: BundlePainter,
    cases: list[ToyCase],
    pictures: dict[Condition, NDArray[np.uint8]],
    path: Path,
) -> None:
    """The first toys, each photographed in a scene, in new scenes; and the same prompts and seeds without it."""
    import numpy as np

    from dreamcache.training.evaluation.sheets import Column, draw_sheet
    from dreamcache.training.world.render import render
    from dreamcache.training.world.samples import PLACES

    firsts = range(0, len(cases), SCENES)[:SHOWN_TOYS]
    photographs, homes, drawn = [], [], []
    for first in firsts:
        shown = cases[first : first + SHOWN_SCENES]
        home = next(place for place in PLACES if place not in {case.scene for case in shown})
        photograph = render(shown[0].toy, home, np.random.default_rng([SEED, first]), size=painter.size).image
        in_scene = [replace(case, reference=photograph) for case in shown]
        photographs.append([photograph])
        homes.append([f"a toy {shown[0].toy.kind}: {home}"])
        drawn.append(list(painter(in_scene, "dreamcache")))
    places = [[case.scene for case in cases[first : first + SHOWN_SCENES]] for first in firsts]
    without = [list(pictures["text_only"][first : first + SHOWN_SCENES]) for first in firsts]
    columns = [
        Column("reference", photographs, homes),
        Column("drawn from it, in new places", drawn, places),
        Column("without it: same prompts, same seeds", without, places),
    ]
    draw_sheet(columns, path, tile=SHEET_TILE // painter.size * painter.size)


def _draw_features(cases: list[ToyCase], path: Path) -> None:
    from PIL import Image

    from dreamcache.models.pipeline import DreamCachePipeline
    from dreamcache.runtime.reference.prepare import prepare_reference
    from dreamcache.training.evaluation.sheets import Column, draw_sheet, features_as_picture

    pipeline = DreamCachePipeline.load("mini")
    shown = [cases[first] for first in range(0, len(cases), SCENES)[:FEATURE_ROWS]]
    references = [Image.fromarray(case.reference) for case in shown]
    side = pipeline.resolution
    caches = [pipeline.cache(prepare_reference(one, size=side).image) for one in references]
    columns = [Column("reference", [[case.reference] for case in shown])]
    for site in pipeline.conditioned.sites:
        rows = [[features_as_picture(cache[site.name][0].numpy())] for cache in caches]
        columns.append(
            Column(site.name.replace(".attentions.", ".").replace("_blocks", "").replace("_block", ""), rows)
        )
    draw_sheet(columns, path, "What is cached: three strongest directions of each site's features")


def _report(bundle: Path, cases: list[ToyCase], quality: dict[str, Any], steps: int, out: Path) -> None:
    import json

    from PIL import Image

    from dreamcache.runtime.bundle.folder import open_contract

    reference = out / "reference.png"
    Image.fromarray(cases[0].reference).save(reference)
    command = [
        *module_command("dreamcache.benchmarks.probe"),
        str(bundle),
        "--reference",
        str(reference),
    ]
    measured = subprocess.run(
        [*command, "--prompt", cases[0].prompt, "--steps", str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    probe = json.loads(measured.stdout)
    parity = open_contract(bundle).contract.parity
    report = {
        **quality,
        "sample": {"toys": len(cases) // SCENES, "scenes_per_toy": SCENES, "steps": steps},
        "parity": {
            "cache_psnr_db": parity.psnr_db["cache"],
            "denoiser_psnr_db": parity.psnr_db["denoiser"],
        },
        "condition_ratio": parity.condition["reference"],
        "disk": {"two_graphs_over_one": parity.disk_ratio},
        "latency_ms": probe["latency_ms"],
        "peak_private_mb": round(probe["memory_mb"]["private_mb"], 1),
        "memory_mb": probe["memory_mb"],
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_table(report, out)


def _print_table(report: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    identity, scene, latency = report["identity_accuracy"], report["scene_accuracy"], report["latency_ms"]
    table = Table("", "DreamCache", "text only", "wrong cache")
    conditions = ("dreamcache", "text_only", "wrong_cache")
    table.add_row("identity accuracy", *(f"{identity[c]:.0%}" for c in conditions))
    table.add_row("scene accuracy", *(f"{scene[c]:.0%}" for c in conditions))
    figures = Table("", "")
    figures.add_row(
        "parity with PyTorch: cache, denoiser",
        "{cache_psnr_db:.0f} dB, {denoiser_psnr_db:.0f} dB".format(**report["parity"]),
    )
    figures.add_row("condition kept", f"{report['condition_ratio']:.4f} of PyTorch's")
    figures.add_row("two graphs over one on disk", f"{report['disk']['two_graphs_over_one']:.3f}")
    for stage in ("text", "cache", "step", "vae_decode", "total"):
        figures.add_row(f"{stage.replace('_', ' ')}", f"{latency[stage]:.1f} ms")
    figures.add_row("peak private memory", f"{report['peak_private_mb']:.0f} MB")
    console = Console()
    console.print(
        table,
        figures,
        cell(f"pictures: {out / 'demo.png'}, {out / 'features.png'}; figures: {out / 'report.json'}"),
    )
