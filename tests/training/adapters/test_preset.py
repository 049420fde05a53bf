"""Presets: the paper's values, replaced by name, refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcache.models.config import AdapterConfig
from dreamcache.runtime.errors import SettingsError
from dreamcache.training.adapters.preset import FREE, PRESETS, Preset, choose_preset
from dreamcache.training.augmentation import Chances


def test_the_paper_preset_holds_what_the_paper_states() -> None:
    paper = choose_preset("paper")
    assert (paper.steps, paper.batch, paper.learning_rate) == (200_000, 12, 1e-5)
    assert (paper.resolution, paper.caption_drop) == (512, 0.07)
    assert paper.chances == Chances(0.5, 0.1, 0.4)
    assert paper.adapters == AdapterConfig("spatial_concat", "middle+decoder", 1, "")
    assert paper.ema is None


def test_every_value_can_be_replaced_by_a_text() -> None:
    for name, preset in PRESETS.items():
        texts = [f"{key}={'none' if value is None else value}" for key, value in preset.model_dump().items()]
        assert choose_preset(name, texts) == preset
    changed = choose_preset("paper", ["ema=0.99", "recompute=true", "steps=5"], steps=7, batch=None)
    assert (changed.ema, changed.recompute, changed.steps, changed.batch) == (0.99, True, 7, 12)
    assert choose_preset("paper", ["cache_prompt=a toy = a robot"]).cache_prompt == "a toy = a robot"


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("stepz=3", r"a preset has no value named 'stepz'; expected one of steps, batch"),
        ("steps=many", r"steps is 'many': input should be a valid integer"),
        ("steps=0", r"steps is '0': input should be greater than or equal to 1"),
        ("ema=1.5", r"ema is '1.5'"),
        ("steps=1e30", r"steps is '1e30': input should be a valid integer"),
        ("resolution=9999999999", r"resolution is '9999999999': a number of at most 2147483647 is expected"),
        ("learning_rate=inf", r"learning_rate is 'inf': input should be a finite number"),
        ("guidance=1e400", r"guidance is '1e400': input should be a finite number"),
        ("guidance=10001", r"guidance is '10001': input should be less than or equal to 10000"),
        ("cache_prompt=\ud83d", r"cache_prompt is .*can't encode character"),
        (
            "seed=9223372036854775808",
            r"seed is .*: input should be less than or equal to 9223372036854775807",
        ),
        ("precision=fp16", r"precision is 'fp16': input should be 'bf16', 'fp32' or 'auto'"),
        ("steps", r"NAME=VALUE is expected"),
    ],
)
def test_a_wrong_value_is_one_line(assignment: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        choose_preset("paper", [assignment])
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="choose one of paper, trial, miniature"):
        choose_preset("papers")


def test_the_rate_warms_up_and_stays() -> None:
    preset = Preset().replaced(learning_rate=1.0, warmup=3)
    assert [preset.rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert Preset().rate(0) == Preset().rate(10**9) == 1e-5


def test_a_rate_that_falls_ends_low_and_fixes_the_steps() -> None:
    falling = Preset().replaced(learning_rate=1.0, warmup=3, steps=103, schedule="cosine")
    assert [falling.rate(step) for step in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert falling.rate(53) == pytest.approx(0.02 + 0.98 / 2)
    assert falling.rate(102) == pytest.approx(0.02, abs=1e-3)
    assert "steps" in falling.fixed
    assert "steps" not in Preset().fixed


def test_the_miniature_s_preset_is_the_recipe_of_its_card() -> None:
    preset = choose_preset("miniature")
    assert (preset.optimizer, preset.schedule, preset.pairs_every, preset.ema) == ("muon", "cosine", 4, 0.999)
    assert (preset.steps, preset.batch, preset.learning_rate, preset.warmup) == (2000, 64, 5e-3, 100)
    assert (preset.guidance_mode, preset.guidance, preset.reference_guidance) == ("text_first", 3.0, 8.0)


def table() -> list[str]:
    """The lines of the document's table of presets."""
    return [
        f"| `{name}` | {' | '.join(_told(getattr(one, name)) for one in PRESETS.values())} | {field.description} |"
        for name, field in Preset.model_fields.items()
    ]


def _told(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value) or "empty"


def test_the_document_states_every_value_of_all_presets() -> None:
    document = Path(__file__).parents[3] / "docs" / "guides" / "training.md"
    lines = document.read_text(encoding="utf-8").splitlines()
    assert [line for line in table() if line not in lines] == []
    assert [line for line in lines if line.startswith("| `")] == table()


def test_what_may_change_are_values_of_a_preset() -> None:
    assert set(Preset.model_fields) > FREE
