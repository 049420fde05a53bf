"""A bundle whose denoiser reads up to three references at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.bundle.contract import dump_contract, parse_contract
from dreamcache.runtime.bundle.parity import MIN_PSNR_DB, psnr_db
from dreamcache.runtime.bundle.tensors import TensorSpec
from dreamcache.runtime.cli.main import main
from dreamcache.runtime.errors import BundleError, SubjectError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.subject import Subject

PROMPT = "a robot"


@pytest.fixture(scope="module")
def several(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("several") / "bundle"
    export(out=out, base=str(tiny_base), adapters=tiny_adapters, max_references=3)
    return Pipeline.load(out)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(4):
        pixels = np.full((32, 32, 3), 255, np.uint8)
        pixels[4:28, 10:22] = random.integers(0, 200, (24, 12, 3))
        found.append(Image.fromarray(pixels))
    return found


@pytest.fixture(scope="module")
def subjects(several: Pipeline, pictures: list[Image.Image]) -> list[Subject]:
    return [several.cache(picture) for picture in pictures]


def final(pipeline: Pipeline, subjects: list[Subject] | Subject, step_cache: int = 1) -> NDArray[np.float32]:
    *_, last = pipeline.denoise(
        PROMPT, subjects, steps=4, seed=0, guidance_mode="none", step_cache=step_cache
    )
    return last.latent


def test_it_passes_its_gates(several: Pipeline, tiny_bundle: Path) -> None:
    parity = several.contract.parity
    assert several.contract.architecture.max_references == 3
    assert min(parity.psnr_db.values()) >= MIN_PSNR_DB
    assert "several references" in parity.psnr_db
    assert "several references" not in Pipeline.load(tiny_bundle).contract.parity.psnr_db


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_runner_draws_what_pytorch_draws(
    several: Pipeline,
    subjects: list[Subject],
    tiny_base: Path,
    tiny_adapters: Path,
    count: int,
) -> None:
    from dreamcache.models.caching import join_caches

    torch_side = DreamCachePipeline.load(str(tiny_base), tiny_adapters)
    # The runner crops a reference to its subject; PyTorch is given what it made of it.
    cache = join_caches([torch_side.cache(one.thumbnail) for one in subjects[:count] if one.thumbnail])
    *_, expected = torch_side.denoise(PROMPT, cache, steps=4, seed=0, guidance_mode="none")
    wanted = expected.latent.numpy()
    ours = psnr_db(wanted, final(several, subjects[:count]))
    assert ours > 100
    # One reference more or fewer is another picture, as far as random weights tell them apart.
    assert psnr_db(wanted, final(several, subjects[: count % 3 + 1])) < ours - 15


def test_attention_knows_no_order_and_no_repetition(several: Pipeline, subjects: list[Subject]) -> None:
    one, two = subjects[:2]
    np.testing.assert_allclose(final(several, [one, two]), final(several, [two, one]), atol=1e-4)
    np.testing.assert_allclose(final(several, [one, one]), final(several, one), atol=1e-4)
    assert np.abs(final(several, [one, two]) - final(several, one)).max() > 1e-3


def test_step_caching_reads_them_too(several: Pipeline, subjects: list[Subject]) -> None:
    cached = final(several, subjects[:2], step_cache=2)
    assert np.abs(cached - final(several, subjects[0], step_cache=2)).max() > 1e-4


def test_more_than_it_takes_are_refused(
    several: Pipeline, subjects: list[Subject], tiny_bundle: Path, pictures: list[Image.Image]
) -> None:
    with pytest.raises(
        SubjectError, match=r"takes 1 to 3 subjects at once, received 4; .*--max-references 4 takes"
    ):
        several.denoise(PROMPT, subjects)
    with pytest.raises(SubjectError, match="received 0"):
        several.denoise(PROMPT, [])
    single = Pipeline.load(tiny_bundle)
    own = single.cache(pictures[0])
    with pytest.raises(SubjectError, match="takes 1 subject at once, received 2"):
        single.denoise(PROMPT, [own, own])
    with pytest.raises(SubjectError, match="belongs to another bundle"):
        several.denoise(PROMPT, [subjects[0], own])


def test_the_command_takes_subject_files(
    several: Pipeline, subjects: list[Subject], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        str(subject.save(tmp_path / f"{index}.subject.safetensors")) for index, subject in enumerate(subjects)
    ]
    out = tmp_path / "picture.png"
    arguments = [
        "generate",
        str(several.bundle.folder),
        "--prompt",
        PROMPT,
        "--out",
        str(out),
        "--steps",
        "1",
    ]
    named = [word for file in files[:2] for word in ("--subject", file)]
    with pytest.raises(SystemExit) as left:
        main([*arguments, *named, "--seed", "0", "--json"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["images"] == [str(out)]
    with pytest.raises(SystemExit) as refused:
        main([*arguments, *(word for file in files for word in ("--subject", file)), "--overwrite"])
    assert refused.value.code == 1
    assert "takes 1 to 3 subjects at once, received 4" in capsys.readouterr().err


def test_what_cannot_take_several_says_so(tiny_base: Path, tiny_adapters: Path, tmp_path: Path) -> None:
    for options in ({"attention": "plain"}, {"target": "all"}):
        with pytest.raises(ExportError, match="several references go with --target onnx and --attention mha"):
            export(
                out=tmp_path / "no",
                base=str(tiny_base),
                adapters=tiny_adapters,
                max_references=2,
                **options,  # type: ignore[arg-type]  # strings
            )
    with pytest.raises(ExportError, match="--max-references is 0; give 1 or more"):
        export(out=tmp_path / "no", base=str(tiny_base), adapters=tiny_adapters, max_references=0)


def test_a_tensor_takes_whole_references_alone() -> None:
    spec = TensorSpec(name="key", shape=(1, 16, 8), dtype="float32", multiples=3)
    assert [spec.takes((1, 16 * times, 8)) for times in (0, 1, 2, 3, 4)] == [False, True, True, True, False]
    assert not spec.takes((1, 24, 8))
    assert not spec.takes((2, 16, 8))
    assert not spec.takes((1,))


def test_a_contract_whose_tensors_take_other_numbers_is_refused(several: Pipeline) -> None:
    text = dump_contract(several.contract)
    assert parse_contract(text) == several.contract
    with pytest.raises(BundleError, match=r"\.key of up to 2 references is expected, received 3"):
        parse_contract(text.replace('"max_references": 3', '"max_references": 2'))
