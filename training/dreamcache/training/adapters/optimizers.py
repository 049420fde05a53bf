"""What updates the adapters: AdamW, as in the paper, or Muon for their matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreamcache.training.adapters.preset import Preset
from dreamcache.training.device import training_dtype
from dreamcache.training.miniature.muon import Muon

SMALLEST_MATRIX = 16


def make_optimizers(parameters: Mapping[str, Tensor], preset: Preset) -> list[torch.optim.Optimizer]:
    """Each parameter in one of them. Muon has AdamW's learning rate and weight decay."""
    by_muon = {
        name: parameter
        for name, parameter in parameters.items()
        if preset.optimizer == "muon" and parameter.ndim == 2 and min(parameter.shape) >= SMALLEST_MATRIX
    }
    others = [parameter for name, parameter in parameters.items() if name not in by_muon]
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        betas = (preset.beta1, preset.beta2)
        optimizers.append(
            torch.optim.AdamW(others, lr=preset.learning_rate, betas=betas, weight_decay=preset.weight_decay)
        )
    if by_muon:
        matrices = list(by_muon.values())
        dtype = training_dtype(matrices[0].device)
        optimizers.append(
            Muon(matrices, lr=preset.learning_rate, weight_decay=preset.weight_decay, dtype=dtype)
        )
    return optimizers
