"""SDXL's text side: a second encoder and tokenizer, and what its UNet reads beside the timestep.

Source: `StableDiffusionXLPipeline.encode_prompt` and `_get_add_time_ids` in diffusers 0.39 (SDXL, arXiv 2307.01952,
sections 2.1 and 2.2): both encoders' last hidden states but one, side by side; the second one's pooled embedding; and
the sizes in pixels that the picture shall look like.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast


@dataclass(frozen=True)
class SecondText:
    """The second encoder.

    Attributes:
        encoder: its last hidden state but one goes beside the first encoder's, its projection is the pooled embedding.
        tokenizer: its own.
        force_zeros_for_empty_prompt: whether an empty negative prompt is zeros, as the base was trained, instead of the
            empty text's embeddings.
    """

    encoder: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizerFast
    force_zeros_for_empty_prompt: bool = True


@dataclass(frozen=True)
class Conditioning:
    """All that a UNet reads of prompts.

    Attributes:
        text: [b, chunks · n, c].
        added: ``text_embeds`` [b, p] and ``time_ids`` [b, 6] of SDXL; empty for others.
    """

    text: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)

    def numpy(self) -> dict[str, NDArray[np.float32]]:
        """By the names of the denoiser's inputs."""
        return {name: tensor.numpy() for name, tensor in {"text": self.text, **self.added}.items()}

    def row(self, index: int) -> Conditioning:
        """That of one prompt."""
        return Conditioning(
            self.text[index : index + 1],
            {name: tensor[index : index + 1] for name, tensor in self.added.items()},
        )


def time_ids(height: int, width: int) -> tuple[int, ...]:
    """Original size, crop and target size, rows first: a picture that was drawn at its own size."""
    return (height, width, 0, 0, height, width)


def penultimate(encoder: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden state but one [b, n, c], and the encoder's first output, a second one's pooled embedding [b, p]."""
    found = encoder(ids, output_hidden_states=True)
    return cast(Tensor, found.hidden_states[-2]), cast(Tensor, found[0])
