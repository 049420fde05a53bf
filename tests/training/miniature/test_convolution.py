"""The quick convolution is PyTorch's: its values, its gradients and its names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dreamcache.training.miniature.convolution import SmallMapConv2d, quicken


def gradients(convolution: nn.Module, maps: Tensor) -> list[Tensor]:
    """The result, and what its first half's squares give to the maps, kernels and bias."""
    maps = maps.clone().requires_grad_()
    result = convolution(maps)
    result[:, :3].square().sum().backward()
    return [result, maps.grad, *(p.grad for p in convolution.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("side", [4, 8])
def test_it_is_torchs_own(side: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 5, side, side)
    block = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1))
    expected = gradients(block, maps)
    names = [name for name, _ in block.named_parameters()]
    block.zero_grad()
    quicken(block)
    assert isinstance(block[0], SmallMapConv2d)
    assert [name for name, _ in block.named_parameters()] == names
    for one, other in zip(gradients(block, maps), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
    block.zero_grad()
    mirrored = gradients(block, maps.flip(-1))
    assert not torch.allclose(mirrored[2], expected[2], atol=1e-4)


def test_other_convolutions_stay() -> None:
    block = nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3), nn.Conv1d(4, 4, 3)
    )
    quicken(block)
    assert not any(isinstance(module, SmallMapConv2d) for module in block)
