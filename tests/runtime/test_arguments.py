"""What a caller passes is checked by name: numbers of every kind, paths and functions of another type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreamcache.runtime.arguments import check_functions, path_of, whole_number
from dreamcache.runtime.errors import BundleError, DreamCacheError, SettingsError, SubjectError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sessions.providers import choose_providers


def test_numpys_whole_numbers_are_whole_numbers() -> None:
    assert whole_number("n", np.uint8(3), 1, 4) == 3
    assert whole_number("n", np.array(3), 1, 4) == 3
    for other in (True, 3.0, "3", None, 0, 5, 10**400, np.array([3])):
        with pytest.raises(SettingsError, match="n: a whole number from 1 to 4 is expected, received"):
            whole_number("n", other, 1, 4)


def test_paths_and_functions() -> None:
    assert path_of("p", "a/b") == path_of("p", Path("a/b")) == Path("a/b")
    for other in (None, 3, b"a", ["a"]):
        with pytest.raises(SettingsError, match="p: a path is expected, received"):
            path_of("p", other)
    check_functions(f=None, g=print)
    with pytest.raises(SettingsError, match="f: a function is expected, received int"):
        check_functions(g=print, f=3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda _: Pipeline.load(3), "bundle: a path is expected, received int"),
        (lambda _: Pipeline.load(b"mini"), "bundle: a path is expected, received bytes"),
        (lambda _: Pipeline.load("mini", progress=3), "progress: a function is expected, received int"),
        (lambda _: Pipeline.load("mini", threads=10**12), "threads: a whole number from 1 to 1024"),
        (lambda _: Pipeline.load("mini", providers=[("cpu", {})]), "providers: names such as cpu"),
        (lambda _: Pipeline.load("mini", providers=3), "providers: a list of names is expected"),
        (lambda pipe: pipe.load_subject(None), "subject: a path is expected, received NoneType"),
        (lambda pipe: pipe.cache("x.png", segmenter=3), "segmenter: a path is expected, received int"),
        (lambda pipe: pipe.denoise("a", stepz=3), "stepz: no setting has this name; expected are steps, "),
        (
            lambda pipe: pipe.denoise("a", callback_on_step_end=5),
            "callback_on_step_end: a function is expected",
        ),
        (lambda pipe: pipe.denoise("a", scheduler=["ddim"]), "scheduler: one of"),
        (lambda pipe: pipe.denoise("a", strength=10**400), "strength: a number from 0 to 10000 is expected"),
        (lambda pipe: pipe.denoise("a", guidance_scale=1e30), "guidance_scale: a number from 0 to 10000"),
        (lambda pipe: pipe.denoise("a", guidance_interval=(0, 10**400)), "0 to 1 and rising"),
        (lambda pipe: pipe.denoise("a", guidance_interval=(None, None)), "two fractions of the steps"),
        (lambda pipe: pipe.denoise("a", guidance_interval=np.array(2)), "two fractions of the steps"),
        (lambda pipe: pipe.denoise("a", generator=1, seed=1), "seed: one of generator and seed is expected"),
        (
            lambda pipe: pipe.denoise("a", num_inference_steps=1, steps=1),
            "one of num_inference_steps and steps",
        ),
        (
            lambda pipe: pipe.denoise("a", num_images=1, num_images_per_prompt=1),
            "one of num_images and num_images_per_prompt",
        ),
        (lambda _: Pipeline.load("mini", observe=3), "observe: a function is expected, received int"),
        (lambda _: Pipeline.load("mini", keep_sessions="no"), "keep_sessions: True or False is expected"),
        (lambda _: Pipeline.load("mini", check_hashes="no"), "check_hashes: True or False is expected"),
        (lambda pipe: pipe.generate("a", tiled_vae="no"), "tiled_vae: True or False is expected"),
        (
            lambda pipe: pipe.encode("x.png"),
            "image: a Pillow image of 16 x 16 pixels is expected, received str",
        ),
        (lambda pipe: pipe.encode(Image.new("RGB", (17, 16))), "received 17 x 16; Pipeline.cache takes"),
        (lambda pipe: pipe.decode(np.zeros((4, 4, 4))), r"latent: numbers \['n', 4, 4, 4\] are expected"),
        (lambda pipe: pipe.decode([[1], [1, 2]]), "latent: numbers"),
        (lambda pipe: pipe.noised(None), "latent: numbers .* received NoneType"),
        (lambda pipe: pipe.embed("a robot"), "prompts: values by name are expected, received str"),
        (
            lambda pipe: pipe.denoise("a", seed=2**63 - 2, num_images=3),
            "at most 9223372036854775805 is expected for 3",
        ),
    ],
)
def test_other_types_and_sizes_are_refused_by_name(
    pristine: Path, call: Callable[[Any], object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        call(Pipeline.load(pristine, check_hashes=False))
    assert "\n" not in str(refused.value)


def test_a_text_that_says_no_replaces_no_file(pristine: Path, toy: Path, tmp_path: Path) -> None:
    subject = Pipeline.load(pristine, check_hashes=False).cache(toy)
    place = tmp_path / "a.subject.safetensors"
    place.write_text("dear")
    with pytest.raises(SettingsError, match="overwrite: True or False is expected, received 'no'"):
        subject.save(place, overwrite="no")  # type: ignore[arg-type]
    assert place.read_text() == "dear"
    subject.save(place, overwrite=np.bool_(True))  # type: ignore[arg-type]
    assert place.read_bytes() != b"dear"


def test_parts_of_a_subject_are_looked_at(pristine: Path, toy: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.load(pristine, check_hashes=False)
    subject = pipeline.cache(toy)
    lists: Any = {name: array.tolist() for name, array in subject.tensors.items()}
    with pytest.raises(SubjectError, match="is expected as an array, received list"):
        pipeline.denoise("a", replace(subject, tensors=lists))
    with pytest.raises(SubjectError, match="belongs to another bundle"):
        pipeline.denoise("a", replace(subject, fingerprint=3))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="thumbnail: a Pillow image is expected, received str"):
        replace(subject, thumbnail="x.png").save(tmp_path / "b.subject.safetensors")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_every_kind_are_taken(pristine: Path, toy: Path) -> None:
    pipeline = Pipeline.load(pristine, threads=np.int64(1), check_hashes=False)  # type: ignore[arg-type]
    subject = pipeline.cache(toy, max_pixels=np.int64(10_000))  # type: ignore[arg-type]
    options: dict[str, Any] = {
        "strength": Fraction(1, 2),
        "guidance_scale": np.float16(2),
        "guidance_interval": np.array([0.0, 1.0]),
    }
    (step,) = pipeline.denoise("a toy", subject, steps=1, seed=3, **options)
    (plain,) = pipeline.denoise("a toy", subject, steps=1, seed=3, strength=0.5, guidance_scale=2.0)
    np.testing.assert_array_equal(step.latent, plain.latent)
    (last,) = pipeline.denoise("a toy", subject, steps=1, seed=2**63 - 1)
    assert np.isfinite(last.latent).all()


def test_a_provider_that_is_named_twice_is_one() -> None:
    assert choose_providers(["cpu", "CPUExecutionProvider"]) == ("CPUExecutionProvider",)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 2500, "a\0b"])
def test_names_that_the_system_refuses_are_no_files(pristine: Path, name: str) -> None:
    pipeline = Pipeline.load(pristine, check_hashes=False)
    refusals: list[tuple[Callable[[], object], type[DreamCacheError]]] = [
        (lambda: Pipeline.load(name), BundleError),
        (lambda: pipeline.load_subject(name), SubjectError),
        (lambda: pipeline.cache("x.png", segmenter=name), SettingsError),
    ]
    for call, kind in refusals:
        with pytest.raises(kind):
            call()
