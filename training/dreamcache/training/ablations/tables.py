"""What is compared: the paper's tables of ablations (section 4.3), and the questions that it leaves open.

A row changes one thing of the miniature's recipe. Rows of adapters that are trained alike share one training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dreamcache.models.config import AdapterConfig
from dreamcache.models.guidance import GuidanceMode
from dreamcache.training.evaluation.toys.pairs import PairCondition
from dreamcache.training.world.styles import PLAIN, STYLE_NAMES

PAPER = AdapterConfig()
TrainingData = Literal["rendered", "painted", "mixed"]

_ADAMW: dict[str, object] = {"optimizer": "adamw", "beta2": 0.999}
_PLAIN = {**_ADAMW, "schedule": "constant", "warmup": 0, "ema": None, "stratified": False}
RECIPES: dict[str, dict[str, object]] = {
    "miniature": {},
    "adamw": {**_ADAMW, "learning_rate": 1e-3},
    "plain": {**_PLAIN, "learning_rate": 1e-3},
    "paper": {**_PLAIN, "learning_rate": 1e-5},
}
"""Differences from the preset `miniature`, by name; steps and batch are the run's. `paper`: the paper's optimizer."""


@dataclass(frozen=True)
class Training:
    """One set of adapters.

    samples: None is all that there are. seed: of initial weights and batches. pairs: every fourth batch is of two toys.
    data: renders of the world, with the toy in another pose on the reference; the base's own pictures, with the same
    picture's toy cut out; or half of each. recipe: a name in RECIPES.
    """

    config: AdapterConfig = PAPER
    samples: int | None = None
    seed: int = 0
    pairs: bool = False
    data: TrainingData = "rendered"
    recipe: str = "miniature"

    @property
    def name(self) -> str:
        """A folder's name, another one for every training."""
        config = self.config
        parts = [config.fusion, config.sites, "t" + "+".join(map(str, config.timesteps))]
        parts += [config.cache_prompt.replace(" ", "_")] if config.cache_prompt else []
        parts += [f"{self.samples}"] if self.samples is not None else []
        parts += [f"seed{self.seed}"] if self.seed else []
        parts += ["pairs"] if self.pairs else []
        parts += [self.data] if self.data != "rendered" else []
        parts += [self.recipe] if self.recipe != "miniature" else []
        return "-".join(parts)


@dataclass(frozen=True)
class Guided:
    """Another guidance than the miniature recommends: mode and scales, as `dreamcache.models.guidance` has them."""

    mode: GuidanceMode
    text: float = 1.0
    reference: float = 1.0

    def __str__(self) -> str:
        scales = {"none": (), "classic": (self.text,)}.get(self.mode, (self.text, self.reference))
        return f"{self.mode.replace('_', ' ')} {' / '.join(f'{scale:g}' for scale in scales)}".strip()


@dataclass(frozen=True)
class AblationRow:
    """Pictures made in one way.

    training: None pictures the text alone. strength: of the adapters. references: how many pictures of the toy, in
    other poses, are cached. further: timesteps at which a reference is cached as well, by adapters that never saw
    that. foreground: tokens that hold no part of the toy are not read. style: what is done to the reference.
    prompt_styles: the prompts ask for a style, each for another one by turns. guidance: None is the miniature's own.
    pair: pictures of two toys, and what they are made from; of the others only training and guidance then matter.
    """

    name: str
    training: Training | None = Training()
    strength: float = 1.0
    references: int = 1
    further: tuple[int, ...] = ()
    foreground: bool = False
    style: str = PLAIN
    prompt_styles: bool = False
    guidance: Guided | None = None
    pair: PairCondition | None = None


@dataclass(frozen=True)
class Table:
    """Rows that answer one question."""

    question: str
    rows: tuple[AblationRow, ...]


TEXT_ONLY = AblationRow("no reference", None)


def _trained(name: str, **changes: object) -> AblationRow:
    return AblationRow(name, Training(replace(PAPER, **changes)))  # type: ignore[arg-type]  # fields of the config


TWO: dict[PairCondition, str] = {
    "joined": "joined",
    "masked": "masked",
    "left_alone": "left only",
}


TABLES: dict[str, Table] = {
    "fusion": Table(
        "How does the reference join the block?",
        (
            TEXT_ONLY,
            _trained("textual sum", fusion="textual_sum"),
            _trained("spatial sum", fusion="spatial_sum"),
            _trained("decoupled blocks", fusion="decoupled"),
            AblationRow("spatial concat"),
            AblationRow("concat, seed 1", Training(seed=1)),
        ),
    ),
    "sites": Table(
        "Which blocks are tapped?",
        (
            TEXT_ONLY,
            _trained("encoder", sites="encoder"),
            _trained("middle", sites="middle"),
            _trained("decoder", sites="decoder"),
            AblationRow("middle and decoder"),
            _trained("all", sites="all"),
        ),
    ),
    "timestep": Table(
        "At which timestep is the reference cached?",
        (
            AblationRow("1"),
            _trained("150", cache_timestep=150),
            _trained("300", cache_timestep=300),
            AblationRow("1 and 150 untrained", further=(150,)),
            _trained("1 and 150 trained", further_timesteps=(150,)),
        ),
    ),
    "text": Table(
        "Does the caching pass read a text?",
        (AblationRow("null text"), _trained('"a toy"', cache_prompt="a toy")),
    ),
    "data": Table(
        "How many samples do the adapters need?",
        (
            TEXT_ONLY,
            AblationRow("1,000", Training(samples=1000)),
            AblationRow("5,000", Training(samples=5000)),
            AblationRow("all"),
        ),
    ),
    "recipe": Table(
        "What does the miniature's recipe bring?",
        (
            TEXT_ONLY,
            AblationRow("AdamW, 0.00001", Training(recipe="paper")),
            AblationRow("AdamW, 0.001", Training(recipe="plain")),
            AblationRow("AdamW, 0.001, falling", Training(recipe="adamw")),
            AblationRow("Muon, 0.005, falling"),
        ),
    ),
    "synthetic": Table(
        "Are triplets that the base paints as good as true ones?",
        (
            TEXT_ONLY,
            AblationRow("painted by the base", Training(samples=1000, data="painted")),
            AblationRow("true", Training(samples=1000)),
            AblationRow("half of each", Training(samples=1000, data="mixed")),
        ),
    ),
    "strength": Table(
        "What does the strength do at run time?",
        tuple(
            AblationRow(f"{strength:g}", strength=strength)
            for strength in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
        ),
    ),
    "references": Table(
        "Do more pictures of the subject help?",
        tuple(AblationRow(f"{count}", references=count) for count in (1, 2, 3, 4)),
    ),
    "foreground": Table(
        "Is the background of the reference needed?",
        (AblationRow("all tokens"), AblationRow("subject alone", foreground=True)),
    ),
    "guidance": Table(
        "How do text and reference share the guidance?",
        tuple(
            AblationRow(str(guided), guidance=guided)
            for guided in (
                Guided("none"),
                Guided("classic", 3.0),
                Guided("dual", 7.5, 0.4),
                Guided("dual", 3.0, 3.0),
                Guided("dual", 2.0, 5.0),
                Guided("text_first", 3.0, 3.0),
                Guided("text_first", 3.0, 5.0),
                Guided("text_first", 3.0, 8.0),
                Guided("text_first", 3.0, 12.0),
            )
        ),
    ),
    "styles": Table(
        "What if the reference is stylised?",
        tuple(
            AblationRow(f"{style}, {known}", Training(samples=samples), style=style)
            for samples, known in ((None, "all"), (1000, "1,000"))
            for style in STYLE_NAMES
        ),
    ),
    "prompts": Table(
        "What if the prompt asks for a style?",
        (
            AblationRow("no reference", None, prompt_styles=True),
            AblationRow("1,000", Training(samples=1000), prompt_styles=True),
            AblationRow("5,000", Training(samples=5000), prompt_styles=True),
            AblationRow("all", prompt_styles=True),
        ),
    ),
    "subjects": Table(
        "Two subjects in one picture?",
        (
            AblationRow("no reference", None, pair="text_only"),
            *(
                AblationRow(f"{what}, {trained}", Training(pairs=pairs), pair=pair)
                for pairs, trained in ((True, "pairs"), (False, "singles"))
                for pair, what in TWO.items()
            ),
        ),
    ),
}
