"""The loss of the adapters: the base's own, on noised targets, with the reference cached by the frozen UNet
(paper, section 3.3 and supplement).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamcache.models.bases.base import Base
from dreamcache.models.caching import cache_clean, join_caches
from dreamcache.models.conditioned import Cache, ConditionedUNet
from dreamcache.runtime.errors import SettingsError
from dreamcache.training.adapters.encoded import Encoded
from dreamcache.training.adapters.order import Drawn
from dreamcache.training.miniature.stages.text_to_image import noised

PREDICTIONS = ("epsilon", "v_prediction")


class AdapterLoss(nn.Module):
    """Adapters on a frozen base with the loss they learn from.

    Args:
        null, cache_text: embeddings [1, l, c] of the empty caption, and of the text while caching.
        recompute: gradient checkpointing.

    Raises: SettingsError when the base predicts something else than noise or velocity.
    """

    null: Tensor
    cache_text: Tensor

    def __init__(
        self, base: Base, conditioned: ConditionedUNet, null: Tensor, cache_text: Tensor, recompute: bool
    ) -> None:
        super().__init__()
        self.prediction = str(base.scheduler.config.prediction_type)
        if self.prediction not in PREDICTIONS:
            raise SettingsError(
                f"the base predicts {self.prediction!r}; expected one of {', '.join(PREDICTIONS)}: take another base"
            )
        self.scheduler = base.scheduler
        self.conditioned = conditioned
        self.recompute = recompute
        self.register_buffer("null", null, persistent=False)
        self.register_buffer("cache_text", cache_text, persistent=False)

    def forward(self, encoded: Encoded, drawn: Drawn, stock: bool = False) -> Tensor:
        """Mean square error of each sample, float32 [n].

        encoded: float32 on the device of the weights. stock: without the reference, as the base alone.
        """
        device, dtype = self.null.device, self.conditioned.unet.dtype
        timesteps = drawn.timesteps.to(device)
        noise = drawn.noise.to(device)
        noisy, velocity = noised(self.scheduler, encoded.targets, noise, timesteps)
        text = torch.where(drawn.dropped.to(device)[:, None, None], self.null, encoded.text).to(dtype)
        with plain_products(device):
            cache = None if stock else self._cache(encoded.references, drawn.reference_noise.to(device))
            predicted = self.conditioned(
                noisy.to(dtype), timesteps, text, cache, recompute=self.recompute and torch.is_grad_enabled()
            )
        wanted = velocity if self.prediction == "v_prediction" else noise
        return functional.mse_loss(predicted.float(), wanted, reduction="none").mean((1, 2, 3))

    def _cache(self, references: Tensor, noise: Tensor) -> Cache:
        """Of references [n, z, h, w], or of several of each sample [n, views, z, h, w], joined."""
        views = zip(references.unbind(1), noise.unbind(1), strict=True) if references.ndim == 5 else ()
        conditioned = self.conditioned
        return join_caches(
            [
                cache_clean(
                    conditioned.unet,
                    conditioned.sites,
                    self.scheduler,
                    conditioned.config,
                    reference,
                    drawn,
                    self.cache_text,
                )
                for reference, drawn in views or [(references, noise)]
            ]
        )


def plain_products(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU attention as plain products: the fused kernel is slow backwards there."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def first_not_finite(model: nn.Module) -> str | None:
    """The name of the first weight that holds nan or inf."""
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            return name
    return None
