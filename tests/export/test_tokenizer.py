"""A base whose tokenizer is tokenizer.json alone, with a token of its own: the runner reads what PyTorch reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import add_tokens, save_as_transformers_5

from dreamcache.export import bundle
from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.export.source import Source
from dreamcache.models.bases.base import load_base
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, dump_contract, parse_contract
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.sampling.prompts import PromptTokenizer

PROMPTS = [
    "",
    "a rat",
    "A  Robot on\n the beach",
    "a <my-toy>, <my-toy>!",
    "<my-toy>s",
    "naïve 4",
    "机器",
    "a" * 99,
]


@pytest.fixture(scope="module", name="base")
def _base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = shutil.copytree(tiny_base, tmp_path_factory.mktemp("newer") / "tiny")
    add_tokens(base, "<my-toy>")
    shutil.copytree(base / "tokenizer", base.parent / "older")
    save_as_transformers_5(base / "tokenizer")
    return base


@pytest.mark.filterwarnings("ignore::dreamcache.runtime.sampling.prompts.PromptWarning")
def test_the_runner_s_ids_are_pytorch_s(base: Path, tiny_adapters: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(out=out, base=str(base), adapters=tiny_adapters)
    loaded = load_base(base)
    wanted = loaded.tokenizer(
        PROMPTS, padding="max_length", max_length=loaded.text_length, truncation=True, return_tensors="np"
    ).input_ids

    def received() -> np.ndarray:
        tokenizer = PromptTokenizer.of(open_bundle(out))
        return np.concatenate([tokenizer.encode(prompt) for prompt in PROMPTS])

    np.testing.assert_array_equal(received(), wanted)
    added = loaded.tokenizer.convert_tokens_to_ids("<my-toy>")
    assert added == 516
    assert (received() == added).sum(axis=1).tolist() == [0, 0, 0, 2, 1, 0, 0, 0]
    # What Core ML's readers want is made of it, equal to the older form's files.
    for name in ("vocab.json", "merges.txt"):
        assert not (base / "tokenizer" / name).exists()
        text = [
            (folder / name).read_text(encoding="utf-8")
            for folder in (out / "tokenizer", base.parent / "older")
        ]
        assert json.loads(text[0]) == json.loads(text[1]) if name.endswith("json") else text[0] == text[1]

    # A tokenizer that lost its token gives other ids, and for the prompts with that token alone.
    file = out / "tokenizer/tokenizer.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["added_tokens"] = [token for token in record["added_tokens"] if token["content"] != "<my-toy>"]
    file.write_text(json.dumps(record), encoding="utf-8")
    contract = parse_contract((out / CONTRACT_NAME).read_text(encoding="utf-8"))
    listed = contract.files["tokenizer/tokenizer.json"]
    sealed = listed.model_copy(update={"size": file.stat().st_size, "sha256": sha256_file(file)})
    files = {**contract.files, "tokenizer/tokenizer.json": sealed}
    (out / CONTRACT_NAME).write_text(dump_contract(contract.model_copy(update={"files": files})), "utf-8")
    same = (received() == wanted).all(axis=1)
    assert same.tolist() == ["<my-toy>" not in prompt for prompt in PROMPTS]


def test_another_kind_is_refused_before_anything_is_written(
    base: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    config = other / "tokenizer/tokenizer_config.json"
    record = json.loads(config.read_text(encoding="utf-8")) | {"tokenizer_class": "T5Tokenizer"}
    config.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match="is a T5Tokenizer, expected CLIPTokenizer") as raised:
        export(out=tmp_path / "bundle", base=str(other), adapters=tiny_adapters)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_ids_that_differ_are_one_line_before_the_first_graph(
    base: Path, tiny_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "write_onnx", lambda *_: pytest.fail("a graph was begun"))
    source = Source.load(str(base), tiny_adapters)
    saved = type(source.base.tokenizer).save_pretrained

    def losing(tokenizer: Any, folder: Path) -> None:
        """The added token is lost on the way, as by files of two tokenizers."""
        saved(tokenizer, folder)
        path = folder / "tokenizer.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        record["added_tokens"] = [token for token in record["added_tokens"] if token["content"] != "<my-toy>"]
        path.write_text(json.dumps(record), encoding="utf-8")

    monkeypatch.setattr(type(source.base.tokenizer), "save_pretrained", losing)
    with pytest.raises(ExportError, match=r"token 1 of '<my-toy>' is 516 by .* by the runner's") as raised:
        bundle.export_bundle(source, tmp_path / "out")
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(
        type(source.base.tokenizer),
        "save_pretrained",
        lambda tokenizer, folder: (saved(tokenizer, folder), (folder / "tokenizer.json").unlink()),
    )
    with pytest.raises(ExportError, match=r"writes no tokenizer\.json, expected in every bundle"):
        bundle.export_bundle(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
