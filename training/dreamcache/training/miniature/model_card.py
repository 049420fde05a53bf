"""The last stage: one folder with everything that ships, and a card that says how it was made.

The card's figures are read from the run's own records. What was tried on the way is told in `tried.md` of the run,
where there is one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from dreamcache.models.bases.parts.segmenter import FILE as SEGMENTER_FILE
from dreamcache.models.checkpoint import read_adapters

LIMIT_MB = 62
TRAINED = ("autoencoder", "decoder", "base", "adapters", "judge", "segmenter")

CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# DreamCache miniature

A latent diffusion model of Stable Diffusion's shape for {size} × {size} pictures of drawn toys, trained from scratch,
with the adapters that personalise it from one reference picture. It draws twelve kinds of toy in thirteen places, one
or two of them, plain or in four styles, and nothing else: it exists so that every part of the project runs, and is
tested, on a model that was really trained.

`StableDiffusionPipeline.from_pretrained` loads the folder; `adapters.safetensors` is loaded by
`dreamcache.models.checkpoint.load_adapters`.

## Parts

{parts}

## Data

{samples:,} samples of the drawn world (`dreamcache.training.world`), seed {seed}: a toy in a scene with a caption, and
the same toy in another pose on white; {pairs:,} with two toys, and {stylised:,} in a style. Captions name the
appearance, or a part of it, in seven of ten; what the adapters read never does. Toys come from the nine tenths of
174,960 identities that a hash does not hold out. References are flipped, jittered and partly erased as in the paper.

## Training

{stages}

Seconds are those of the steps alone.

Reconstruction by the autoencoder on held-out toys: {psnr_db:.1f} dB, {toy_psnr_db:.1f} dB on the toy's own pixels.

```sh
dreamcache train miniature all --run runs/mini     # data, autoencoder, latents, base, adapters, judge, segmenter, ship
dreamcache evaluate toys                           # its figures
```

Schedules:

```json
{schedules}
```

## Sampling

Recommended: {guidance}.

{tried}
## Licence

Apache-2.0, like the code. The pictures it was trained on are drawn by that code; no one else's data is in it.
"""


def _count(path: Path) -> int:
    return sum(value.numel() for value in load_file(path).values())


def _record(run: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / name / "losses.json").read_text(encoding="utf-8"))
    return record


def _stage_row(run: Path, name: str) -> str:
    record = _record(run, name)
    tail = record["losses"][-max(1, len(record["losses"]) // 50) :]
    schedule = record["schedule"]
    return (
        f"| {name} | {record['steps']:,} | {schedule['batch']} | {schedule['learning_rate']:g} | {schedule['seed']} "
        f"| {record['seconds']:,.0f} | {record['hardware']} | {sum(tail) / len(tail):.4f} |"
    )


def ship(run: Path, recipe: Mapping[str, Any]) -> Path:
    """Gather base, adapters, loss curves and card in `run/ship`; a folder of that name is one that is finished.

    recipe: as a dict.
    Raises ValueError where the weights exceed 62 MB.
    """
    out, place = run / ".ship.partial", run / "ship"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run / "base" / "pipeline", out)
    for path in out.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a folder of the machine that trained it
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (out / SEGMENTER_FILE).parent.mkdir()
    shutil.copy(run / SEGMENTER_FILE, out / SEGMENTER_FILE)
    tensors, metadata = read_adapters(run / "adapters" / "adapters.safetensors")
    guidance = json.loads(metadata["guidance"])
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(halves, out / "adapters.safetensors", metadata)
    curves = out / "training"
    curves.mkdir()
    for name in TRAINED:
        for suffix in ("json", "png"):
            shutil.copy(run / name / f"losses.{suffix}", curves / f"{name}.{suffix}")
    weights = sorted(out.rglob("*.safetensors"))
    megabytes = sum(path.stat().st_size for path in weights) / 1e6
    if megabytes > LIMIT_MB:
        raise ValueError(f"the weights take {megabytes:.1f} MB, the limit is {LIMIT_MB} MB")
    parts = "\n".join(
        f"| {path.relative_to(out)} | {_count(path):,} | {path.stat().st_size / 1e6:.1f} |"
        for path in weights
    )
    tried = run / "tried.md"
    titles = (
        "stage",
        "steps",
        "batch",
        "peak learning rate",
        "seed",
        "seconds",
        "hardware",
        "loss at the end",
    )
    header = f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|\n"
    card = CARD.format(
        parts=f"| weights (float16) | parameters | MB |\n|---|---|---|\n{parts}",
        **{name: recipe[name] for name in ("samples", "pairs", "stylised", "size", "seed")},
        stages=header + "\n".join(_stage_row(run, name) for name in TRAINED),
        schedules=json.dumps({name: _record(run, name)["schedule"] for name in TRAINED}, indent=1),
        guidance=", ".join(f"{name.replace('_', ' ')} {value}" for name, value in guidance.items()),
        tried=tried.read_text(encoding="utf-8") if tried.exists() else "",
        **json.loads((run / "autoencoder" / "report.json").read_text(encoding="utf-8")),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    return out.rename(place)
