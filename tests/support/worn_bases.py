"""Further altered bases: what other tools, older versions and broken downloads leave behind in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from altered_bases import AlteredBase, entry, weight
from safetensors.torch import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


def worn_bases() -> Iterator[AlteredBase]:
    """All of them."""
    yield from _configs()
    yield from _tokenizers()
    yield from _weights()


def _configs() -> Iterator[AlteredBase]:
    changes: dict[str, Any]
    for changes in (
        {"timestep_spacing": "karras"},
        {"spare_entry": 1},
        {"steps_offset": None},
        {"rescale_betas_zero_snr": True},
        {"beta_start": None},
        {"num_train_timesteps": None},
        {"num_train_timesteps": "1000"},
        {"clip_sample": "false"},
        {"rescale_betas_zero_snr": "false"},
        {"steps_offset": 1.0},
        {"_class_name": None},
    ):
        yield entry(SCHEDULER, **changes)
    yield entry("model_index.json", _class_name="LatentConsistencyModelPipeline")
    for part, changes in (
        ("unet", {"spare_entry": None}),
        ("unet", {"down_block_types": ["FooBlock2D", "CrossAttnDownBlock2D"]}),
        ("unet", {"in_channels": None}),
        ("unet", {"only_cross_attention": True}),
        ("unet", {"dual_cross_attention": True}),
        ("unet", {"time_cond_proj_dim": 16}),
        ("vae", {"scaling_factor": None}),
        ("vae", {"use_quant_conv": False}),
        ("vae", {"latents_mean": [0.0]}),
        ("text_encoder", {"architectures": None}),
        ("text_encoder", {"num_hidden_layers": 1}),
        ("text_encoder", {"intermediate_size": 40}),
        ("text_encoder", {"eos_token_id": None}),
        ("text_encoder", {"eos_token_id": [515]}),
        ("text_encoder", {"layer_norm_eps": "1e-5"}),
        ("unet", {"_class_name": ["UNet2DConditionModel"]}),
        # The state of averaged weights, which diffusers' trainers leave there.
        ("unet", {"decay": 0.9999, "optimization_step": 9, "power": 0.6667}),
    ):
        yield entry(f"{part}/config.json", **changes)
    yield AlteredBase(
        "unet/config.json with a key twice", lambda folder: _doubled(folder / "unet/config.json")
    )


def _tokenizers() -> Iterator[AlteredBase]:
    yield entry("tokenizer/tokenizer_config.json", tokenizer_class="T5Tokenizer")
    yield entry("tokenizer/tokenizer_config.json", model_max_length=16.0)
    yield entry("tokenizer/tokenizer_config.json", model_max_length="16")
    yield AlteredBase(
        "tokenizer without merges.txt", lambda folder: (folder / "tokenizer/merges.txt").unlink()
    )
    yield AlteredBase(
        "special_tokens_map.json of another form",
        lambda folder: _write(folder / "tokenizer/special_tokens_map.json", {"bos_token": 3}),
    )
    yield AlteredBase(
        "added_tokens.json with a gap",
        lambda folder: _write(folder / "tokenizer/added_tokens.json", {"<toy>": 600}),
    )


def _weights() -> Iterator[AlteredBase]:
    for file, part in ((VAE, "VAE"), (TEXT, "text encoder")):
        yield weight(file, f"{part} with a weight more", lambda tensors: tensors.update(spare=torch.zeros(1)))
    # A buffer that transformers once saved, and what a whole CLIP has besides.
    yield weight(TEXT, "text encoder with idle weights", _idle)
    yield weight(VAE, "VAE with the names of diffusers 0.2", _renamed_attention)
    yield weight(UNET, "UNet as torch.compile names it", _prefixed)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for file, text in ((UNET, pointer), (VAE, "<!DOCTYPE html>")):
        yield AlteredBase(
            f"{file} is {text[:23]!r} …",
            lambda folder, file=file, text=text: (folder / file).write_text(text),
        )
    yield weight(UNET, "UNet half in fp16 and half in bf16", _mixed)
    for kind in (torch.int8, torch.bool):
        yield weight(UNET, f"UNet with a bias in {kind}", lambda tensors, kind=kind: _as(tensors, kind))
    yield AlteredBase("UNet in two shards", lambda folder: _sharded(folder / UNET))
    yield AlteredBase("UNet in two shards, one absent", lambda folder: _sharded(folder / UNET)[1].unlink())
    yield AlteredBase("UNet in two shards, one outside its folder", lambda folder: _outside(folder / UNET))
    yield AlteredBase(
        "UNet in two shards without their index", lambda folder: _sharded(folder / UNET)[2].unlink()
    )
    yield AlteredBase(
        "an index without a map of weights", lambda folder: _write(folder / f"{UNET}.index.json", {})
    )
    yield AlteredBase(
        "weights in a variant alone",
        lambda folder: (folder / UNET).rename(folder / UNET.replace(".safetensors", ".fp16.safetensors")),
    )
    yield AlteredBase(
        "UNet cut off in the middle",
        lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes()[:9000]),
    )


def _write(path: Path, record: object) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")


def _doubled(path: Path) -> None:
    text = path.read_text(encoding="utf-8").rstrip()
    path.write_text(text.removesuffix("}") + ', "cross_attention_dim": 64}', encoding="utf-8")


def _idle(tensors: dict[str, torch.Tensor]) -> None:
    tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    tensors |= {"text_projection.weight": torch.eye(32), "logit_scale": torch.ones(())}


def _mixed(tensors: dict[str, torch.Tensor]) -> None:
    kinds = (torch.float16, torch.bfloat16)
    tensors.update({name: tensors[name].to(kinds[i % 2]) for i, name in enumerate(sorted(tensors))})


def _as(tensors: dict[str, torch.Tensor], kind: torch.dtype) -> None:
    tensors["conv_in.bias"] = tensors["conv_in.bias"].to(kind)


def _renamed_attention(tensors: dict[str, torch.Tensor]) -> None:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        for name in [name for name in tensors if f".attentions.0.{new}." in name]:
            tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)


def _prefixed(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"_orig_mod.{name}"] = tensors.pop(name)


def _sharded(path: Path) -> list[Path]:
    """The weights in two files, as diffusers names them, and their index."""
    tensors = load_file(path)
    path.unlink()
    shards = [path.with_name(f"{path.stem}-0000{i}-of-00002.safetensors") for i in (1, 2)]
    halves = [{name: tensors[name] for name in sorted(tensors)[i::2]} for i in (0, 1)]
    for shard, half in zip(shards, halves, strict=True):
        save_file(half, shard, metadata={"format": "pt"})
    places = {name: shard.name for shard, half in zip(shards, halves, strict=True) for name in half}
    index = path.with_name(f"{path.name}.index.json")
    _write(index, {"metadata": {"total_size": 1}, "weight_map": places})
    return [*shards, index]


def _outside(path: Path) -> None:
    """The second shard lies beside the base's parts, and the index says so."""
    _, shard, index = _sharded(path)
    shard.rename(path.parents[1] / shard.name)
    index.write_text(
        index.read_text(encoding="utf-8").replace(shard.name, f"../{shard.name}"), encoding="utf-8"
    )
