"""`dreamcache ablate`: every row changes what it names, and what is there is not made again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamcache.models.checkpoint import load_adapters
from dreamcache.runtime.cli.main import main
from dreamcache.runtime.errors import SettingsError
from dreamcache.training.ablations.columns import cells, columns
from dreamcache.training.ablations.painted import MixedTriplets, PaintedWorld
from dreamcache.training.ablations.pictures import other_views, prompt_styles, sampling
from dreamcache.training.ablations.rows import RECIPE, Ablation, Protocol
from dreamcache.training.ablations.tables import RECIPES, TABLES, AblationRow, Guided, Training
from dreamcache.training.adapters.data import DrawnWorld
from dreamcache.training.adapters.preset import PRESETS
from dreamcache.training.errors import BenchmarkError
from dreamcache.training.evaluation.toys.benchmark import draw_cases
from dreamcache.training.world.identity import COLOURS
from dreamcache.training.world.styles import PLAIN, STYLES, restyle

SMALL = Protocol(samples=6, pairs=6, steps=2, batch=2, identities=2, scenes=1, sampling_steps=2)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    return Ablation(tmp_path_factory.mktemp("ablation"), SMALL)


def test_rows_of_a_table_differ() -> None:
    for table in TABLES.values():
        ways = [replace(row, name="") for row in table.rows]
        assert len(set(ways)) == len(ways)
    trainings = {row.training for table in TABLES.values() for row in table.rows if row.training}
    assert len({training.name for training in trainings}) == len(trainings)


def test_recipes_lead_from_the_paper_s_to_the_miniature_s() -> None:
    changed = {name: RECIPE.replaced(**values) for name, values in RECIPES.items()}
    assert changed["miniature"] == RECIPE
    ours = (
        "optimizer",
        "learning_rate",
        "schedule",
        "warmup",
        "weight_decay",
        "beta1",
        "beta2",
        "ema",
        "stratified",
    )
    as_paper = {name: getattr(changed["paper"], name) for name in ours}
    assert as_paper == {name: getattr(PRESETS["paper"], name) for name in ours}
    assert as_paper != {name: getattr(RECIPE, name) for name in ours}
    assert {row.training.recipe for row in TABLES["recipe"].rows if row.training} == set(RECIPES)


def test_a_row_is_made_once(ablation: Ablation) -> None:
    first = ablation.record(AblationRow("a"))
    adapters = ablation.adapters(Training())
    written = adapters.stat().st_mtime_ns
    assert first["training"]["parameters"] == 1_066_112
    assert first["training"]["config"]["sites"] == "middle+decoder"
    again = ablation.record(AblationRow("b"))
    assert again == {**first, "name": "b"}
    ablation.record(AblationRow("c", strength=0.0))
    assert adapters.stat().st_mtime_ns == written
    from dreamcache.models.bases.base import load_base

    load_adapters(adapters, load_base("mini").unet)


def test_strength_0_is_the_text_alone_and_the_others_are_not(ablation: Ablation) -> None:
    def pictures(row: AblationRow) -> np.ndarray:
        ablation.record(row)
        return ablation.examples(row)

    # Guidance with three predictions at strength 0 is classic guidance without a reference.
    np.testing.assert_allclose(
        pictures(AblationRow("", strength=0.0)).astype(int),
        pictures(AblationRow("", None)).astype(int),
        atol=1,
    )
    # Two steps of training hardly show: what differs is seen at a hundredfold strength.
    usual = pictures(AblationRow("", strength=100.0))
    for row in (
        AblationRow("", strength=50.0),
        AblationRow("", strength=100.0, references=2),
        AblationRow("", strength=100.0, foreground=True),
        AblationRow("", strength=100.0, further=(150,)),
        AblationRow("", strength=100.0, style="posterised"),
        AblationRow("", strength=100.0, prompt_styles=True),
        AblationRow("", strength=100.0, guidance=Guided("classic", 5.0)),
        AblationRow("", Training(seed=1), strength=100.0),
    ):
        assert (pictures(row) != usual).any(), row


def test_every_toy_is_asked_for_in_one_style(ablation: Ablation) -> None:
    cases = draw_cases(5, 2)
    assert set(prompt_styles(AblationRow(""), cases)) == {PLAIN}
    asked = prompt_styles(AblationRow("", prompt_styles=True), cases)
    assert asked[::2] == asked[1::2] == [*STYLES, next(iter(STYLES))]
    record = ablation.record(AblationRow("", prompt_styles=True))
    assert "style_accuracy" in record["scores"]


def test_guidance_is_the_miniature_s_own_unless_a_row_says_another() -> None:
    usual = sampling(AblationRow("", strength=0.5), 7)
    assert (usual.steps, usual.strength) == (7, 0.5)
    other = sampling(AblationRow("", guidance=Guided("dual", 7.5, 0.4)), 7)
    assert (other.mode, other.guidance_scale, other.reference_guidance_scale) == ("dual", 7.5, 0.4)
    assert (usual.mode, usual.guidance_scale) != (other.mode, other.guidance_scale)
    assert [str(g) for g in (Guided("none"), Guided("classic", 3), Guided("text_first", 3, 8))] == [
        "none", "classic 3", "text first 3 / 8",
    ]  # fmt: skip


def test_rows_of_two_toys_are_scored_by_each_toy(ablation: Ablation) -> None:
    joined = ablation.record(AblationRow("a", Training(pairs=True), pair="joined"))
    assert set(joined["scores"]) == {"own", "other", "kind", "scene", "sides"}
    alone = ablation.record(AblationRow("b", None, pair="text_only"))
    assert alone["training"] is None
    for record in (joined, alone):
        titles = columns({"rows": [record]})
        assert len(cells(record, titles)) == len(titles) == 5


def test_painted_triplets_show_the_same_subject_and_true_ones_another_pose(ablation: Ablation) -> None:
    painted = PaintedWorld("mini", 2, 128, steps=8)
    one, two = painted
    assert one.target.shape == one.reference.shape == (128, 128, 3)
    assert (one.reference[0] == 255).all(), "on white"
    assert 0.1 < (one.reference < 250).any(-1).mean() < 0.9
    assert (one.reference != two.reference).any()
    assert not set(COLOURS) & set(one.caption.split()), "the prompt names no appearance"
    again, _ = PaintedWorld("mini", 2, 128, steps=8)
    assert np.array_equal(again.target, one.target)
    mixed = MixedTriplets(painted, DrawnWorld(1, 128))
    assert [sample.key for sample in mixed] == [f"{one.key}a", "00000000b"]
    assert len(mixed) == 2
    assert (
        len({painted.fingerprint, mixed.fingerprint, PaintedWorld("mini", 3, 128, steps=8).fingerprint}) == 3
    )
    record = ablation.record(AblationRow("half", Training(samples=4, data="mixed")))
    assert record["training"]["data"] == "mixed"
    assert record["training"]["loss"] > 0


def test_a_painter_without_a_segmenter_is_refused(tiny_base: Path) -> None:
    with pytest.raises(SettingsError, match="has no segmenter, which cuts references out; train it with"):
        next(iter(PaintedWorld(str(tiny_base), 2, 32, steps=1)))


def test_another_protocol_is_refused(ablation: Ablation) -> None:
    with pytest.raises(SettingsError, match="was begun with steps 2, received 3: give the same"):
        Ablation(ablation.run, replace(SMALL, steps=3))
    older = ablation.run / "older"
    older.mkdir()
    (older / "protocol.json").write_text(json.dumps({"steps": 2}), encoding="utf-8")
    with pytest.raises(
        SettingsError, match=r"begun by version 0\.1, whose trainer is gone: give another --run"
    ):
        Ablation(older, SMALL)


def test_a_base_of_another_size_is_drawn_at_its_own_and_needs_its_own_judge(
    tiny_base: Path, tmp_path: Path
) -> None:
    other = Ablation(tmp_path, replace(SMALL, base=str(tiny_base)))
    assert other.size == 32
    assert other.cases[0].reference.shape == (32, 32, 3)
    assert other_views(other.cases[0].toy, 1, other.size)[0].shape == (32, 32, 3)
    with pytest.raises(BenchmarkError, match="reads pictures of 128 × 128 pixels and the base draws 32 × 32"):
        other.judge  # noqa: B018


def test_styles_change_pictures_and_keep_the_subject() -> None:
    reference = np.stack([case.reference for case in draw_cases(2, 1)])
    assert restyle(reference, PLAIN) is reference
    for style in STYLES:
        restyled = restyle(reference, style)
        assert restyled.shape == reference.shape
        assert (restyled != reference).mean() > 0.02
        # It is the same picture still: far nearer than the other toy's.
        own = np.abs(restyled[0].astype(int) - reference[0]).mean()
        assert own < np.abs(restyled[0].astype(int) - reference[1]).mean()
    with pytest.raises(KeyError):
        restyle(reference, "cubist")


def test_other_views_are_of_the_same_toy_and_always_the_same() -> None:
    one, two = (case.toy for case in draw_cases(2, 1))
    views = other_views(one, 2)
    assert (views[0] != views[1]).any()
    np.testing.assert_array_equal(other_views(one, 1)[0], views[0])
    assert (other_views(two, 1)[0] != views[0]).any()
    assert other_views(one, 0) == []


def test_the_command_writes_a_table_and_a_picture(
    ablation: Ablation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "encoded").symlink_to(ablation.run / "encoded")
    size = ["--samples", "6", "--steps", "1", "--batch", "2", "--identities", "1", "--scenes", "1"]
    with pytest.raises(SystemExit) as left:
        main(["ablate", "foreground", "--run", str(run), *size])
    assert left.value.code == 0
    record = json.loads((run / "foreground.json").read_text())
    assert [row["name"] for row in record["rows"]] == [row.name for row in TABLES["foreground"].rows]
    assert record["protocol"] == asdict(Protocol(6, 8000, 1, 2, 1, 1))
    assert 0 <= record["rows"][0]["scores"]["identity_accuracy"]["mean"] <= 1
    with Image.open(run / "foreground.png") as picture:
        assert picture.width > 3 * 128
    assert "subject alone" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        main(["ablate", "flavour", "--run", str(run)])
    assert refused.value.code == 2
    assert "'flavour' is not one of fusion" in capsys.readouterr().err
