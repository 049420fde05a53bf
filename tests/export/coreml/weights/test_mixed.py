"""Recipes of bits: what rounding costs, how bits are given out, and a recipe that was measured."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from scipy.cluster.vq import kmeans

from dreamcache.export.coreml.checks.recording import Recording, without_cache
from dreamcache.export.coreml.convert import convert_graph
from dreamcache.export.coreml.modules import unet_modules
from dreamcache.export.coreml.weights.allocation import FormatCost, allocate
from dreamcache.export.coreml.weights.compress import compress_package
from dreamcache.export.coreml.weights.mixed import Sensitivities
from dreamcache.export.coreml.weights.rounding import rounded, stored_bytes
from dreamcache.export.coreml.weights.trial import WeightTrial
from dreamcache.export.declare.architecture import declare_architecture
from dreamcache.export.declare.settings import declare_scheduler
from dreamcache.export.errors import ExportError
from dreamcache.export.options import WEIGHT_FORMATS, CoreMLOptions, WeightFormat
from dreamcache.export.parity.torch_reference import TorchModel
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import load_adapters

WEIGHT = np.random.default_rng(0).standard_t(5, (32, 96)).astype(np.float32)


def test_fewer_bits_cost_more() -> None:
    errors = [float(np.square(rounded(WEIGHT, kind) - WEIGHT).sum()) for kind in WEIGHT_FORMATS]
    assert errors == sorted(errors)
    sizes = [stored_bytes(WEIGHT.shape, kind) for kind in WEIGHT_FORMATS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(2 * WEIGHT.size, rel=0.05)
    scale = np.abs(WEIGHT).max(1, keepdims=True) / 127
    assert (np.abs(rounded(WEIGHT, "int8") - WEIGHT) <= scale / 2 + 1e-6).all()
    assert len(np.unique(rounded(WEIGHT, "palette4"))) == 16


def test_a_palette_is_as_good_as_k_means() -> None:
    found = float(np.square(rounded(WEIGHT, "palette4") - WEIGHT).sum())
    centres, _ = kmeans(WEIGHT.reshape(-1, 1), 16, iter=5, rng=0)
    best = np.square(np.abs(WEIGHT[..., None] - centres.ravel()).min(-1)).sum()
    assert found < 1.05 * best
    even = np.linspace(WEIGHT.min(), WEIGHT.max(), 16)
    assert np.square(even[np.abs(WEIGHT[..., None] - even).argmin(-1)] - WEIGHT).sum() > 1.5 * best


def test_bits_go_where_they_save_most() -> None:
    sensitivities = (1.0, 100.0, 10.0)
    shrink: dict[WeightFormat, float] = {"fp16": 0.0, "int8": 0.01, "palette6": 0.1, "palette4": 1.0}
    costs = [
        {
            kind: FormatCost(kind, stored_bytes((64, 64), kind), share * shrink[kind])
            for kind in WEIGHT_FORMATS
        }
        for share in sensitivities
    ]
    everything = [
        (sum(step.error for step in steps), sum(step.bytes for step in steps))
        for steps in product(*(cost.values() for cost in costs))
    ]
    for allowed in (111.0, 20.0, 2.0, 0.2):
        chosen = allocate(costs, lambda error, _: error <= allowed)  # noqa: B023 (called at once)
        error, size = sum(step.error for step in chosen), sum(step.bytes for step in chosen)
        assert error <= allowed
        assert size <= 1.15 * min(other for reached, other in everything if reached <= allowed)
    assert [step.format for step in allocate(costs, lambda error, _: error <= 20)][::2] == ["palette4"] * 2
    assert {step.format for step in allocate(costs, lambda *_: True)} == {"palette4"}


def test_a_recipe_meets_its_target(
    small_base: Path, small_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(small_base)
    conditioned = load_adapters(small_adapters, base.unet)
    architecture = declare_architecture("tiny", base, conditioned, None, 1)
    side = TorchModel(base, conditioned, architecture)
    references = (side.reference(0), side.reference(1))
    points = tuple(side.trajectory(references[0], 2, 2))
    recording = Recording(
        side.embeddings,
        tuple(without_cache(reference) for reference in references),
        points,
        {},
        declare_scheduler(base),
    )
    parts = unet_modules(base, conditioned, architecture, "plain")
    packages = {name: tmp_path / f"{name}.mlpackage" for name in parts}
    for name, part in parts.items():
        convert_graph(part.module, part.inputs, part.outputs, packages[name])
    package = packages["denoise"]
    said: list[str] = []
    sensitivities = Sensitivities(packages, parts["denoise"], recording, architecture, said.append)
    assert said[0].startswith("Core ML: sensitivity of weight 1 of ")
    recipe = sensitivities.recipe(CoreMLOptions(weights="mixed", psnr_db=45.0))
    assert len(set(recipe.formats.values())) > 1
    assert recipe.of(package) == recipe.formats
    # What an app gets: its caching graph is stored alike.
    trial = WeightTrial(packages["cache"], package, parts["denoise"], recording, architecture)
    found_db, effects = trial.measure(recipe.formats, "int8")
    assert found_db >= 45.0
    assert effects <= 0.025
    with monkeypatch.context() as patch:
        patch.setattr(trial, "_of_caching", lambda *_: {})
        assert trial.measure(recipe.formats, "int8")[0] > found_db + 0.02
    fewer = sensitivities.recipe(CoreMLOptions(weights="mixed", psnr_db=35.0))
    bits = {kind: index for index, kind in enumerate(reversed(WEIGHT_FORMATS))}
    assert sum(bits[kind] for kind in fewer.formats.values()) < sum(
        bits[kind] for kind in recipe.formats.values()
    )
    with pytest.raises(ExportError, match=r"no recipe for 120 dB"):
        sensitivities.recipe(CoreMLOptions(weights="mixed", psnr_db=120.0))
    stored = sum(path.stat().st_size for path in package.rglob("weight.bin")) / 1e6
    sized = sensitivities.recipe(CoreMLOptions(weights="mixed", size_mb=0.5 * stored))
    compress_package(package, tmp_path / "sized.mlpackage", sized.of(package), "int8")
    written = sum(path.stat().st_size for path in (tmp_path / "sized.mlpackage").rglob("weight.bin")) / 1e6
    assert 0.3 * stored < written < 0.55 * stored
    assert len(set(sized.formats.values())) > 1
    with pytest.raises(ExportError, match=r"--coreml size_mb: the weights take"):
        sensitivities.recipe(CoreMLOptions(weights="mixed", size_mb=0.01))
