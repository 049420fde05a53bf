"""Subject files: the way there and back, and everything that is refused."""

from __future__ import annotations

import base64
import io
import shutil
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreamcache.runtime import Pipeline
from dreamcache.runtime.errors import OutputError, SubjectError
from dreamcache.runtime.subject import join_tokens


@pytest.fixture(scope="module")
def pipeline(pristine: Path) -> Pipeline:
    return Pipeline.load(pristine, threads=1)


@pytest.fixture
def subject_file(pipeline: Pipeline, toy: Path, tmp_path: Path) -> Path:
    return pipeline.cache(toy).save(tmp_path / "toy.subject.safetensors")


def _png(side: int) -> str:
    """A PNG that says it has so many pixels, in base64; Pillow would warn of it, or raise an error of its own."""
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return base64.b64encode(data).decode("ascii")


def _rewrite(path: Path, *, metadata: dict[str, str] | None = None, **tensors: np.ndarray) -> None:
    with safe_open(path, framework="numpy") as stored:
        kept = dict(stored.metadata())
    save_file({**load_file(path), **tensors}, path, {**kept, **(metadata or {})})


def test_the_way_there_and_back_is_exact(pipeline: Pipeline, toy: Path, subject_file: Path) -> None:
    made, read = pipeline.cache(toy), pipeline.load_subject(subject_file)
    assert set(read.tensors) == set(made.tensors)
    for name in made.tensors:
        np.testing.assert_array_equal(read.tensors[name], made.tensors[name])
    assert (read.fingerprint, read.timestep, read.background) == (made.fingerprint, 1, made.background)
    assert read.thumbnail is not None
    assert read.thumbnail.size == (16, 16)
    one = pipeline.generate("a robot", made, steps=2, seed=3)
    assert one.tobytes() == pipeline.generate("a robot", read, steps=2, seed=3).tobytes()


def _lies_in_a_file(array: Any) -> bool:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def test_with_little_memory_a_subject_stays_in_its_file(
    pipeline: Pipeline, pristine: Path, subject_file: Path
) -> None:
    low = Pipeline.load(pristine, threads=1, profile="memory")
    read, mapped = pipeline.load_subject(subject_file), low.load_subject(subject_file)
    for name, array in read.tensors.items():
        assert _lies_in_a_file(mapped.tensors[name])
        assert not _lies_in_a_file(array)
        np.testing.assert_array_equal(mapped.tensors[name], array)
        # one reference is handed on as it is
        assert np.shares_memory(join_tokens([mapped.tensors])[name], mapped.tensors[name])
        assert join_tokens([mapped.tensors] * 2)[name].shape[1] == 2 * array.shape[1]
    one = low.generate("a robot", mapped, steps=2, seed=3)
    assert one.tobytes() == low.generate("a robot", read, steps=2, seed=3).tobytes()
    assert mapped.save(subject_file, overwrite=True) == subject_file
    # a header of another length: the tensors lie where no float may
    data = subject_file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    askew = (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :]
    subject_file.write_bytes(askew)
    for name, array in low.load_subject(subject_file).tensors.items():
        assert not _lies_in_a_file(array)
        np.testing.assert_array_equal(array, read.tensors[name])


def test_a_subject_of_another_bundle_is_refused(subject_file: Path, tiny: ModuleType, tmp_path: Path) -> None:
    other = Pipeline.load(tiny.build(tmp_path / "other", seed=1))
    with pytest.raises(
        SubjectError, match=r"belongs to another bundle.*cache the reference with this bundle"
    ) as refusal:
        other.load_subject(subject_file)
    assert "damaged" not in str(refusal.value)


def test_a_subject_that_leaves_tokens_out_is_refused(pipeline: Pipeline, subject_file: Path) -> None:
    """Version 0.1 could make such, for a bundle of its own (`--reference-tokens`)."""
    name = pipeline.contract.architecture.sites[1].key_name
    _rewrite(subject_file, **{name: np.ascontiguousarray(load_file(subject_file)[name][:, :8])})
    with pytest.raises(
        SubjectError,
        match=r"\[1, 16, 4\] float32 is expected, received \[1, 8, 4\] float32; cache the reference again$",
    ):
        pipeline.load_subject(subject_file)
    _rewrite(subject_file, metadata={"fingerprint": "0" * 64})
    with pytest.raises(
        SubjectError, match=r"belongs to another bundle: [^\n]*; cache the reference with this"
    ):
        pipeline.load_subject(subject_file)


def test_a_subject_in_memory_is_checked_too(
    pipeline: Pipeline, toy: Path, tiny: ModuleType, tmp_path: Path
) -> None:
    other = Pipeline.load(tiny.build(tmp_path / "other", seed=1))
    with pytest.raises(SubjectError, match="belongs to another bundle"):
        other.generate("a robot", pipeline.cache(toy), steps=1)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(pipeline: Pipeline, subject_file: Path, kept: int) -> None:
    subject_file.write_bytes(subject_file.read_bytes()[:kept])
    with pytest.raises(SubjectError, match="a complete subject file is expected"):
        pipeline.load_subject(subject_file)


def test_shapes_names_and_values_are_checked(pipeline: Pipeline, subject_file: Path) -> None:
    name = "mid_block.attentions.0.key"
    whole = subject_file.with_name("whole.subject.safetensors")
    shutil.copy(subject_file, whole)
    good = load_file(whole)[name]
    bad = good.copy()
    bad[0, 0, 0] = np.nan
    for changed, message in (
        ({name: good[:, :3]}, r"\[1, 4, 8\] float32 is expected, received \[1, 3, 8\]"),
        ({name: good.astype(np.float16)}, "received .* float16"),
        ({name: bad}, "NaN"),
        ({"extra": good}, "extra is missing or unexpected"),
    ):
        shutil.copy(whole, subject_file)
        _rewrite(subject_file, **changed)
        with pytest.raises(SubjectError, match=message):
            pipeline.load_subject(subject_file)
    pipeline.load_subject(whole)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "something-else"}, "not a subject file"),
        ({"timestep": "150"}, "cache timestep 1 is expected, received 150"),
        ({"thumbnail": "%%%"}, "thumbnail is damaged"),
        ({"thumbnail": "aGVsbG8="}, "thumbnail is damaged"),
        ({"thumbnail": _png(50_000)}, "50000 × 50000 pixels, at most 128 are expected"),
    ],
)
def test_metadata_is_checked(
    pipeline: Pipeline, subject_file: Path, metadata: dict[str, str], message: str
) -> None:
    _rewrite(subject_file, metadata=metadata)
    with pytest.raises(SubjectError, match=message):
        pipeline.load_subject(subject_file)


def test_a_huge_file_is_refused_before_it_is_read(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "huge.subject.safetensors"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(SubjectError, match="bytes are expected for this bundle"):
        pipeline.load_subject(path)


def test_absent_and_existing_files(pipeline: Pipeline, toy: Path, subject_file: Path) -> None:
    with pytest.raises(SubjectError, match="is not a file"):
        pipeline.load_subject(subject_file.with_name("absent"))
    before = subject_file.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        pipeline.cache(toy).save(subject_file)
    assert subject_file.read_bytes() == before
    pipeline.cache(toy).save(subject_file, overwrite=True)
