"""The miniature's recipe: the stages in their order, each one command, each continued where it was stopped.

A run is a folder: `data/`, `pairs/` and `stylised/` (rendered samples), `autoencoder/`, latents of each, `base/`,
`adapters/`, `judge/`.
What a stage needs from an earlier one it reads from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from dreamcache.models.bases.parts.segmenter import FILE as SEGMENTER_FILE
from dreamcache.models.bases.parts.segmenter import save_segmenter
from dreamcache.runtime.files import write_json
from dreamcache.training.device import training_device
from dreamcache.training.errors import CheckpointError
from dreamcache.training.miniature.latents import (
    FOLDERS,
    encode_dataset,
    join_samples,
    latent_scale,
    load_latents,
)
from dreamcache.training.miniature.loop import Schedule
from dreamcache.training.miniature.model_card import ship
from dreamcache.training.miniature.stages.attribute_classifier import (
    accuracy_on_renders,
    save_classifier,
    train_classifier,
)
from dreamcache.training.miniature.stages.autoencoder import reconstruction_db, train_autoencoder
from dreamcache.training.miniature.stages.decoder import train_decoder
from dreamcache.training.miniature.stages.perceptual import train_features
from dreamcache.training.miniature.stages.segmenter import iou_on_renders, train_segmenter
from dreamcache.training.miniature.stages.text_to_image import train_text_to_image
from dreamcache.training.miniature.stages.whitening import whiten
from dreamcache.training.miniature.tokenizer import make_tokenizer
from dreamcache.training.world.dataset import (
    Of,
    draw_batch,
    read_shards,
    render_dataset,
    shard_path,
    stored_size,
)

AUTOENCODER_SAMPLES = 12_000
"""Many crops each: more pictures bring the autoencoder nothing."""
AUTOENCODER = Schedule(
    steps=3000,
    batch=16,
    learning_rate=2e-3,
    warmup=20,
    ema=0.99,
    weight_decay=0.0,
    checkpoint_every=100,
    muon=True,
    cooldown=0.3,
)
DECODER_SAMPLES = 3000
DECODER = Schedule(
    steps=900,
    batch=16,
    learning_rate=6e-4,
    warmup=20,
    ema=0.98,
    weight_decay=0.0,
    checkpoint_every=50,
    muon=True,
    cooldown=0.5,
)
BASE = Schedule(
    steps=12_000,
    batch=128,
    parts=2,
    learning_rate=2.5e-3,
    checkpoint_every=20,
    muon=True,
    cooldown=0.2,
    compiled=True,
)
SEGMENTER = Schedule(
    steps=1500, batch=24, learning_rate=3e-3, warmup=30, ema=0.99, checkpoint_every=50, muon=True
)
SEGMENTER_SAMPLES = 16_000
JUDGE = Schedule(steps=3000, batch=64, learning_rate=1e-3, checkpoint_every=200, muon=True)
ON_GPU: dict[str, Any] = {
    "samples": 72_000,
    "pairs": 10_000,
    "stylised": 6000,
    "autoencoder": replace(AUTOENCODER, steps=2000, batch=256, checkpoint_every=1000),
    "base": replace(
        BASE, steps=3100, batch=1024, parts=1, learning_rate=3.5e-3, ema=0.995, checkpoint_every=500
    ),
    "judge": replace(JUDGE, steps=4000, checkpoint_every=1000),
    "segmenter": replace(SEGMENTER, steps=3000, batch=48, checkpoint_every=1000),
}
"""What differs where there is a GPU: more samples, larger batches, and fewer checkpoints for the same time."""
ADAPTERS_ON_GPU = {"steps": 2100, "batch": 512, "variants": 3, "ema": 0.998, "workers": 10}
"""The same of the preset `miniature`."""
OF_ANY_SIZE = ("data", "judge", "segmenter")
"""Stages that need no base."""
BASE_FOLDER = Path("base", "pipeline")
"""Of a run."""


@dataclass(frozen=True)
class Recipe:
    """All choices of a run.

    samples: with one toy. pairs: with two, in addition. stylised: with one, in a style, in addition. size: of
    pictures, in pixels.
    """

    samples: int = 48_000
    pairs: int = 10_000
    stylised: int = 6_000
    size: int = 128
    seed: int = 0
    autoencoder: Schedule = AUTOENCODER
    decoder: Schedule = DECODER
    base: Schedule = BASE
    judge: Schedule = JUDGE
    segmenter: Schedule = SEGMENTER


def usual_recipe() -> Recipe:
    """That of this machine."""
    recipe = Recipe()
    return recipe if training_device().type == "cpu" else replace(recipe, **ON_GPU)


def _kinds(run: Path, recipe: Recipe) -> dict[Of, tuple[Path, Path, int]]:
    """Where samples of each kind and their latents lie, and how many there are; kinds of none are left out."""
    counts: dict[Of, int] = {"one": recipe.samples, "two": recipe.pairs, "stylised": recipe.stylised}
    return {
        of: (run / data, run / latents, counts[of]) for of, (data, latents) in FOLDERS.items() if counts[of]
    }


def stage_data(run: Path, recipe: Recipe) -> None:
    """Render the samples."""
    for of, (rendered, _, samples) in _kinds(run, recipe).items():
        render_dataset(rendered, samples, recipe.seed, of=of, size=recipe.size)


def stage_autoencoder(run: Path, recipe: Recipe) -> None:
    """Train the autoencoder, make its latents white, and sharpen its decoder."""
    vae = train_autoencoder(
        run / "data", run / "autoencoder", recipe.autoencoder, min(recipe.samples, AUTOENCODER_SAMPLES)
    )
    first = next(read_shards(run / "data", 1))
    whiten(vae.eval(), first)
    perceived = train_features(first.targets, first.labels, run / "autoencoder" / "features")
    samples = min(recipe.samples, DECODER_SAMPLES)
    train_decoder(vae, run / "data", samples, run / "decoder", recipe.decoder, perceived)
    vae.save_pretrained(run / "autoencoder" / "vae")
    whole, toy = reconstruction_db(vae, draw_batch(recipe.seed, 200, 200, held_out=True, size=recipe.size))
    write_json(run / "autoencoder" / "report.json", {"psnr_db": whole, "toy_psnr_db": toy})


def _autoencoder(run: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(run / "autoencoder" / "vae").eval()


def stage_latents(run: Path, recipe: Recipe) -> None:
    """Encode the targets."""
    vae, tokenizer = _autoencoder(run).to(training_device()), make_tokenizer()
    for rendered, latents, samples in _kinds(run, recipe).values():
        encode_dataset(rendered, latents, samples, vae, tokenizer)


def stage_base(run: Path, recipe: Recipe) -> None:
    """Train text encoder and UNet; leaves the whole base as a diffusers folder."""
    vae = _autoencoder(run)
    scale = latent_scale(run / "latents")
    vae.register_to_config(scaling_factor=scale)
    latents = join_samples([load_latents(folder, n, scale) for _, folder, n in _kinds(run, recipe).values()])
    pipeline: StableDiffusionPipeline = train_text_to_image(
        latents, vae, make_tokenizer(), run / "base", recipe.base
    )
    # stored as it ships, so that everything after this stage learns from and is tied to the same numbers
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(run / BASE_FOLDER)


def stage_judge(run: Path, recipe: Recipe) -> None:
    """Train the judge of the evaluation."""
    data = {of: (rendered, samples) for of, (rendered, _, samples) in _kinds(run, recipe).items()}
    judge = train_classifier(data, run / "judge", recipe.judge)
    report = accuracy_on_renders(judge)
    write_json(run / "judge" / "report.json", report)
    save_classifier(judge, run / "judge" / "judge.safetensors", report)


def stage_segmenter(run: Path, recipe: Recipe) -> None:
    """Train the segmenter that finds a reference's toy in its scene."""
    samples = min(recipe.samples, SEGMENTER_SAMPLES)
    segmenter = train_segmenter(run / "data", samples, run / "segmenter", recipe.segmenter)
    report = {"iou_on_held_out_renders": iou_on_renders(segmenter, recipe.size)}
    write_json(run / "segmenter" / "report.json", report)
    about = {name: f"{value:.4f}" for name, value in report.items()}
    save_segmenter(run / SEGMENTER_FILE, segmenter, recipe.size, about)


def stage_ship(run: Path, recipe: Recipe) -> None:
    """Gather what ships."""
    ship(run, asdict(recipe))


def check_run_size(run: Path, recipe: Recipe) -> None:
    """Raises: CheckpointError for a folder that a recipe with pictures of another size began."""
    for data, _ in FOLDERS.values():
        first = shard_path(run / data, 0)
        if first.exists() and (size := stored_size(first)) != recipe.size:
            raise CheckpointError(
                f"{first} holds pictures of {size} × {size} pixels and this recipe draws {recipe.size} × "
                f"{recipe.size}: begin a new run in another folder (--run)"
            )


def continue_stage(name: str, run: Path, recipe: Recipe) -> None:
    """One stage of the run, but for the adapters, which the trainer for users makes (`train adapters`).

    Raises: CheckpointError for a folder that another recipe began.
    """
    check_run_size(run, recipe)
    if recipe.size != Recipe.size and name not in OF_ANY_SIZE:
        raise CheckpointError(
            f"the stage {name} is of {Recipe.size} × {Recipe.size} pixels, received {recipe.size} × {recipe.size}: "
            f"leave --size out; {', '.join(OF_ANY_SIZE)} take others"
        )
    STAGES[name](run, recipe)


STAGES: dict[str, Callable[[Path, Recipe], None]] = {
    "data": stage_data,
    "autoencoder": stage_autoencoder,
    "latents": stage_latents,
    "base": stage_base,
    "judge": stage_judge,
    "segmenter": stage_segmenter,
    "ship": stage_ship,
}
