"""--kv-downsample and --reference-downsample: the gates hold against PyTorch that averages too, and only that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import MINI_SHAPED, TEXT_WIDTH, randomise_adapters, tiny_unet

from dreamcache.export.declare.architecture import declare_architecture
from dreamcache.export.errors import ExportError
from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph
from dreamcache.export.options import Approximations
from dreamcache.export.parity.report import measure_parity
from dreamcache.export.parts.unet import declare_unet, export_unet
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, MIN_PSNR_DB, ParityReport

AVERAGED = Approximations(2, 2)


def test_averaged_bundles_are_compared_with_averaging_pytorch(
    tiny_bundle: Path, tiny_base: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_base)
    conditioned = load_adapters(tiny_adapters, base.unet)
    architecture = declare_architecture("tiny", base, conditioned, None, 1, AVERAGED)
    assert [site.tokens for site in architecture.sites] == [16, 16, 16, 16]
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    shutil.rmtree(folder / "unet")
    written = export_unet(base, conditioned, folder, architecture, "mha", AVERAGED, lambda *_: None)
    specs = vars(declare_unet(architecture))
    graphs = open_bundle(tiny_bundle).contract.graphs.model_copy(update=specs)

    def measure(approximations: Approximations) -> ParityReport:
        return measure_parity(
            folder, graphs, architecture, base, conditioned, written.disk, approximations=approximations
        )

    report = measure(AVERAGED)
    assert min(report.psnr_db.values()) >= MIN_PSNR_DB
    assert min(report.trajectory_db) >= MIN_PSNR_DB
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in report.condition.values())
    with pytest.raises(ExportError, match=r"graph \w+ is \d+\.\d dB from PyTorch, at least 80 dB"):
        measure(Approximations(reference_downsample=2))


@torch.no_grad()
def test_tokens_are_averaged_at_the_top_alone() -> None:
    model = randomise_adapters(ConditionedUNet(tiny_unet(**MINI_SHAPED)))
    torch.manual_seed(0)
    text, one = torch.randn(1, 7, TEXT_WIDTH), torch.ones(1)
    reference = torch.randn(1, 4, 8, 8)
    whole, averaged = (
        CachingGraph(model, text, "plain")(reference),
        CachingGraph(model, text, "plain", Approximations(reference_downsample=2))(reference),
    )
    # Keys and values are linear in the tokens: those of averaged tokens are averaged ones, at the top alone.
    for exact, found in zip(whole, averaged, strict=True):
        if exact.shape[1] < 64:
            assert torch.equal(exact, found)
        else:
            cells = exact.reshape(1, 4, 2, 4, 2, -1).mean((2, 4)).reshape(1, 16, -1)
            torch.testing.assert_close(found, cells, atol=1e-5, rtol=1e-4)
            assert (found - exact[:, :16]).abs().max() > 0.1
    noisy = torch.randn(1, 4, 8, 8)
    exact, found = (
        DenoiserGraph(model, "plain", Approximations(cells))(noisy, 300 * one, text, one, *whole)[0]
        for cells in (1, 2)
    )
    error = (exact - found).norm() / exact.norm()
    assert 1e-4 < error < 0.3


@pytest.mark.parametrize(
    ("option", "cells"), [("--kv-downsample", (3, 1)), ("--reference-downsample", (1, 0))]
)
def test_a_pool_divides_the_rows(tiny_base: Path, option: str, cells: tuple[int, int]) -> None:
    base = load_base(tiny_base)
    with pytest.raises(
        ExportError, match=rf"^{option} is \d; give a number that divides the latent's 8 rows$"
    ):
        declare_architecture("tiny", base, ConditionedUNet(base.unet), None, 1, Approximations(*cells))
    declare_architecture("tiny", base, ConditionedUNet(base.unet), None, 1, Approximations(4, 8))
