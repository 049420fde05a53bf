"""Train adapters for a base of your own, or the miniature on the drawn world, stage by stage."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.runtime.cli.options import RenamedGroup
from dreamcache.runtime.cli.words import shown

if TYPE_CHECKING:
    from dreamcache.training.miniature.recipe import Recipe

ORDER = ("data", "autoencoder", "latents", "base", "adapters", "judge", "segmenter", "ship")

Steps = Annotated[int | None, typer.Option(min=1, help="Training steps; default: the preset's or stage's.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples per step on one device.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and noise.")]


class _Train(RenamedGroup):
    def answer(self, arguments: list[str]) -> str | None:
        """The stages were arguments of `train` itself."""
        stage = arguments[0] if arguments else ""
        given = {argument.partition("=")[0] for argument in arguments}
        if stage not in (*ORDER, "all") or given & {"--help", "--base", "--data"}:
            return None
        command = f"`dreamcache train miniature {shlex.join(arguments)}`"
        if stage == "adapters":
            return f"train adapters needs --base and --data; the miniature's own adapters: {command}"
        return f"the miniature's stages are now {command}"


train = typer.Typer(cls=_Train, no_args_is_help=True, add_completion=False, help=__doc__)


@train.command()
def adapters(
    base: Annotated[str, typer.Option(help="Base: diffusers folder, Hub id, checkpoint file or mini.")],
    data: Annotated[
        str,
        typer.Option(
            help="Data: folder of shards or of plain files, world:N, or world:N+M with M of two toys."
        ),
    ],
    run: Annotated[Path, typer.Option(help="Folder of the run; an existing run is continued.")] = Path(
        "runs/adapters"
    ),
    preset: Annotated[str, typer.Option(help="Preset: paper, miniature or trial.")] = "paper",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Value of the preset; repeatable.")
    ] = None,
    encoded: Annotated[
        Path | None, typer.Option(help="Folder of latents and embeddings; default RUN/encoded.")
    ] = None,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: LearningRate = None,
    seed: Seed = None,
    as_json: Annotated[bool, typer.Option("--json", help="Outcome as JSON.")] = False,
) -> None:
    """Train the conditioning adapters for a base (the paper's method)."""
    from dreamcache.training.adapters.data import open_pairs, open_source
    from dreamcache.training.adapters.preset import choose_preset
    from dreamcache.training.adapters.run import finetune, resolved

    chosen = choose_preset(
        preset, assignments or (), steps=steps, batch=batch, learning_rate=learning_rate, seed=seed
    )
    chosen = resolved(chosen, base)
    assert chosen.resolution is not None
    source, pairs = open_source(data, chosen.resolution), open_pairs(data, chosen.resolution)
    done = finetune(base, source, run, chosen, encoded, pairs)
    if done.main:
        typer.echo(json.dumps(done.as_dict()) if as_json else shown(done.as_line()))


@train.command()
def miniature(
    stage: Annotated[str, typer.Argument(help=f"Stage: {', '.join(ORDER)}; all = each in this order.")],
    run: Annotated[Path, typer.Option(help="Folder of the run; an existing run is continued.")] = Path(
        "runs/mini"
    ),
    samples: Annotated[
        int | None, typer.Option(min=1, help="Rendered samples, rounded up to thousands.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=0, help="Rendered samples with two toys, rounded up to thousands.")
    ] = None,
    stylised: Annotated[
        int | None, typer.Option(min=0, help="Rendered samples in a style, rounded up to thousands.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=64, help="Side of the pictures in pixels (data, judge, segmenter); default 128."),
    ] = None,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: LearningRate = None,
    seed: Seed = None,
) -> None:
    """Train the miniature on the drawn world: one stage, or all."""
    if stage not in (*ORDER, "all"):
        raise typer.BadParameter(
            f"{stage!r} is not one of {', '.join((*ORDER, 'all'))}", param_hint="'STAGE'"
        )
    from dreamcache.training.miniature.recipe import continue_stage, usual_recipe

    counts: dict[str, Any] = {"samples": samples, "pairs": pairs, "stylised": stylised, "size": size}
    schedule = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    counts = {name: value for name, value in counts.items() if value is not None}
    recipe = replace(usual_recipe(), **counts)
    changed = {name: value for name, value in schedule.items() if value is not None}
    for name in ORDER if stage == "all" else (stage,):
        if name == "adapters":
            _train_miniature_adapters(run, recipe, schedule)
            continue
        usual = getattr(recipe, name, None)
        ours = recipe if usual is None else replace(recipe, **{name: replace(usual, **changed)})
        continue_stage(name, run, ours)


def _train_miniature_adapters(run: Path, recipe: Recipe, schedule: dict[str, Any]) -> None:
    """As `train adapters --preset miniature`, on the base of the run."""
    from dreamcache.training.adapters.data import StoredWorld
    from dreamcache.training.adapters.preset import choose_preset
    from dreamcache.training.adapters.run import finetune
    from dreamcache.training.device import training_device
    from dreamcache.training.miniature.latents import FOLDERS
    from dreamcache.training.miniature.recipe import ADAPTERS_ON_GPU, BASE_FOLDER, check_run_size

    check_run_size(run, recipe)
    ours = {} if training_device().type == "cpu" else ADAPTERS_ON_GPU
    asked = {name: value for name, value in schedule.items() if value is not None}
    preset = choose_preset("miniature", resolution=recipe.size, **ours | asked)
    ones = StoredWorld(recipe.samples, recipe.size, "one", recipe.seed, run / FOLDERS["one"][0])
    twos = StoredWorld(recipe.pairs, recipe.size, "two", recipe.seed, run / FOLDERS["two"][0])
    finetune(str(run / BASE_FOLDER), ones, run / "adapters", preset, None, twos if recipe.pairs else None)
