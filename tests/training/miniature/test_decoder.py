"""The decoder's own training: it moves the decoder alone, towards edges that are there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from dreamcache.training.miniature.loop import Schedule
from dreamcache.training.miniature.stages.autoencoder import make_autoencoder
from dreamcache.training.miniature.stages.decoder import edge_energy, train_decoder
from dreamcache.training.miniature.stages.perceptual import Features


def test_a_blurred_edge_has_less_energy_and_a_moved_one_as_much() -> None:
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1
    blurred = functional.avg_pool2d(functional.pad(edge, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    moved = torch.zeros(1, 3, 32, 32)
    moved[..., 18:] = 1
    assert edge_energy(edge).shape == (1, 1, 32, 32)
    sharp = float(edge_energy(edge).mean())
    assert float(edge_energy(blurred).mean()) < 0.5 * sharp
    assert abs(float(edge_energy(moved).mean()) / sharp - 1) < 0.1
    assert float(edge_energy(torch.full((1, 3, 8, 8), 0.3)).max()) < 2e-3


def test_the_encoder_stays_as_it_is(small_shard: Path, tmp_path: Path) -> None:
    vae = make_autoencoder()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    schedule = Schedule(
        steps=2, batch=4, learning_rate=1e-3, warmup=0, ema=0.5, checkpoint_every=1, muon=True
    )
    train_decoder(vae, small_shard, 1, tmp_path, schedule, Features().eval().requires_grad_(False))
    changed = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert "decoder.conv_out.weight" in changed
    assert all(parameter.requires_grad for parameter in vae.parameters())
