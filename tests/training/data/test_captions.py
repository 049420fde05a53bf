"""Stage 1: what counts as a caption, how tokens are drawn, and the stage on a tiny Llama."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_synthesis import PLACES, SUBJECTS, TEMPLATE

from dreamcache.training.data.models.language_model import DrawEachRow, LanguageModel, TokenSampling
from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.seeds import derive_seed, sample_key
from dreamcache.training.data.shards.shards import write_shard
from dreamcache.training.data.stages import prompts
from dreamcache.training.data.stages.caption_text import clean_caption, dedup_key, fault_of, names_subject
from dreamcache.training.data.stages.captions import CaptionStage, repeated_keys
from dreamcache.training.data.stages.prompts import read_lines, read_template
from dreamcache.training.data.stages.stage import ShardProgress, run_stage
from dreamcache.training.errors import SynthesisError, WeightsError


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A red robot on a beach.", "A red robot on a beach."),
        ('\n  "A red robot."  \nSecond line', "A red robot."),
        ("Caption: a robot", "a robot"),
        ("Here is a caption:\n1. “A robot in snow”", "A robot in snow"),
        ("- **a robot**", "a robot"),
        ("2) a 2) robot", "a 2) robot"),
        ("…\n***", ""),
        ("a\x07 robot\u202e", "a robot"),
    ],
)
def test_the_caption_in_an_answer(answer: str, caption: str) -> None:
    assert clean_caption(answer) == caption


def test_a_subject_is_named_by_whole_words() -> None:
    assert names_subject("Two TEDDY  bears in the snow", "teddy bear")
    assert names_subject("a box, on a table", "box")
    assert names_subject("boxes on a table", "box")
    assert not names_subject("a catalogue on a table", "cat")
    assert not names_subject("a bear with a teddy", "teddy bear")
    assert not names_subject("a+ on paper", "a.")


def test_faults_are_told_apart() -> None:
    assert fault_of("a robot on a beach", "robot", 12) is None
    assert fault_of("a robot", "robot", 12) == "too short"
    assert fault_of("a robot " * 7, "robot", 12) == "too long"
    assert fault_of("a duck on a beach", "robot", 12) == "without the subject"
    assert dedup_key("A robot, on a beach!") == dedup_key("a  robot on a beach")
    assert dedup_key("a robot on a beach") != dedup_key("a robot on the beach")


def test_each_row_is_drawn_from_its_own_distribution() -> None:
    rows = 4000
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    drawn = DrawEachRow(range(rows))(torch.zeros(rows, 1), probabilities.log().expand(rows, 4))
    chosen = drawn.argmax(-1)
    assert torch.equal(drawn.isfinite().sum(-1), torch.ones(rows, dtype=torch.long))
    shares = torch.bincount(chosen, minlength=4) / rows
    # standard deviation of a share is below 0.008; four of them
    assert shares == pytest.approx(probabilities, abs=0.032)
    assert shares[1] == 0
    again = DrawEachRow([7])(torch.zeros(1, 1), probabilities.log()[None]).argmax(-1)
    assert again == chosen[7]


def test_an_answer_does_not_depend_on_its_neighbours(models: Path) -> None:
    model = LanguageModel(models / "llama", torch.device("cpu"), torch.float32)
    prompts = [TEMPLATE.format(subject=s, place=p) for s in SUBJECTS for p in PLACES]
    how = TokenSampling(max_new_tokens=12)
    together = model.complete(prompts, range(6), how)
    assert [model.complete([p], [i], how)[0] for i, p in enumerate(prompts)] == together
    assert model.complete(prompts, range(6, 12), how) != together
    with pytest.raises(SynthesisError, match=r"at most 64 tokens are expected, received \d+ \+ 90"):
        model.complete(prompts, range(6), TokenSampling(max_new_tokens=90))


def test_every_caption_names_its_subject_and_is_told_once(captions: Path) -> None:
    source = ShardFolder.open(captions, "captions")
    rows = [sample for shard in range(3) for sample in source.read(shard)]
    texts = [row.members["txt"].decode() for row in rows]
    about = [json.loads(row.members["json"]) for row in rows]
    assert 9 <= len(rows) <= 12
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    for text, told in zip(texts, about, strict=True):
        assert told["subject"] == SUBJECTS[int(told["key"]) % 3]
        assert names_subject(text, told["subject"])
        assert told["seed"] == derive_seed(0, told["key"], f"caption {told['try']}")
    assert all(len(set(texts[shard * 4 : shard * 4 + 4])) == 4 for shard in range(2))


def test_a_shard_is_the_same_in_another_batch_and_another_seed_gives_others(
    tmp_path: Path, captions: Path, caption_stage: CaptionStage
) -> None:
    run_stage(replace(caption_stage, batch=3), tmp_path / "batch")
    run_stage(replace(caption_stage, seed=1), tmp_path / "seed")
    for shard in range(3):
        name = f"captions-{shard:05d}.tar"
        assert (tmp_path / "batch" / name).read_bytes() == (captions / name).read_bytes()
        assert (tmp_path / "seed" / name).read_bytes() != (captions / name).read_bytes()


def test_what_will_not_do_is_counted_by_its_reason(caption_stage: CaptionStage) -> None:
    # one subject at one place and a cold model: soon everything has been said
    stage = replace(
        caption_stage,
        subjects=("robot",),
        places=PLACES[:1],
        sampling=TokenSampling(temperature=0.2),
        tries=1,
    )
    report = ShardProgress()
    kept = list(stage.samples(0, report))
    assert len(kept) + report.rejected.total() == 4
    assert report.rejected["duplicate"] >= 1
    # asked about something that it never learned to name
    # cold as well: how a hot one rambles is not the same on every kind of processor
    stranger = replace(caption_stage, subjects=("zebra",), sampling=TokenSampling(temperature=0.2), tries=2)
    report = ShardProgress()
    assert list(stranger.samples(0, report)) == []
    assert report.rejected == Counter({"without the subject": 4})


def test_captions_without_the_subject_leave_nothing(tmp_path: Path, caption_stage: CaptionStage) -> None:
    stranger = replace(caption_stage, subjects=("zebra",), tries=1)
    with pytest.raises(SynthesisError, match=r"no sample of the shard passes \(without the subject: 4\)"):
        run_stage(stranger, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".claims", "index.json"]


def test_a_caption_of_an_earlier_shard_is_repeated(tmp_path: Path, captions: Path) -> None:
    source = ShardFolder.open(captions, "captions")
    rows = list(source.read(0))
    said = rows[0].members["txt"].decode().upper().encode()
    later = [replace(rows[0], key=sample_key(4), members={**rows[0].members, "txt": said})]
    (tmp_path / "index.json").write_bytes((captions / "index.json").read_bytes())
    for shard, content in enumerate(
        (rows, later, [replace(rows[0], key=sample_key(8), members={"txt": b"x"})])
    ):
        write_shard(tmp_path, source.index, shard, content)
    assert repeated_keys(ShardFolder.open(tmp_path, "captions")) == {sample_key(4)}


def test_built_in_prompts_name_every_subject() -> None:
    assert len(set(prompts.SUBJECTS)) == len(prompts.SUBJECTS) >= 50
    assert len(set(prompts.PLACES)) == len(prompts.PLACES) >= 20
    assert read_template(None) == prompts.TEMPLATE
    assert names_subject(prompts.TEMPLATE.format(subject="teddy bear", place="in snow"), "teddy bear")


def test_lists_and_templates_from_files(tmp_path: Path) -> None:
    path = tmp_path / "subjects.txt"
    path.write_text("# toys\nrobot\n\n teddy   bear \nrobot\n")
    assert read_lines(path, SUBJECTS, "--subjects") == ("robot", "teddy bear")
    assert read_lines(None, SUBJECTS, "--subjects") == SUBJECTS
    path.write_text("# nothing\n")
    with pytest.raises(SynthesisError, match="--subjects: one entry a line is expected"):
        read_lines(path, SUBJECTS, "--subjects")
    with pytest.raises(SynthesisError, match="cannot be read"):
        read_lines(tmp_path / "nowhere", SUBJECTS, "--subjects")
    for wrong in ("{place}", "{subject} {colour}", "{subject} {", "{subject.__class__}", "{0} {subject}"):
        with pytest.raises(SynthesisError, match="--template"):
            read_template(wrong)


def test_a_missing_language_model_says_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caption_stage: CaptionStage
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fetch = "hf download meta-llama/Llama-3.2-3B-Instruct --local-dir models/Llama-3.2-3B-Instruct"
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    cases = {
        str(tmp_path / "nowhere"): "a folder is expected",
        str(tmp_path): "config.json is expected",
        str(pickled): "pickles, which are never opened here",
        "somebody/no-such-model": "cannot be fetched from the Hub",
    }
    for model, message in cases.items():
        with pytest.raises(WeightsError, match=message) as error:
            _ = replace(caption_stage, model=model).index
        assert fetch in str(error.value)
        assert "\n" not in str(error.value)
