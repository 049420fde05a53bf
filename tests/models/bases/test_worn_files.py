"""What lies in the place of weights and configs, by other tools and broken downloads: read, or named with its mend."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dreamcache.models.bases.base import load_base
from dreamcache.models.errors import AdapterError


@pytest.fixture(name="folder")
def _folder(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "base")


def test_a_text_encoder_as_transformers_5_names_it(tiny_base: Path, folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert load_base(folder).encode_text(["a rat"]).equal(load_base(tiny_base).encode_text(["a rat"]))
    save_file({f"te.{name}": tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"lacks text_model.*, and has te.emb.* instead; the base is"):
        load_base(folder)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1",
            r"\(a Git LFS pointer\); fetch the weights with git lfs pull",
        ),
        (b"GGUF\x03\0\0\0", r"\(GGUF, packed by a quantiser\); give the weights in 16 bits"),
        (b"PK\x03\x04", r"\(a pickle by another name\); where you trust it, convert it: python"),
        (b"<html>", r"\(a web page\); download it again"),
        (b"\0" * 9, r"is not a safetensors checkpoint \(.*\); download it again"),
    ],
)
def test_what_is_in_the_place_of_weights_is_named(tmp_path: Path, start: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["unet/config.json", "text_encoder/config.json"])
def test_a_config_that_is_absent_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is absent; download the base again"):
        load_base(folder)
