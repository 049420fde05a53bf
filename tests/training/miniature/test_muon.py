"""Muon with a precision of choice is torch's where the precision is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamcache.training.miniature.muon import Muon, orthogonalised

SHAPES = ((24, 40), (40, 24), (16, 16))


def trained(dtype: torch.dtype | None, steps: int = 4) -> list[Tensor]:
    """Weights after some steps of random gradients; dtype: None is torch's own optimizer."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
    if dtype is None:
        optimizer = torch.optim.Muon(weights, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    else:
        optimizer = Muon(weights, lr=1e-2, weight_decay=0.1, dtype=dtype)
    for _ in range(steps):
        for weight in weights[:2]:  # the third has no gradient, and stays
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return weights


def test_in_bfloat16_it_is_torchs_own_bit_for_bit() -> None:
    for ours, theirs in zip(trained(torch.bfloat16), trained(None), strict=True):
        assert torch.equal(ours, theirs)


def test_in_float32_it_differs_by_rounding_alone() -> None:
    ours, theirs = trained(torch.float32), trained(None)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
    assert not torch.equal(ours[0], theirs[0])
    assert not torch.allclose(ours[0], trained(torch.float32, steps=3)[0], atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    spread = torch.linalg.svdvals(orthogonalised(matrix[None], torch.float32)[0])
    assert float(torch.linalg.svdvals(matrix)[0] / torch.linalg.svdvals(matrix)[-1]) > 5
    assert float(spread.min()) > 0.3
    assert float(spread.max()) < 1.3
    assert float(torch.linalg.svdvals(matrix).max()) > 1.3


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="a closure was given"):
        Muon([torch.zeros(4, 4)], lr=1e-2, weight_decay=0.0, dtype=torch.float32).step(lambda: 0.0)
