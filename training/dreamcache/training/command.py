"""The subcommand `dreamcache train`: the miniature's stages, or adapters for any base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

ORDER = ("data", "autoencoder", "latents", "base", "adapters", "judge", "ship")
MINIATURE_RUN = Path("runs/mini")
ADAPTERS_RUN = Path("runs/adapters")
# The options that have a meaning with or without --base alone.
OF_THE_MINIATURE = ("samples", "pairs", "stylised")
OF_ANY_BASE = ("data", "preset", "assignments", "encoded", "as_json")


def train(
    context: typer.Context,
    stage: Annotated[
        str,
        typer.Argument(
            help=f"One of {', '.join(ORDER)}; all runs them in this order. With --base: adapters."
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; a run that is there is continued. "
            f"{MINIATURE_RUN}, or with --base {ADAPTERS_RUN}."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Rendered samples, in whole thousands.")] = None,
    pairs: Annotated[
        int | None, typer.Option(min=0, help="Rendered samples with two toys, in whole thousands.")
    ] = None,
    stylised: Annotated[
        int | None, typer.Option(min=0, help="Rendered samples in a style, in whole thousands.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the stage.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples a step; with --base, a pass on one device.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of the stage.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the stage.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Train adapters for this base: a diffusers folder, Hub id, checkpoint or mini."),
    ] = None,
    data: Annotated[
        str, typer.Option(help="With --base: a folder of shards or of plain files, or world:N.")
    ] = "",
    preset: Annotated[str, typer.Option(help="With --base: paper or trial.")] = "paper",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="With --base: another value of the preset; repeatable."
        ),
    ] = None,
    encoded: Annotated[
        Path | None,
        typer.Option(help="With --base: where latents and embeddings are kept; RUN/encoded by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --base: print the outcome as JSON.")] = False,
) -> None:
    """Train adapters for a base, or the miniature on the drawn world, stage by stage."""
    if stage not in (*ORDER, "all"):
        raise typer.BadParameter(
            f"{stage!r} is not one of {', '.join((*ORDER, 'all'))}", param_hint="'STAGE'"
        )
    if base is None:
        _refuse(context, OF_ANY_BASE, "is for training with --base")
        counts: dict[str, Any] = {"samples": samples, "pairs": pairs, "stylised": stylised}
        schedule = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
        _train_miniature(stage, run or MINIATURE_RUN, counts, schedule)
        return
    if stage != "adapters":
        raise typer.BadParameter(f"{stage!r}: with --base only adapters are trained", param_hint="'STAGE'")
    if not data:
        raise typer.BadParameter("is needed with --base", param_hint="'--data'")
    _refuse(context, OF_THE_MINIATURE, "is for the miniature's stages, without --base")
    from dreamcache.training.adapters.data import open_source
    from dreamcache.training.adapters.preset import choose_preset
    from dreamcache.training.adapters.run import finetune

    chosen = choose_preset(
        preset, assignments or (), steps=steps, batch=batch, learning_rate=learning_rate, seed=seed
    )
    done = finetune(base, open_source(data, chosen.resolution), run or ADAPTERS_RUN, chosen, encoded)
    if done.main:
        typer.echo(json.dumps(done.as_dict()) if as_json else done.as_line())


def _train_miniature(stage: str, run: Path, counts: dict[str, Any], schedule: dict[str, Any]) -> None:
    from dreamcache.training.miniature.recipe import Recipe, run_stage

    recipe = Recipe(**{name: value for name, value in counts.items() if value is not None})
    changed = {name: value for name, value in schedule.items() if value is not None}
    for name in ORDER if stage == "all" else (stage,):
        usual = getattr(recipe, name, None)
        ours = recipe if usual is None else replace(recipe, **{name: replace(usual, **changed)})
        run_stage(name, run, ours)


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Usage errors for options that would be ignored."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = {"assignments": "set", "as_json": "json"}.get(name, name)
            raise typer.BadParameter(why, param_hint=f"'--{option}'")
