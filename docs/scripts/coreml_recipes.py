"""What each way of storing the Core ML weights costs, and how large it is.

    python docs/scripts/coreml_recipes.py --work DIR --json docs/results/coreml.json [--sizes sd15]

Exports the miniature once for each row, with the gates of `dreamcache export`; `--sizes ARCHITECTURE` converts that
denoiser too and stores its weights in every format, for the sizes alone. A row that is in the JSON is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RECIPES: dict[str, list[str]] = {
    "fp16": [],
    "8 bits": ["--coreml", "weights=int8"],
    "palette of 64 (6 bits)": ["--coreml", "weights=palette6"],
    "palette of 16 (4 bits)": ["--coreml", "weights=palette4"],
    "mixed, at least 40 dB": ["--coreml", "weights=mixed", "--coreml", "psnr_db=40"],
    "mixed, at least 30 dB": ["--coreml", "weights=mixed", "--coreml", "psnr_db=30"],
}


def main() -> None:
    """Every row, written as it is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sizes", metavar="ARCHITECTURE")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"miniature": {}, "sizes": {}}
    if given.json.exists():
        record = json.loads(given.json.read_text(encoding="utf-8"))

    def keep() -> None:
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    for title, options in RECIPES.items():
        if title not in record["miniature"]:
            record["miniature"][title] = _exported(given.work / "bundle", options)
            keep()
    if given.sizes is not None and given.sizes not in record["sizes"]:
        record["sizes"][given.sizes] = _sizes(given.sizes)
        keep()


def _exported(bundle: Path, options: list[str]) -> dict[str, Any]:
    """The miniature's figures, or the gate that refused it."""
    command = [
        "export",
        "--base",
        "mini",
        "--target",
        "coreml",
        "--out",
        str(bundle),
        "--overwrite",
        *options,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "dreamcache.runtime.cli", *command],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"options": options, "refused": done.stderr.strip().splitlines()[-1]}
    part = json.loads((bundle / "dreamcache.json").read_text(encoding="utf-8"))["coreml"]
    kinds = list(part["layers"].values())
    found = {
        "options": options,
        "unet_bytes": _bytes(bundle / "coreml/Unet.mlpackage"),
        "disk_ratio": part["disk_ratio"],
        "psnr_db": {name: part["psnr_db"][name] for name in ("cache fp16", "denoise fp16")},
        "final_latent_db": part["trajectory_db"][-1],
        "condition": part["condition"],
        "formats": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    }
    shutil.rmtree(bundle)
    return found


def _sizes(architecture: str) -> dict[str, int]:
    """Bytes of the denoiser's package by format."""
    from dreamcache.export.coreml.convert import convert_graph
    from dreamcache.export.coreml.modules import unet_modules
    from dreamcache.export.coreml.weights.compress import compress_package
    from dreamcache.export.declare.architecture import declare_architecture
    from dreamcache.export.options import WEIGHT_FORMATS
    from dreamcache.export.source import Source

    with TemporaryDirectory() as tokenizer, TemporaryDirectory() as scratch:
        source = Source.random(architecture, Path(tokenizer))
        shapes = declare_architecture(architecture, source.base, source.conditioned, None, 1)
        part = unet_modules(source.base, source.conditioned, shapes, "plain")["denoise"]
        exact = Path(scratch) / "fp16.mlpackage"
        convert_graph(part.module, part.inputs, part.outputs, exact)
        del source, part
        found = {"fp16": _bytes(exact)}
        for kind in WEIGHT_FORMATS[1:]:
            print(f"{architecture}: {kind}", file=sys.stderr, flush=True)
            place = Path(scratch) / f"{kind}.mlpackage"
            compress_package(exact, place, {}, kind)
            found[kind] = _bytes(place)
            shutil.rmtree(place)
    return found


def _bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
