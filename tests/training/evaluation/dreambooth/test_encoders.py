"""The metrics' models against computations that share no code with them, on real photographs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from tiny_metrics import PATCH, SIDE, WIDTH, photographs
from tiny_models import save_as_transformers_5
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPTextModelWithProjection, CLIPTokenizer

from dreamcache.training.errors import MetricModelError
from dreamcache.training.evaluation.dreambooth.encoders import ClipEncoder, DinoEncoder, dino_pixels
from dreamcache.training.evaluation.dreambooth.metric_weights import MetricWeights, find_weights

PICTURES = [*photographs("tabby"), *photographs("coffee")]


def vit_by_hand(weights: dict[str, Tensor], pixels: Tensor, heads: int = 4) -> Tensor:
    """The class token of a pre-norm ViT, from its state dict alone (Dosovitskiy et al. 2021): [n, d]."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(3)
    kernel = weights["embeddings.patch_embeddings.projection.weight"].flatten(1)
    tokens = patches.flatten(1, 2) @ kernel.T + weights["embeddings.patch_embeddings.projection.bias"]
    start = weights["embeddings.cls_token"].expand(len(pixels), -1, -1)
    x = torch.cat([start, tokens], 1) + weights["embeddings.position_embeddings"]
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        h = norm(x, f"{at}.layernorm_before")
        q, k, v = (
            linear(h, f"{at}.attention.attention.{name}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = ((q @ k.mT) / (WIDTH // heads) ** 0.5).softmax(-1) @ v
        x = x + linear(attended.transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
        h = linear(norm(x, f"{at}.layernorm_after"), f"{at}.intermediate.dense")
        x = x + linear(h * 0.5 * (1 + torch.erf(h / 2**0.5)), f"{at}.output.dense")
    return norm(x, "layernorm")[:, 0]


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))


@pytest.mark.parametrize(
    "picture", [PICTURES[0], PICTURES[3], PICTURES[3].transpose(Image.Transpose.ROTATE_90)]
)
def test_dino_s_pixels_are_those_of_its_own_evaluation(picture: Image.Image) -> None:
    # Resize(256), CenterCrop(224), Normalize of facebookresearch/dino, by transformers' implementation
    processor = CLIPImageProcessor(
        size={"shortest_edge": 256},
        crop_size=224,
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    ours = dino_pixels(picture, 224)
    # centres of odd margins are rounded differently: one column or row
    shifted = [np.roll(ours, (dy, dx), (1, 2)) for dy in (0, 1) for dx in (0, 1)]
    inner = np.s_[:, 2:-2, 2:-2]
    assert min(np.abs(one[inner] - expected[inner]).max() for one in shifted) < 1e-5
    squeezed = np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 255
    squeezed = ((squeezed - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)
    assert min(np.abs(one[inner] - squeezed[inner]).max() for one in shifted) > 0.1


def test_dino_by_hand(dino: MetricWeights) -> None:
    vectors = DinoEncoder(dino).pictures(PICTURES)
    pixels = torch.from_numpy(np.stack([dino_pixels(picture, SIDE) for picture in PICTURES]))
    expected = vit_by_hand(load_file(dino.folder / "model.safetensors"), pixels).numpy()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert cosines(vectors, expected) == pytest.approx(1, abs=1e-5)
    assert cosines(vectors, np.roll(expected, 3, axis=0)).max() < 0.99


def test_clip_s_pictures_by_hand(clip: MetricWeights) -> None:
    vectors = ClipEncoder(clip).pictures(PICTURES)
    weights = load_file(clip.folder / "model.safetensors")
    vision = {k.removeprefix("vision_model."): v for k, v in weights.items() if k.startswith("vision_model.")}
    pixels = CLIPImageProcessor.from_pretrained(clip.folder)(PICTURES, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (6, 3, SIDE, SIDE)
    patches = functional.conv2d(pixels, vision["embeddings.patch_embedding.weight"], stride=PATCH)
    start = vision["embeddings.class_embedding"].expand(6, 1, -1)
    tokens = torch.cat([start, patches.flatten(2).mT], 1) + vision["embeddings.position_embedding.weight"]
    hidden = _clip_layers(vision, _layer_norm(tokens, vision, "pre_layrnorm"))
    expected = (
        _layer_norm(hidden[:, 0], vision, "post_layernorm") @ weights["visual_projection.weight"].T
    ).numpy()
    assert cosines(vectors, expected) == pytest.approx(1, abs=1e-5)
    assert cosines(vectors, np.roll(expected, 3, axis=0)).max() < 0.99


def test_clip_s_prompts_by_its_other_class(clip: MetricWeights) -> None:
    prompts = ["a red cat", "a cup in the jungle", "a cat wearing a red hat and much more than fits"]
    vectors = ClipEncoder(clip).prompts(prompts)
    model = CLIPTextModelWithProjection.from_pretrained(clip.folder)
    tokenizer = CLIPTokenizer.from_pretrained(clip.folder)
    with torch.no_grad():
        expected = torch.cat(
            [model(**tokenizer(p, truncation=True, return_tensors="pt")).text_embeds for p in prompts]
        ).numpy()
    assert cosines(vectors, expected) == pytest.approx(1, abs=1e-5)
    assert cosines(vectors, np.roll(expected, 1, axis=0)).max() < 0.99


def test_clip_s_tokenizer_may_be_in_the_newer_form(clip: MetricWeights, tmp_path: Path) -> None:
    prompts = ["a red cat", "a cup in the jungle"]
    folder = shutil.copytree(clip.folder, tmp_path / "clip")
    (tmp_path / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"):
        shutil.move(folder / name, tmp_path / "tokenizer" / name)
    save_as_transformers_5(tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "tokenizer", folder, dirs_exist_ok=True)
    newer = ClipEncoder(find_weights("clip", str(folder))).prompts(prompts)
    assert np.array_equal(newer, ClipEncoder(clip).prompts(prompts))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MetricModelError, match=r"holds neither tokenizer.json nor vocab.json"):
        ClipEncoder(replace(clip, folder=folder))


def test_a_vector_is_the_same_in_any_batch(dino: MetricWeights) -> None:
    encoder = DinoEncoder(dino)
    many = encoder.pictures([*PICTURES * 6])  # more than one batch
    assert many[:6] == pytest.approx(many[30:36], abs=1e-6)
    assert np.abs(many[0] - many[3]).max() > 1e-3


def _layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def _clip_layers(weights: dict[str, Tensor], x: Tensor, heads: int = 4) -> Tensor:
    """CLIP's encoder (Radford et al. 2021): pre-norm layers with quick GELU."""

    def linear(h: Tensor, name: str) -> Tensor:
        return functional.linear(h, weights[f"{name}.weight"], weights[f"{name}.bias"])

    for layer in range(2):
        at = f"encoder.layers.{layer}"
        h = _layer_norm(x, weights, f"{at}.layer_norm1")
        q, k, v = (
            linear(h, f"{at}.self_attn.{name}_proj").unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in "qkv"
        )
        attended = ((q @ k.mT) / (WIDTH // heads) ** 0.5).softmax(-1) @ v
        x = x + linear(attended.transpose(1, 2).flatten(2), f"{at}.self_attn.out_proj")
        h = linear(_layer_norm(x, weights, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
        x = x + linear(h * torch.sigmoid(1.702 * h), f"{at}.mlp.fc2")
    return x
