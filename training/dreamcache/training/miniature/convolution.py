"""3 × 3 convolutions whose kernel's gradient is one matrix product where the maps are small.

At 4 × 4 in bfloat16, oneDNN's own takes four to ten times as long as the forward pass on a CPU; a product with the
neighbourhoods laid out in rows (im2col) takes as long as one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_SIDE = 4


class _Convolution(torch.autograd.Function):
    """Maps [n, i, h, w], kernels [o, i, 3, 3], bias [o] → [n, o, h, w]."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(maps, kernels)
        return functional.conv2d(maps, kernels, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        maps, kernels = ctx.saved_tensors
        inputs, (height, width) = maps.shape[1], maps.shape[2:]
        padded = functional.pad(maps.movedim(1, -1), (0, 0, 1, 1, 1, 1))
        shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        neighbourhoods = torch.cat(shifted, -1).view(-1, 9 * inputs)
        of_kernels = gradient.transpose(0, 1).flatten(1) @ neighbourhoods
        of_maps = functional.conv_transpose2d(gradient, kernels, padding=1)
        return of_maps, of_kernels.view(-1, 3, 3, inputs).movedim(-1, 1), gradient.sum((0, 2, 3))


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` with a 3 × 3 kernel, padding 1 and no stride, quick to train on small maps."""

    def forward(self, maps: Tensor) -> Tensor:
        """See `nn.Conv2d`."""
        if max(maps.shape[2:]) > LARGEST_SIDE:
            return super().forward(maps)
        found: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]  # torch's
            maps, self.weight, self.bias
        )
        return found


def _replaceable(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
        and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
        and module.bias is not None
    )


def quicken(module: nn.Module) -> None:
    """Put a `SmallMapConv2d` with the same parameters in the place of each convolution that it can stand for."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and _replaceable(child):
                quick = SmallMapConv2d(child.in_channels, child.out_channels, 3, padding=1, device="meta")
                quick.weight, quick.bias = child.weight, child.bias
                setattr(parent, name, quick)
