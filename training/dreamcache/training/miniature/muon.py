"""Muon (Jordan et al. 2024) whose orthogonalisation runs in a precision of choice.

torch's own runs in bfloat16, which a CPU without instructions for it emulates: there a step of the base takes three
times as long. State, update and learning rate are torch's (with the scale of Liu et al. 2025, arXiv 2502.16982).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with AdamW's learning rates; dtype: of the products in the iteration."""

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(list(params), lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no closure
        """Update every matrix that has a gradient. Raises: ValueError for a closure."""
        if closure is not None:
            raise ValueError("a closure was given, and this loop takes none")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for matrices in by_shape.values():
                self._update(matrices, **{name: group[name] for name in ("lr", "momentum", "weight_decay")})

    def _update(self, matrices: list[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        """Matrices of one shape, whose iterations are one batch of products: few launches on a GPU."""
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        gradients = torch._foreach_add([cast(Tensor, matrix.grad) for matrix in matrices], 0.0)
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        torch._foreach_lerp_(gradients, averages, momentum)
        updates = orthogonalised(torch.stack(gradients), self.dtype).to(matrices[0].dtype)
        torch._foreach_mul_(matrices, 1 - lr * weight_decay)
        scale = -lr * 0.2 * math.sqrt(max(matrices[0].shape))
        torch._foreach_add_(matrices, list(updates.unbind()), alpha=scale)


def orthogonalised(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """About U Vᵀ of each of the matrices U S Vᵀ [n, m, k], by five quintic Newton-Schulz iterations in `dtype`."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    wide = (matrices.mT if tall else matrices).to(dtype)
    wide = wide / wide.flatten(1).norm(dim=1)[:, None, None].clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if tall else wide
