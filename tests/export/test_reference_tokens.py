"""A bundle whose denoiser takes half of the reference's tokens, beside the exact one of the same base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamcache.export.command import export
from dreamcache.export.declare.architecture import declare_architecture
from dreamcache.export.errors import ExportError
from dreamcache.export.parity.gates import CONDITION_TOLERANCE, MIN_PSNR_DB
from dreamcache.models.bases.base import load_base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.errors import SubjectError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.reference.reference_tokens import kept_positions


@pytest.fixture(scope="module")
def half(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("half") / "bundle"
    export(out=out, base=str(tiny_base), adapters=tiny_adapters, batch=2, reference_tokens=0.5)
    return Pipeline.load(out)


@pytest.fixture(scope="module")
def exact(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle)


@pytest.fixture(scope="module")
def toy() -> Image.Image:
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[4:28, 10:22] = np.random.default_rng(0).integers(0, 200, (24, 12, 3))
    return Image.fromarray(pixels)


def test_it_passes_its_gates(half: Pipeline) -> None:
    shape, parity = half.contract.architecture, half.contract.parity
    assert [site.tokens for site in shape.sites] == [16, 16, 64, 64]
    assert [site.kept_tokens for site in shape.sites] == [8, 8, 32, 32]
    assert min(parity.psnr_db.values()) >= MIN_PSNR_DB
    assert min(parity.trajectory_db) >= MIN_PSNR_DB
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in parity.condition.values())
    checks = list(verify_bundle(half.bundle.folder))
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) > 10


def test_its_subject_is_half_of_the_exact_one(
    half: Pipeline, exact: Pipeline, toy: Image.Image, tmp_path: Path
) -> None:
    smaller, whole = half.cache(toy), exact.cache(toy)
    sizes = [
        subject.save(tmp_path / f"{name}.subject.safetensors").stat().st_size
        for name, subject in (
            ("half", replace(smaller, thumbnail=None)),
            ("whole", replace(whole, thumbnail=None)),
        )
    ]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.05)
    mask = prepare_reference(toy, size=32).mask
    for site in half.contract.architecture.sites:
        positions = kept_positions(site, mask)
        for name in (site.key_name, site.value_name):
            # The caching graph is the same; what stays is bit for bit what the exact bundle has there.
            np.testing.assert_array_equal(smaller.tensors[name], whole.tensors[name][:, positions])
    # Exact is as ever: all that the caching graph gives, and the same files but for the denoiser's shapes.
    graph = {site.key_name: site.tokens for site in exact.contract.architecture.sites}
    assert {name: whole.tensors[name].shape[1] for name in graph} == graph
    files = [pipeline.contract.files for pipeline in (half, exact)]
    assert files[0]["unet/cache.onnx"] == files[1]["unet/cache.onnx"]
    assert files[0]["unet/weights.data"] == files[1]["unet/weights.data"]
    assert files[0]["unet/model.onnx"] != files[1]["unet/model.onnx"]


def test_it_draws_and_the_reference_counts(half: Pipeline, toy: Image.Image) -> None:
    subject = half.cache(toy)
    drawn = [
        np.asarray(half.generate("a robot", subject, steps=2, seed=3, strength=strength), int)
        for strength in (1.0, 0.0)
    ]
    stock = np.asarray(half.generate("a robot", None, steps=2, seed=3), int)
    assert np.abs(drawn[0] - drawn[1]).max() > 1
    assert drawn[1].shape == stock.shape == (32, 32, 3)


def test_a_subject_of_another_size_is_refused(half: Pipeline, exact: Pipeline, toy: Image.Image) -> None:
    whole = exact.cache(toy)
    with pytest.raises(SubjectError, match="belongs to another bundle"):
        half.denoise("a robot", whole)
    forged = replace(whole, fingerprint=half.contract.fingerprints.subject())
    with pytest.raises(SubjectError, match=r"key \[1, 8, \d+\] float32 is expected, received \[1, 16, \d+\]"):
        half.denoise("a robot", forged)
    half.denoise("a robot", half.cache(toy)).close()  # type: ignore[attr-defined]


def test_a_share_is_above_0_and_up_to_1(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    conditioned = ConditionedUNet(base.unet)

    def kept(share: float) -> list[int | None]:
        shape = declare_architecture("tiny", base, conditioned, None, 1, 1, 1, share)
        return [site.kept_tokens for site in shape.sites]

    for share in (0.0, 1.5, -0.5, float("nan")):
        with pytest.raises(
            ExportError, match=r"^--reference-tokens is \S+; give a share above 0 and up to 1[^\n]*$"
        ):
            kept(share)
    assert kept(1.0) == [None] * 4
    assert kept(0.25) == [4, 4, 16, 16]
    assert kept(0.3) == [5, 5, 20, 20]
    assert kept(1e-6) == [1, 1, 1, 1]
