"""Everything the peers load, made once and kept: weights, exports. Not part of any figure.

    python -m peers.prepare --work DIR [--base FOLDER | --architecture sd15] [--encoder vit-h|tiny]

base/: the seeded random base that `dreamcache export --architecture` uses, as a diffusers folder. ip_adapter/: an image
encoder and an IP-Adapter for that base, random weights of the true sizes, in the released file layout. onnx/: the two
other methods for ONNX Runtime, written with the operators and rewrites of our own export. optimum/: optimum's export.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.graphs.trace import export_graph
from dreamcache.export.modules.unet_copies import copy_with_products
from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.random_base import random_base
from dreamcache.models.checkpoint import base_fingerprint
from dreamcache.runtime.bundle.tensors import TensorSpec
from peers.unets import IMAGE_TOKENS, ConditionedUnet, IPAdapterUnet, ReferenceUnet, transformers

ENCODERS: dict[str, dict[str, Any]] = {
    # OpenCLIP ViT-H/14 as IP-Adapter ships it: 632M parameters.
    "vit-h": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 8,
        "image_size": 32,
        "projection_dim": 24,
        "hidden_act": "gelu",
    },
}
ADAPTER_FILE = "ip-adapter.safetensors"
PARTS = ("base", "ip_adapter", "onnx", "optimum")


def prepare(
    work: Path, base: Path | None, architecture: str, encoder: str, parts: Sequence[str] = PARTS
) -> None:
    """Make the parts that are not there yet; a part that is under `work` is whole."""
    folder = work / "base" if base is None else base
    if base is None:
        _once(work / "base", lambda place: write_base(place, architecture))
    if "ip_adapter" in parts:
        _once(work / "ip_adapter", lambda place: write_ip_adapter(place, folder, encoder))
    if "onnx" in parts:
        _once(work / "onnx", lambda place: write_onnx(place, folder, work / "ip_adapter"))
    if "optimum" in parts:
        _once(work / "optimum", lambda place: write_optimum(place, folder))


def write_base(place: Path, architecture: str) -> None:
    """The random base as a diffusers folder."""
    with TemporaryDirectory() as scratch:
        base = random_base(architecture, Path(scratch))
        StableDiffusionPipeline(
            vae=base.vae,
            text_encoder=base.text_encoder,
            tokenizer=base.tokenizer,
            unet=base.unet,
            scheduler=base.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(place, safe_serialization=True)


def write_ip_adapter(place: Path, base: Path, encoder: str) -> None:
    """Image encoder and adapter with seeded random weights; keys as in h94/IP-Adapter's models/ip-adapter_sd15."""
    config = CLIPVisionConfig(**ENCODERS[encoder])
    unet = load_base(base).unet
    width = int(unet.config.cross_attention_dim)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPVisionModelWithProjection(config).save_pretrained(place / "image_encoder")
        projection = nn.Linear(config.projection_dim, IMAGE_TOKENS * width)
        projections = IPAdapterUnet(unet, "sdpa")
    tensors = {f"image_proj.proj.{name}": tensor for name, tensor in projection.state_dict().items()}
    tensors |= {"image_proj.norm.weight": torch.ones(width), "image_proj.norm.bias": torch.zeros(width)}
    # The released file numbers the attentions in diffusers' order, self-attentions counted too.
    for i, name in enumerate(transformers_as_released(unet)):
        for what in ("to_k_ip", "to_v_ip"):
            layer = cast(nn.Linear, getattr(projections, what)[name.replace(".", "/")])
            tensors[f"ip_adapter.{2 * i + 1}.{what}.weight"] = layer.weight.detach()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place / ADAPTER_FILE)


def transformers_as_released(unet: Any) -> list[str]:
    """Transformer blocks in the order of the UNet's attention processors."""
    names = [name.split(".transformer_blocks")[0] for name in unet.attn_processors if ".attn2." in name]
    assert sorted(names) == sorted(transformers(unet))
    return names


def load_ip_adapter_unet(unet: Any, file: Path, kind: Any) -> IPAdapterUnet:
    """Our own UNet of the method, with the projections of the released layout."""
    adapted = IPAdapterUnet(unet, kind)
    tensors = load_file(file)
    for i, name in enumerate(transformers_as_released(unet)):
        for what in ("to_k_ip", "to_v_ip"):
            layer = cast(nn.Linear, getattr(adapted, what)[name.replace(".", "/")])
            layer.weight = nn.Parameter(tensors[f"ip_adapter.{2 * i + 1}.{what}.weight"], requires_grad=False)
    return adapted


class ImageEncoder(nn.Module):
    """Pixels [1, 3, s, s], normalised, to IP-Adapter's image tokens [1, 4, c] (its section 3.2.1)."""

    def __init__(self, encoder: CLIPVisionModelWithProjection, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder = encoder
        weight = tensors["image_proj.proj.weight"]
        self.proj = nn.Linear(weight.shape[1], weight.shape[0])
        self.norm = nn.LayerNorm(weight.shape[0] // IMAGE_TOKENS)
        for part in ("proj", "norm"):
            state = {name: tensors[f"image_proj.{part}.{name}"] for name in ("weight", "bias")}
            getattr(self, part).load_state_dict(state)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.proj(self.encoder(pixels).image_embeds)
        return cast(Tensor, self.norm(tokens.unflatten(-1, (IMAGE_TOKENS, -1))))


@torch.no_grad()
def write_onnx(place: Path, base_folder: Path, ip_adapter: Path) -> None:
    """image_encoder/, ip_adapter/, reference_unet/, conditioned_unet/: each a graph with weights of its own."""
    base = load_base(base_folder)
    borders, prediction = _borders(base)
    twin = copy_with_products(base.unet)

    encoder = CLIPVisionModelWithProjection.from_pretrained(ip_adapter / "image_encoder").eval()
    side = int(encoder.config.image_size)
    module: nn.Module = ImageEncoder(encoder, load_file(ip_adapter / ADAPTER_FILE)).requires_grad_(False)
    image = _spec("image", 1, IMAGE_TOKENS, int(base.unet.config.cross_attention_dim))
    _write(place / "image_encoder", module, [_spec("pixels", 1, 3, side, side)], [image])
    del module, encoder

    adapted = load_ip_adapter_unet(base.unet, ip_adapter / ADAPTER_FILE, "mha")
    adapted.unet = twin
    _write(place / "ip_adapter", adapted, [*borders, image], [prediction])

    reference = ReferenceUnet(twin, "plain").eval()
    shapes = [feature.shape for feature in reference(*(torch.ones(spec.shape) for spec in borders))]
    features = [_spec(f"feature.{i}", *shape) for i, shape in enumerate(shapes)]
    _write(place / "reference_unet", ReferenceUnet(twin, "mha"), borders, features)
    _write(place / "conditioned_unet", ConditionedUnet(twin, "mha"), [*borders, *features], [prediction])


def write_optimum(place: Path, base: Path) -> None:
    """optimum's own export of the whole folder."""
    from optimum.exporters.onnx import main_export

    main_export(str(base), output=place, task="text-to-image", do_validation=False)


def _borders(base: Base) -> tuple[list[TensorSpec], TensorSpec]:
    """What every UNet of this base takes, one picture at a time, and what it predicts."""
    config = base.unet.config
    latent = (1, int(config.in_channels), int(config.sample_size), int(config.sample_size))
    text = _spec("text", 1, base.text_length, int(config.cross_attention_dim))
    return [_spec("latent", *latent), _spec("timestep", 1), text], _spec("prediction", *latent)


def _spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype="float32")


def _write(
    place: Path, module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    place.mkdir()
    write_shared(place, {"model.onnx": export_graph(module, inputs, outputs)}, "weights.data")


def _once(place: Path, write: Callable[[Path], None]) -> None:
    """Write under another name and rename, so that what exists is whole."""
    if place.exists():
        return
    print(f"preparing {place.name} …", file=sys.stderr, flush=True)
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.replace(place)


def main() -> None:
    """The command line; its last line is the fingerprint of the base, as bundles have it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--architecture", default="sd15")
    parser.add_argument("--encoder", choices=list(ENCODERS), default="vit-h")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    prepare(given.work, given.base, given.architecture, given.encoder, given.parts)
    folder = given.work / "base" if given.base is None else given.base
    print(base_fingerprint(UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True)))


if __name__ == "__main__":
    main()
