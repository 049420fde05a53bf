"""White latents: uncorrelated channels of one variance, and the same pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.miniature.stages.autoencoder import make_autoencoder
from dreamcache.training.miniature.stages.whitening import whiten, zca
from dreamcache.training.world.dataset import draw_batch


def covariance(latents: Tensor) -> Tensor:
    return torch.cov(latents.movedim(1, 0).flatten(1).double())


def test_latents_become_white_and_pictures_stay() -> None:
    torch.manual_seed(0)
    vae = make_autoencoder().eval()
    with torch.no_grad():  # an untrained one's latents use few of their directions
        vae.quant_conv.weight.add_(0.3 * torch.randn_like(vae.quant_conv.weight))
    batch = draw_batch(0, 0, 24)
    pictures = to_tensor(batch.targets)
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist.mode()
        shown = vae.decode(before).sample
        whiten(vae, batch)
        after = vae.encode(pictures).latent_dist.mode()
        again = vae.decode(after).sample
    torch.testing.assert_close(again, shown, atol=2e-4, rtol=1e-3)
    assert float(after.mean((0, 2, 3)).abs().max()) < 1e-3
    strong = (
        torch.linalg.eigvalsh(covariance(before)) > 1e-3 * torch.linalg.eigvalsh(covariance(before)).max()
    )
    spread = torch.linalg.eigvalsh(covariance(after))
    np.testing.assert_allclose(spread[-int(strong.sum()) :], 1.0, atol=0.02)
    assert float(covariance(before).diag().max() / covariance(before).diag().min()) > 2


def test_zca_undoes_itself_and_leaves_weak_directions_weak() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(4000, 3) @ torch.diag(torch.tensor([5.0, 1.0, 1e-4])) + 2
    mean, forward, back = zca(vectors)
    torch.testing.assert_close(forward @ back, torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)
    white = torch.cov(((vectors.double() - mean) @ forward.T).T)
    torch.testing.assert_close(white[:2, :2], torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(white[2, 2]) < 1e-4
