"""The page's prompts: their tokens, and the picture of a long one, are Python's."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from page_files import ask_page, draw, give_file, serving, visit

from dreamcache.runtime.bundle.folder import MINI_FOLDER, open_bundle
from dreamcache.runtime.sampling.prompts import PromptTokenizer
from dreamcache.runtime.web.certificate import temporary_context

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright")


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
    (answer,) = ask_page([{**case, "length": length, "chunks": chunks}])
    with warnings.catch_warnings(record=True) as cut:
        warnings.simplefilter("always")
        expected = [ours.encode(prompt).tolist() for prompt in prompts]
    assert [one["chunks"] for one in answer] == expected
    assert sum(one["lost"] > 0 for one in answer) == len(cut) > 0


def test_a_prompt_of_two_chunks_draws_pythons_picture(
    chromium: Browser, javascript: dict[str, Path], tiny: ModuleType, toy: Path, tmp_path: Path
) -> None:
    bundle = tiny.build(tmp_path / "bundle", text_chunks=2)
    first = "a robot on the beach toy"
    with serving(bundle, javascript, tmp_path / "records", temporary_context(["127.0.0.1"])) as made:
        pipeline, server = made
        page = visit(chromium, server)
        give_file(page, "photograph", toy)
        received, subject = draw(page, f"{first} the toy", steps=2, seed=3), pipeline.cache(toy)
        for prompt in (f"{first} the toy", first):
            expected = np.asarray(pipeline.generate(prompt, subject, steps=2, seed=3)).astype(int)
            apart = np.abs(received - expected) > 1
            assert (apart.mean() < 0.001) == (prompt != first)
        page.context.close()
