"""The page's prompts: their tokens, and the picture of a long one, are Python's."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from page_files import ask_page, draw, draw_refused, give_file, serving, visit

from dreamcache.runtime.bundle.contract import GuidanceDefaults
from dreamcache.runtime.bundle.folder import MINI_FOLDER, open_bundle
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.prompt_weights import check_weights, weighted_parts
from dreamcache.runtime.sampling.prompts import PromptTokenizer
from dreamcache.runtime.web.certificate import temporary_context

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright")

WEIGHTED = [
    "a (toy:1.3) on the [beach]",
    "((toy)) [[beach]] (a [robot:1.2] b:0.5)",
    "(open to the end",
    "[open (and twice",
    r"\(a\) \[b\] \\ \c \\",
    "a) b] : c:1.3)",
    "(toy: 1.3 )(toy:.5)(toy:-1.)(toy:+2)",
    "(snöw:1.3) 😀(😀:0.7)",
    "",
    "()",
    "(:1.3)",
    "(a toy " * 30 + "end",
]
REFUSED = [
    "(toy:1.2.3)",
    "(toy:101)",
    "(toy:.)",
    "((toy:60):60)",
    "(" * 65,
    "[" * 33 + "(" * 32,
    f"(a:{'9' * 400})",
    f"(a:{'9.' * 400})",
    "(" * 60 + "a " * 400,
]


@pytest.mark.parametrize("chunks", [1, 3])
def test_tokens_are_pythons(javascript: dict[str, Path], chunks: int) -> None:
    bundle = open_bundle(MINI_FOLDER)
    files = {"tokenizer.json": bundle.path("tokenizer/tokenizer.json")}
    length = bundle.contract.architecture.text_length
    ours = PromptTokenizer(files, bundle.contract.text, length, chunks)
    sentence = "A toy ROBOT's in the snöw, 1234! 雪 — <|endoftext|> don't naïve 😀 can't über-fluffy ½"
    words = sentence.split()
    prompts = [
        "",
        "a  toy",
        "naïve\tsnow\n",
        *words,
        *(" ".join(words[i:] + words[:i]) for i in range(len(words))),
        *(" ".join(words * times) for times in (2, 3, 9)),
    ]
    case = {"ask": "tokens", "library": str(javascript["tokenizers.min.mjs"]), "rules": ours.as_json()}
    case |= {"text": bundle.contract.text.model_dump() | {"vectors": {}}, "prompts": prompts}
    case |= {"length": length, "chunks": chunks}
    plain, weighted = ask_page([case, {**case, "prompts": prompts + WEIGHTED, "weighted": True}])
    with warnings.catch_warnings(record=True) as cut:
        warnings.simplefilter("always")
        expected = [ours.encode(prompt).tolist() for prompt in prompts]
    assert [one["chunks"] for one in plain] == expected
    assert sum(one["lost"] > 0 for one in plain) == len(cut) > 0
    assert all(set(row) == {1} for one in plain for row in one["weights"])
    warnings.simplefilter("ignore")
    for prompt, one in zip(prompts + WEIGHTED, weighted, strict=True):
        ids, weights = ours.tokens(prompt, weighted=True)
        assert one["chunks"] == ids.tolist(), prompt
        np.testing.assert_array_equal(np.array(one["weights"], np.float32), weights, prompt)


def pieces_or_refusal(prompt: str) -> tuple[list[list[str | float]], str]:
    """What Python makes of a prompt; and why where it refuses, else nothing."""
    try:
        return [list(part) for part in weighted_parts(prompt)], ""
    except SettingsError as error:
        return [], str(error)


def test_weights_are_pythons() -> None:
    """Pieces, weights and refusals of the syntax's corners, and of brackets put together at random."""
    chance = random.Random(19)
    pieces = [
        "(",
        ")",
        "[",
        "]",
        ":",
        "\\",
        "1.3",
        "-2",
        " ",
        "toy",
        "(a:1.3)",
        "\u0661.\u0663",
        "\ufeff",
        "😀",
    ]
    prompts = [
        *WEIGHTED,
        *REFUSED,
        *("".join(chance.choices(pieces, k=chance.randint(1, 24))) for _ in range(400)),
    ]
    for prompt, answer in zip(
        prompts, ask_page([{"ask": "parts", "prompt": one} for one in prompts]), strict=True
    ):
        expected, refused = pieces_or_refusal(prompt)
        why = answer.get("error", "")
        assert why.split(" expected,")[0] == refused.split(" expected,")[0], prompt
        assert max(len(why), len(refused)) < 120
        if refused:
            continue
        assert prompt not in REFUSED
        assert answer["parts"] == expected, prompt
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check_weights([prompt], weighted=False)
        assert answer["looks"] == bool(said), prompt


def test_a_prompt_of_two_chunks_draws_pythons_picture(
    chromium: Browser, javascript: dict[str, Path], tiny: ModuleType, toy: Path, tmp_path: Path
) -> None:
    # defaults between and beyond the steps of the page's sliders
    guidance = GuidanceDefaults(guidance_scale=17.3, strength=0.83, steps=4)
    bundle = tiny.build(tmp_path / "bundle", text_chunks=2, guidance=guidance)
    first, weighted = "a robot on the beach toy", "a robot (beach:1.9) [toy toy]"
    with serving(bundle, javascript, tmp_path / "records", temporary_context(["127.0.0.1"])) as made:
        pipeline, server = made
        page = visit(chromium, server)
        give_file(page, "photograph", toy)
        received, subject = draw(page, f"{first} the toy", steps=2, seed=3), pipeline.cache(toy)
        for prompt in (f"{first} the toy", first):
            expected = np.asarray(pipeline.generate(prompt, subject, steps=2, seed=3)).astype(int)
            apart = np.abs(received - expected) > 1
            assert (apart.mean() < 0.001) == (prompt != first)
        page.check("#prompt-weights")
        received = draw(page, weighted, steps=2, seed=3)
        for read in (True, False):
            warnings.simplefilter("ignore")
            expected = np.asarray(
                pipeline.generate(weighted, subject, steps=2, seed=3, prompt_weights=read)
            ).astype(int)
            assert ((np.abs(received - expected) > 1).mean() < 0.001) == read
        assert page.inner_text("#advice") == ""
        draw_refused(page, "(toy:1.2.3)", "a weight such as 1.3 is expected")
        page.uncheck("#prompt-weights")
        draw(page, weighted, steps=1, seed=3)
        assert page.inner_text("#advice") == (
            "The prompt is 1 token too long: its end was not read. "
            "Weights such as (word:1.3) were read as text; under More they can be switched on."
        )
        page.context.close()
