"""`(word:1.3)` in prompts: the web UI's syntax, read where it is asked for alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.prompt_weights import WeightsWarning, weighted_parts
from dreamcache.runtime.sampling.prompts import PromptTokenizer


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", [("", 1.0)]),
        ("a robot", [("a robot", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"a\\b \x", [("a\\b \\x", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("a (red:1.3) ball", [("a ", 1.0), ("red", 1.3), (" ball", 1.0)]),
        ("[dim]", [("dim", 1 / 1.1)]),
        ("((twice))", [("twice", 1.21)]),
        ("(a [b] c:2)", [("a ", 2.0), ("b", 2 / 1.1), (" c", 2.0)]),
        ("(minus: -0.5 )", [("minus", -0.5)]),
        ("at 3:45) and b]", [("at 3:45) and b]", 1.0)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_the_syntax_is_the_web_uis(prompt: str, parts: list[tuple[str, float]]) -> None:
    """The second last and the first rows are examples of its documentation, worked out there."""
    found = weighted_parts(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("(a:1.2.3)", r"a weight such as 1.3 is expected, received '1.2.3'"),
        ("(a:1000)", r"weights within ±100 are expected, received 1000 on 'a'"),
        ("(" * 65, "at most 64 brackets"),
    ],
)
def test_wrong_weights_are_one_line_before_work(pristine: Path, prompt: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Pipeline.load(pristine).denoise(prompt, prompt_weights=True)
    with pytest.raises(SettingsError, match=said):
        Pipeline.load(pristine).denoise(
            "a", negative_prompt=prompt, prompt_weights=True, guidance_mode="classic"
        )


def test_long_prompts_of_brackets_take_no_time() -> None:
    start = perf_counter()
    for text in (
        "(a)" * 6_000,
        "(" * 40 + "a]" * 9_000,
        ":" * 20_000,
        "(" + ":1" * 9_000,
        "(a:" + " " * 19_000,
    ):
        weighted_parts(text)
    assert perf_counter() - start < 4


def test_tokens_of_a_piece_carry_its_weight(pristine: Path) -> None:
    tokenizer = PromptTokenizer.of(open_bundle(pristine))
    ids, weights = tokenizer.tokens("a (robot:1.5) toy", weighted=True)
    assert ids.tolist() == tokenizer.encode("a robot toy").tolist()
    assert weights.tolist() == [[1, 1, 1.5, 1, 1, 1, 1, 1]]
    as_text = tokenizer.tokens("a (robot:1.5) toy"[:9])
    assert as_text[1].tolist() == [[1.0] * 8]
    assert as_text[0].tolist() != ids.tolist(), "brackets are text unless asked for"


def test_weights_change_the_embedding_of_their_tokens_and_the_picture(pristine: Path) -> None:
    pipeline = Pipeline.load(pristine)
    prompts = {"prompt": "a (robot:1.5) toy", "null": ""}
    plain, weighted = (
        pipeline.embed({**prompts, "prompt": "a robot toy"}),
        pipeline.embed(prompts, weighted=True),
    )
    expected = plain["prompt"]["text"].copy()
    expected[:, 2] *= 1.5
    np.testing.assert_array_equal(weighted["prompt"]["text"], expected)
    assert not np.array_equal(expected, plain["prompt"]["text"])
    np.testing.assert_array_equal(weighted["null"]["text"], plain["null"]["text"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        drawn, usual = (
            [step.latent for step in pipeline.denoise(prompt, steps=2, seed=0, prompt_weights=weighted)]
            for prompt, weighted in (("a (robot:1.5) toy", True), ("a robot toy", False))
        )
    assert np.abs(drawn[-1] - usual[-1]).max() > 0.1


def test_a_weight_that_is_read_as_text_is_said(pristine: Path) -> None:
    pipeline = Pipeline.load(pristine)
    with pytest.warns(WeightsWarning, match=r"'\(robot:1.5\)' is read as text; --prompt-weights"):
        pipeline.denoise("a (robot:1.5)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.denoise("a (small) robot [at 3:45]")
    with pytest.raises(SettingsError, match="prompt_weights: True or False is expected, received 'yes'"):
        pipeline.denoise("a", prompt_weights="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a (robot:1,3)", "'1,3' is read as text; a weight is a number such as 1.3"),
        ("a (robot:1e400)", "'1e400' is read as text"),
        ("a (robot: -NaN )", "'-NaN' is read as text"),
        ("a robot BREAK a toy", "'BREAK' is read as text; weights are all that is read of that syntax"),
        ("a robot AND a toy", "'AND' is read as text"),
        ("a [robot:toy:0.5]", r"'\[robot:toy:0.5\]' is read as text"),
        ("a [robot|toy]", r"'\[robot\|toy\]' is read as text"),
        ("a toy <lora:sketch:0.8>", "'<lora:sketch:0.8>' is read as text"),
    ],
)
def test_other_syntax_beside_weights_is_said(pristine: Path, prompt: str, said: str) -> None:
    pipeline = Pipeline.load(pristine)
    with pytest.warns(WeightsWarning, match=said) as warned:
        pipeline.denoise(prompt, prompt_weights=True)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.denoise("a (robot:1.3) [toy] breaks AT 3:45 and (ends: soon), <b>", prompt_weights=True)
