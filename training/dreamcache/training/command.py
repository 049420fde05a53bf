"""The subcommand `dreamcache train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

ORDER = ("data", "autoencoder", "latents", "base", "adapters", "judge", "ship")


def train(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(ORDER)}; all runs them in this order.")],
    run: Annotated[Path, typer.Option(help="Folder of the run; a run that is there is continued.")] = Path(
        "runs/mini"
    ),
    samples: Annotated[int | None, typer.Option(min=1, help="Rendered samples, in whole thousands.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the stage.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a step; larger on a GPU.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of the stage.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the stage.")] = None,
) -> None:
    """Train the miniature on the drawn world, stage by stage."""
    if stage not in (*ORDER, "all"):
        raise typer.BadParameter(
            f"{stage!r} is not one of {', '.join((*ORDER, 'all'))}", param_hint="'STAGE'"
        )
    from dreamcache.training.recipe import STAGES, Recipe

    recipe = Recipe() if samples is None else Recipe(samples=samples)
    given = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    changed = {name: value for name, value in given.items() if value is not None}
    for name in ORDER if stage == "all" else (stage,):
        schedule = getattr(recipe, name, None)
        ours = recipe if schedule is None else replace(recipe, **{name: replace(schedule, **changed)})
        STAGES[name](run, ours)
