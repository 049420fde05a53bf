"""What is compared: the paper's tables of ablations (section 4.3), and the questions that it leaves open.

A row changes one thing of the miniature's recipe. Rows of adapters that are trained alike share one training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dreamcache.training.ablations.styles import STYLES

from dreamcache.models.config import AdapterConfig

PAPER = AdapterConfig()


@dataclass(frozen=True)
class Training:
    """One set of adapters. samples: None is all that there are. seed: of initial weights and batches."""

    config: AdapterConfig = PAPER
    samples: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """A folder's name, another one for every training."""
        config = self.config
        parts = [config.fusion, config.sites, "t" + "+".join(map(str, config.timesteps))]
        parts += [config.cache_prompt.replace(" ", "_")] if config.cache_prompt else []
        parts += [f"{self.samples}"] if self.samples is not None else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)


@dataclass(frozen=True)
class Row:
    """Pictures made in one way.

    training: None pictures the text alone. strength: of the adapters. references: how many pictures of the toy, in
    other poses, are cached. further: timesteps at which a reference is cached as well, by adapters that never saw
    that. foreground: tokens that hold no part of the toy are not read. style: what is done to the reference.
    """

    name: str
    training: Training | None = Training()
    strength: float = 1.0
    references: int = 1
    further: tuple[int, ...] = ()
    foreground: bool = False
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows that answer one question."""

    question: str
    rows: tuple[Row, ...]


TEXT_ONLY = Row("no reference", None)


def _trained(name: str, **changes: object) -> Row:
    return Row(name, Training(replace(PAPER, **changes)))  # type: ignore[arg-type]  # fields of the config


TABLES: dict[str, Table] = {
    "fusion": Table(
        "How does the reference join the block?",
        (
            TEXT_ONLY,
            _trained("textual sum", fusion="textual_sum"),
            _trained("spatial sum", fusion="spatial_sum"),
            _trained("decoupled blocks", fusion="decoupled"),
            Row("spatial concat"),
            Row("concat, seed 1", Training(seed=1)),
        ),
    ),
    "sites": Table(
        "Which blocks are tapped?",
        (
            TEXT_ONLY,
            _trained("encoder", sites="encoder"),
            _trained("middle", sites="middle"),
            _trained("decoder", sites="decoder"),
            Row("middle and decoder"),
            _trained("all", sites="all"),
        ),
    ),
    "timestep": Table(
        "At which timestep is the reference cached?",
        (
            Row("1"),
            _trained("150", cache_timestep=150),
            _trained("300", cache_timestep=300),
            Row("1 and 150 untrained", further=(150,)),
            _trained("1 and 150 trained", further_timesteps=(150,)),
        ),
    ),
    "text": Table(
        "Does the caching pass read a text?",
        (Row("null text"), _trained('"a toy"', cache_prompt="a toy")),
    ),
    "data": Table(
        "How many samples do the adapters need?",
        (
            TEXT_ONLY,
            Row("1,000", Training(samples=1000)),
            Row("5,000", Training(samples=5000)),
            Row("all"),
        ),
    ),
    "strength": Table(
        "What does the strength do at run time?",
        tuple(Row(f"{strength:g}", strength=strength) for strength in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)),
    ),
    "references": Table(
        "Do more pictures of the subject help?",
        tuple(Row(f"{count}", references=count) for count in (1, 2, 3, 4)),
    ),
    "foreground": Table(
        "Is the background of the reference needed?",
        (Row("all tokens"), Row("subject alone", foreground=True)),
    ),
    "styles": Table(
        "What if the reference is stylised?",
        tuple(
            Row(f"{style or 'as drawn'}, {known}", Training(samples=samples), style=style)
            for samples, known in ((None, "all"), (1000, "1,000"))
            for style in ("", *STYLES)
        ),
    ),
}
