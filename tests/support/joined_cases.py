"""LoRAs and textual inversions as tools write them, each joined to an unaltered base."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from altered_bases import AlteredBase, joined_file
from diffusers import UNet2DConditionModel
from joined_files import CONVOLUTIONS, TEXT_LAYERS, UNET_LAYERS, as_kohya, as_peft, lora_matrices
from safetensors.torch import save_file
from tiny_models import TEXT_WIDTH
from transformers import CLIPTextModel

Tensors = dict[str, torch.Tensor]
# What is read, and so has graphs of its own.
_READ = (
    "kohya at 0.6",
    "kohya as LoCon with a rank and an alpha of its convolutions",
    "kohya in bf16",
    "kohya in fp8",
    "kohya, lora_te1_",
    "kohya, conv_in and the time embedding",
    "diffusers",
    "diffusers with metadata of rs-LoRA and a pattern",
    "diffusers of old, processors",
    "three vectors",
    "AUTOMATIC1111",
    "whole numbers",
)
FIRST = "lora_unet_" + UNET_LAYERS[0].replace(".", "_")
_METADATA = "lora_adapter_metadata"


def joined_cases() -> Iterator[AlteredBase]:
    """All of them."""
    yield from _loras()
    yield from _inversions()


def _loras() -> Iterator[AlteredBase]:
    yield _lora("kohya at 0.6", lambda *m: as_kohya(_attention(m[0]), _text(m[1])), given="0.6")
    yield _lora("kohya as LoCon with a rank and an alpha of its convolutions", lambda *m: as_kohya(
        _attention(m[0]) | lora_matrices(m[0], CONVOLUTIONS, 2, rank=2), {}))  # fmt: skip
    yield _lora("kohya, an alpha for each attention", lambda *m: as_kohya(_uneven(m[0], UNET_LAYERS), {}))
    yield _lora("kohya, an alpha for each layer of the text encoder", lambda *m: as_kohya(
        {}, _uneven(m[1], TEXT_LAYERS)))  # fmt: skip
    yield _lora("kohya, a rank for each attention", lambda *m: as_kohya(_ranked(m[0], 0.5), {}))
    yield _lora(
        "kohya, alphas that are the ranks of each attention", lambda *m: as_kohya(_ranked(m[0], 1.0), {})
    )
    yield _lora(
        "kohya without one alpha", lambda *m: _without(as_kohya(_attention(m[0]), {}), f"{FIRST}.alpha")
    )
    yield _lora("kohya in bf16", lambda *m: _as(as_kohya(_attention(m[0]), {}), torch.bfloat16))
    yield _lora("kohya in fp8", lambda *m: _as(as_kohya(_attention(m[0]), {}), torch.float8_e4m3fn))
    yield _lora("kohya, lora_te1_", lambda *m: _named(as_kohya({}, _text(m[1])), "lora_te_", "lora_te1_"))
    yield _lora("kohya, lora_te2_", lambda *m: _named(as_kohya({}, _text(m[1])), "lora_te_", "lora_te2_"))
    yield _lora("kohya with the blocks of SDXL's own UNet", lambda *m: _named(
        as_kohya(_attention(m[0]), {}), "down_blocks_0_attentions_0", "input_blocks_1_1"))  # fmt: skip
    yield _lora("kohya, conv_in and the time embedding", lambda *m: as_kohya(lora_matrices(
        m[0], ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2",
               "down_blocks.0.resnets.0.time_emb_proj", "mid_block.resnets.1.conv2")), {}))  # fmt: skip
    yield _lora(
        "DoRA of kohya",
        lambda *m: as_kohya(_attention(m[0]), {}) | {f"{FIRST}.dora_scale": torch.ones(16, 1)},
    )
    yield _lora("LoHa", lambda *_: {f"{FIRST}.hada_w1_a": torch.ones(16, 2)})
    yield _lora("LoKr", lambda *_: {f"{FIRST}.lokr_w1": torch.ones(4, 4)})
    yield _lora("GLoRA", lambda *_: {f"{FIRST}.a1.weight": torch.ones(4, 4)})
    yield _lora(
        "a bias difference", lambda *m: as_kohya(_attention(m[0]), {}) | {f"{FIRST}.diff_b": torch.ones(16)}
    )
    yield _lora("diffusers", lambda *m: as_peft(_attention(m[0]), _text(m[1])))
    yield _lora("diffusers, ranks that differ", lambda *m: as_peft(_ranked(m[0], 1.0), {}))
    yield _lora("diffusers with alphas beside", lambda *m: _with_alphas(as_peft(_attention(m[0]), {})))
    yield _lora("diffusers with a bias", lambda *m: as_peft(_attention(m[0]), {}) | {
        f"unet.{UNET_LAYERS[0]}.lora_B.bias": torch.ones(16)})  # fmt: skip
    yield _lora("diffusers, an unconditional DoRA", lambda *m: as_peft(_attention(m[0]), {}) | {
        f"unet.{UNET_LAYERS[0]}.lora_magnitude_vector": torch.ones(16)})  # fmt: skip
    for words, extra in (("no patterns", {}), ("rs-LoRA and a pattern", {
        "use_rslora": True, "alpha_pattern": {UNET_LAYERS[0]: 1}, "rank_pattern": {}})):  # fmt: skip
        yield _lora(
            f"diffusers with metadata of {words}",
            lambda *m: as_peft(_attention(m[0]), {}),
            metadata={
                _METADATA: json.dumps(
                    _prefixed({"r": 4, "lora_alpha": 2, "target_modules": list(UNET_LAYERS), **extra})
                )
            },
        )
    yield _lora("diffusers of old, processors", lambda *m: _of_old(as_peft(_attention(m[0]), {})))
    yield _lora(
        "PEFT's own prefix", lambda *m: _named(as_peft(_attention(m[0]), {}), "unet.", "base_model.model.")
    )
    yield _lora(
        "PEFT's prefix below unet",
        lambda *m: _named(as_peft(_attention(m[0]), {}), "unet.", "unet.base_model.model."),
    )
    yield _lora(
        "ComfyUI's prefix", lambda *m: _named(as_peft(_attention(m[0]), {}), "unet.", "diffusion_model.")
    )
    yield _lora("OneTrainer's dots", lambda *m: {
        key.replace("lora_unet_", "unet."): one for key, one in as_kohya(_attention(m[0]), {}).items()})  # fmt: skip
    yield _lora(
        "keys of a second text encoder",
        lambda *m: _named(as_peft({}, _text(m[1])), "text_encoder.", "text_encoder_2."),
    )
    yield _lora("SDXL's base", lambda *m: as_kohya(lora_matrices(m[0], ("conv_in",)), {}), kind="sdxl")


def _inversions() -> Iterator[AlteredBase]:
    vectors = torch.randn(3, TEXT_WIDTH, generator=torch.Generator().manual_seed(2))
    yield _inversion("three vectors", {"<my-toy>": vectors})
    yield _inversion("AUTOMATIC1111", {"emb_params": vectors[:2]}, "<my-toy>")
    yield _inversion("SDXL's pair", {"clip_l": vectors[:1], "clip_g": torch.ones(1, 24)}, "<my-toy>")
    yield _inversion("clip_l alone", {"clip_l": vectors[:1]}, "<my-toy>")
    yield _inversion("another width", {"<my-toy>": torch.ones(1, 48)})
    yield _inversion("two tokens", {"<my-toy>": vectors[0], "<other>": vectors[1]})
    yield _inversion("three axes", {"<my-toy>": vectors[None]})
    yield _inversion("whole numbers", {"<my-toy>": torch.ones(1, TEXT_WIDTH, dtype=torch.int64)})
    yield _inversion("no vector", {"<my-toy>": vectors[:0]})
    yield _inversion("a token with a space", {"my toy": vectors[0]})
    yield _inversion("SDXL's base", {"<my-toy>": vectors[0]}, kind="sdxl")


def _lora(
    name: str, make: Callable[[Any, Any], Tensors], given: str | None = None, kind: Any = "sd",
    metadata: dict[str, str] | None = None,
) -> AlteredBase:  # fmt: skip
    def alter(folder: Path) -> None:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True)
        text = CLIPTextModel.from_pretrained(folder / "text_encoder")
        tensors = make(unet, text)
        save_file({key: value.contiguous() for key, value in tensors.items()}, joined_file(folder), metadata)

    return AlteredBase(f"a LoRA: {name}", alter, kind, "lora", name in _READ, given)


def _inversion(name: str, tensors: Tensors, given: str | None = None, kind: Any = "sd") -> AlteredBase:
    def alter(folder: Path) -> None:
        save_file({key: value.contiguous() for key, value in tensors.items()}, joined_file(folder))

    return AlteredBase(f"a textual inversion: {name}", alter, kind, "textual_inversion", name in _READ, given)


def _attention(unet: Any) -> Any:
    return lora_matrices(unet, UNET_LAYERS)


def _text(text: Any) -> Any:
    return lora_matrices(text, TEXT_LAYERS, 1)


def _uneven(model: Any, layers: tuple[str, ...]) -> Any:
    """One rank, an alpha for each layer."""
    found = lora_matrices(model, layers)
    return {name: (down, up, 1.0 + i) for i, (name, (down, up, _)) in enumerate(found.items())}


def _ranked(unet: Any, share: float) -> Any:
    """A rank for each layer, and alphas that are the same share of them."""
    found: Any = {}
    for i, name in enumerate(UNET_LAYERS):
        rank = 2 + i
        for key, (down, up, _) in lora_matrices(unet, (name,), i, rank=rank).items():
            found[key] = (down, up, share * rank)
    return found


def _without(tensors: Tensors, ending: str) -> Tensors:
    return {key: value for key, value in tensors.items() if not key.endswith(ending)}


def _as(tensors: Tensors, kind: torch.dtype) -> Tensors:
    return {key: value.to(kind) for key, value in tensors.items()}


def _named(tensors: Tensors, old: str, new: str) -> Tensors:
    return {key.replace(old, new): value for key, value in tensors.items()}


def _with_alphas(tensors: Tensors) -> Tensors:
    return tensors | {
        key.replace("lora_A.weight", "alpha"): torch.tensor(2.0) for key in tensors if "lora_A" in key
    }


def _prefixed(config: dict[str, Any]) -> dict[str, Any]:
    return {f"unet.{name}": value for name, value in config.items()}


def _of_old(tensors: Tensors) -> Tensors:
    """Of 2023: the attention's processors hold the matrices."""
    found: Tensors = {}
    for key, value in tensors.items():
        if ".attn" not in key:
            continue
        layer, _, end = key.partition(".lora_")
        start, _, name = layer.removesuffix(".0").rpartition(".")
        found[f"{start}.processor.{name}_lora.{'down' if end[0] == 'A' else 'up'}.weight"] = value
    return found
