"""The documents name what exists: files, modules and their attributes, contract fields; their examples run."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, Contract
from dreamcache.runtime.bundle.tensors import TensorSpec

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if path.name in ("bundle.md", "coreml.md", "export.md", "memory.md", "method.md")
}
CONTRACT_FIELDS = {field.alias or name for name, field in Contract.model_fields.items()}
# What looks like a path and is written by an export, not kept in the repository.
PATH = re.compile(r"[\w./-]+/[\w.-]*|[\w-]+\.(?:json|onnx|data|md|py|toml)")


def named(text: str) -> list[str]:
    """Everything in back quotes, outside code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def missing_names(text: str) -> list[str]:
    """Dotted names of ours that do not lead to a module or an attribute."""
    dotted = [name for name in named(text) if re.fullmatch(r"dreamcache(\.\w+)+", name)]
    return [name for name in dotted if name != CONTRACT_NAME and not _exists(name)]


def missing_fields(text: str) -> list[str]:
    """Dotted names below a field of the contract that the contract does not have."""
    dotted = [name for name in named(text) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)]
    return [
        name
        for name in dotted
        if name.split(".")[0] in CONTRACT_FIELDS and not _is_field(Contract, name.split("."))
    ]


def missing_paths(text: str, written: set[str]) -> list[str]:
    """Paths that neither the repository holds nor an export writes."""
    paths = [name for name in named(text) if PATH.fullmatch(name)]
    return [path for path in paths if path not in written and not (ROOT / path).exists()]


@pytest.fixture(scope="module")
def written() -> set[str]:
    """Files and folders of a bundle, by the constants of the code that writes and reads them."""
    pytest.importorskip("torch")
    pytest.importorskip("coremltools")
    from dreamcache.export.coreml.packages import FOLDER
    from dreamcache.export.declare.settings import SECOND_TOKENIZER
    from dreamcache.export.parts import decoder as decoder_export
    from dreamcache.export.parts import segmenter
    from dreamcache.export.parts import text_and_vae as components
    from dreamcache.export.parts import unet as unet_export

    files = {
        unet_export.CACHE_FILE,
        unet_export.DENOISER_FILE,
        unet_export.PLAIN_FILE,
        unet_export.SHALLOW_FILE,
        unet_export.WEIGHTS_FILE,
        components.TEXT_ENCODER,
        components.TEXT_ENCODER_2,
        components.VAE_ENCODER,
        decoder_export.VAE_DECODER,
        decoder_export.VAE_DECODER_HEAD,
        decoder_export.VAE_DECODER_STRIP.replace("{:02d}", "NN"),
        decoder_export.VAE_DECODER_WEIGHTS,
        segmenter.FILE,
        segmenter.WEIGHTS,
    }
    sources = [(ROOT / f"{place}.py").read_text(encoding="utf-8") for place in _WRITERS]
    stated = {name for source in sources for name in re.findall(r'"([\w-]+\.(?:json|txt))"', source)}
    folders = {f"{name}/" for source in sources for name in re.findall(r'folder / "(\w+)"\)', source)}
    folders |= {f"{Path(file).parent}/" for file in files}
    folders |= {f"{FOLDER}/", f"{FOLDER}/README.md", f"{SECOND_TOKENIZER}/"}
    return files | stated | folders | {CONTRACT_NAME}


_WRITERS = (
    "export/dreamcache/export/bundle",
    "export/dreamcache/export/coreml/text_files",
    "runtime/dreamcache/runtime/sampling/prompts",
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_named_exists(document: str, written: set[str]) -> None:
    text = DOCUMENTS[document]
    assert len(named(text)) > 20
    assert missing_names(text) == []
    assert missing_fields(text) == []
    assert missing_paths(text, written) == []


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/peers/README.md"]
    + [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.name not in DOCUMENTS
    ],
)
def test_modules_and_scripts_exist_on_the_other_pages(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert missing_names(text) == []
    scripts = re.findall(r"\bpython (\S+/\S+\.py)", text)
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_what_does_not_exist_is_noticed(written: set[str]) -> None:
    wrong = (
        "`dreamcache.runtime.bundle.contract.lose`, `dreamcache.nowhere`, `guidance.sharpness`, `graphs.cache.colour`, "
        "`architecture.sites.depth`, `unet/cash.onnx`, `cash.json`, `runtime/nowhere/`"
    )
    assert missing_names(wrong) == ["dreamcache.runtime.bundle.contract.lose", "dreamcache.nowhere"]
    assert missing_fields(wrong) == ["guidance.sharpness", "graphs.cache.colour", "architecture.sites.depth"]
    assert missing_paths(wrong, written) == ["unet/cash.onnx", "cash.json", "runtime/nowhere/"]


@pytest.mark.parametrize("model", [Contract, Architecture])
def test_every_field_of_the_contract_is_explained(model: type[BaseModel]) -> None:
    explained = {part for name in named(DOCUMENTS["bundle.md"]) for part in name.split(".")}
    assert set(_fields(model)) - explained - set(TensorSpec.model_fields) - {"size", "sha256"} == set()


def test_every_option_of_an_export_is_explained() -> None:
    pytest.importorskip("torch")
    from dreamcache.export.command import export

    options = {f"--{name.removeprefix('as_').replace('_', '-')}" for name in signature(export).parameters}
    explained = (
        DOCUMENTS["export.md"]
        + DOCUMENTS["coreml.md"]
        + (ROOT / "docs" / "guides" / "bases.md").read_text(encoding="utf-8")
    )
    assert {option for option in options if f"`{option}" not in explained} == set()
    assert {"--kv-downsample", "--json"} <= options
    assert "`--colour" not in explained


def test_the_example_of_the_bundle_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    bundle = tmp_path / "bundle"
    _run(str(ROOT / "tests/support/tiny_bundle.py"), str(bundle))
    assert _run("-c", f"BUNDLE = {str(bundle)!r}\n{_example('bundle.md')}").strip() == "(1, 4, 4, 4)"


def test_the_example_of_the_method_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    # In this process, which has imported the frameworks already: that costs more than the example.
    exec(compile(_example("method.md"), "docs/concepts/method.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    table = re.findall(r"^\| `(\S+)` \| (\d+) \| \d+ \|$", DOCUMENTS["method.md"], re.MULTILINE)
    assert lines == [*(f"{site} {width}" for site, width in table), "25207040"]
    assert len(table) == 5


def _exists(name: str) -> bool:
    """A module, or an attribute of one; the module is imported only when an attribute is asked for."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        module = ".".join(parts[:length])
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return length == len(parts) or _has(importlib.import_module(module), parts[length:])
    return False


def _has(value: object, attributes: list[str]) -> bool:
    for attribute in attributes:
        if not hasattr(value, attribute):
            return False
        value = getattr(value, attribute)
    return True


def _is_field(model: type[BaseModel], path: list[str]) -> bool:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    field = fields.get(path[0])
    if field is None or len(path) == 1:
        return field is not None
    return any(_is_field(below, path[1:]) for below in _models(field.annotation))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type holds, also inside a tuple or a dict."""
    # Python 3.10 takes tuple[int] for a type, and then refuses it as a class.
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        for below in _models(field.annotation):
            yield from _fields(below)


def _example(document: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTS[document], re.DOTALL)
    return str(code)


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
