"""SDXL's UNet in small: added conditions, deep transformers of which the first block is tapped, both graphs."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from tiny_models import TEXT_WIDTH, randomise_adapters, tiny_unet
from torch import Tensor

from dreamcache.export.declare.architecture import declare_architecture
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.graphs.trace import export_graph
from dreamcache.export.modules.unet import ADDED_CONDITIONS, CachingGraph, DenoiserGraph
from dreamcache.models.bases.base import Base
from dreamcache.models.caching import cache_reference
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.bundle.tensors import TensorSpec

POOLED = 20
BATCH = 2
# SDXL's own shape with a level less: no attention at the top, deep transformers below, linear projections.
SDXL_SHAPED: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": POOLED + 6 * 8,
}
# The config.json of stabilityai/stable-diffusion-xl-base-1.0; 2.6B parameters (arXiv 2307.01952, table 1).
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_SITES = [
    ("mid_block.attentions.0", 1280, 10),
    ("up_blocks.0.attentions.1", 1280, 10),
    ("up_blocks.1.attentions.0", 640, 2),
    ("up_blocks.1.attentions.2", 640, 2),
]


def conditions(batch: int, seed: int) -> dict[str, Tensor]:
    """A pooled prompt [b, p] and sizes, crops and target [b, 6] in pixels."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]).expand(batch, -1)
    return {"text_embeds": torch.randn(batch, POOLED, generator=generator), "time_ids": sizes.contiguous()}


@pytest.fixture(scope="module", name="model")
def _model() -> ConditionedUNet:
    config = AdapterConfig(cache_timestep=7)
    return randomise_adapters(ConditionedUNet(tiny_unet(**SDXL_SHAPED), config))


def test_the_site_rule_at_full_size() -> None:
    with torch.device("meta"):
        model = ConditionedUNet(UNet2DConditionModel(**SDXL))
    blocks = [len(model.unet.get_submodule(site.name).transformer_blocks) for site in model.sites]
    assert [(*site, n) for site, n in zip(map(astuple, model.sites), blocks, strict=True)] == SDXL_SITES
    billions = sum(parameter.numel() for parameter in model.unet.parameters()) / 1e9
    assert billions == pytest.approx(2.567, abs=1e-3)
    # 6d² + 4d at each site, for the first block of each alone.
    adapters = sum(parameter.numel() for parameter in model.adapter_parameters())
    assert adapters == sum(6 * d * d + 4 * d for _, d, _ in SDXL_SITES)


def specs(tensors: dict[str, Tensor]) -> list[TensorSpec]:
    return [
        TensorSpec(name=name, shape=tuple(tensor.shape), dtype="float32") for name, tensor in tensors.items()
    ]


def run(path: Path, inputs: dict[str, Tensor]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()}))


@torch.no_grad()
def test_both_graphs_in_onnx_runtime(model: ConditionedUNet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    null, reference, of_null = torch.randn(1, 7, TEXT_WIDTH), torch.randn(1, 4, 8, 8), conditions(1, 1)
    cache = cache_reference(model.unet, model.sites, reference, 7, null, of_null)
    wanted = {
        f"{site.name}.{name}": getattr(model.adapter(site.name), f"to_{name[0]}")(cache[site.name])
        for site in model.sites
        for name in ("key", "value")
    }
    inputs = {
        "latent": torch.randn(BATCH, 4, 8, 8),
        "timestep": torch.tensor([999.0, 20.0]),
        "text": torch.randn(BATCH, 7, TEXT_WIDTH),
        "reference_strength": torch.tensor([0.0, 1.0]),
        **conditions(BATCH, 2),
    }
    assert tuple(inputs)[4:] == ADDED_CONDITIONS
    prediction, deep = DenoiserGraph(model, "plain")(*inputs.values(), *wanted.values())
    caching = export_graph(
        CachingGraph(model, null, "mha", added=of_null), specs({"latent": reference}), specs(wanted)
    )
    denoiser = export_graph(
        DenoiserGraph(model, "mha"),
        specs({**inputs, **wanted}),
        specs({"prediction": prediction, "deep": deep}),
    )
    write_shared(tmp_path, {"model.onnx": denoiser, "cache.onnx": caching}, "weights.data")

    received = run(tmp_path / "cache.onnx", {"latent": reference})
    assert min(psnr_db(w.numpy(), r) for w, r in zip(wanted.values(), received, strict=True)) > 80
    everything = inputs | {name: torch.from_numpy(r) for name, r in zip(wanted, received, strict=True)}
    predicted = run(tmp_path / "model.onnx", everything)[0]
    expected = model(
        inputs["latent"],
        inputs["timestep"],
        inputs["text"],
        cache,
        inputs["reference_strength"],
        {name: inputs[name] for name in ADDED_CONDITIONS},
    )
    assert psnr_db(expected.numpy(), predicted) > 80
    added = {name: inputs[name] for name in ADDED_CONDITIONS}
    stock = model.unet(inputs["latent"], inputs["timestep"], inputs["text"], added_cond_kwargs=added).sample
    assert psnr_db(stock[:1].numpy(), predicted[:1]) > 80
    # What must change it does: the reference at strength 1, and either condition.
    assert psnr_db(stock[1:].numpy(), predicted[1:]) < 60
    for name in ADDED_CONDITIONS:
        moved = run(tmp_path / "model.onnx", everything | {name: everything[name] + 1.0})[0]
        assert psnr_db(expected.numpy(), moved) < 60, name


@torch.no_grad()
def test_the_caching_prompt_has_conditions_of_its_own(model: ConditionedUNet) -> None:
    null, reference = torch.randn(1, 7, TEXT_WIDTH), torch.randn(1, 4, 8, 8)
    one, other = (CachingGraph(model, null, "plain", added=conditions(1, seed))(reference) for seed in (1, 2))
    assert max((a - b).abs().max() for a, b in zip(one, other, strict=True)) > 1e-3
    with pytest.raises(ValueError, match="text_embeds"):
        CachingGraph(model, null, "plain")


def test_a_bundle_of_it_is_refused(model: ConditionedUNet) -> None:
    base = Base(None, None, None, model.unet, None, None)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="second text encoder, and a bundle holds one") as raised:
        declare_architecture("xl", base, model, None, 1)
    assert "\n" not in str(raised.value)
