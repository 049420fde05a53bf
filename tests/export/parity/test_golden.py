"""Golden tensors of an exported bundle: small, met by this machine, and what diffusers computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dreamcache.models.bases.base import load_base
from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.bundle.golden import CHECK_NAME, STOCK, read_golden, take_sample
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.sampling.device_check import check_device
from dreamcache.runtime.sessions.session import SessionOpener


def test_this_machine_meets_them(tiny_bundle: Path) -> None:
    bundle = open_contract(tiny_bundle)
    assert (tiny_bundle / CHECK_NAME).stat().st_size < 200_000
    figures = check_device(SessionOpener(bundle, ("CPUExecutionProvider",)))
    assert figures is not None
    assert set(figures.psnr_db) == set(bundle.contract.graphs.by_name())
    assert min(figures.psnr_db.values()) > 90
    assert figures.condition == pytest.approx({"reference": 1.0, "text": 1.0}, abs=1e-3)


@torch.no_grad()
def test_strength_0_is_what_diffusers_predicts(tiny_bundle: Path, tiny_base: Path) -> None:
    cases = read_golden(open_contract(tiny_bundle))
    given = {name: torch.from_numpy(value) for name, value in cases[STOCK].inputs().items()}
    unet = load_base(str(tiny_base)).unet
    predicted = unet(given["latent"], given["timestep"], given["text"]).sample.numpy()
    expected = cases[STOCK].outputs["prediction"]
    assert psnr_db(expected, take_sample(predicted, expected.size)) > 90
    with_reference = cases["denoiser"].outputs["prediction"]
    assert psnr_db(with_reference, take_sample(predicted, with_reference.size)) < 60
    # the batch repeats one row
    assert np.array_equal(given["latent"][0], given["latent"][1])
