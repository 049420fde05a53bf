"""SDXL's text encoders with the outputs that its UNet reads."""

from __future__ import annotations

from torch import Tensor, nn

from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.second_text import penultimate


class PenultimateEncoder(nn.Module):
    """Token ids [1, n] to the last hidden state but one [1, n, c], and its pooled embedding [1, p] where wanted."""

    def __init__(self, encoder: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooled = pooled

    def forward(self, ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden, pooled = penultimate(self.encoder, ids)
        return (hidden, pooled) if self.pooled else hidden


def sdxl_text_encoders(base: Base) -> dict[str, PenultimateEncoder]:
    """Both encoders of such a base, by their graphs' names."""
    assert base.second is not None
    return {
        "text_encoder": PenultimateEncoder(base.text_encoder, pooled=False),
        "text_encoder_2": PenultimateEncoder(base.second.encoder, pooled=True),
    }
