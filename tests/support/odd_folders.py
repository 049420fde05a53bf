"""Further altered bases: files that people leave out, damage or write by hand, and what diffusers cannot load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from altered_bases import AlteredBase, entry, weight
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, CLIPTokenizerFast

SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
INDEX = "model_index.json"
FULL = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def odd_folders() -> Iterator[AlteredBase]:
    """All of them."""
    yield from _indexes()
    yield from _tokenizers()
    yield from _files()


def _indexes() -> Iterator[AlteredBase]:
    yield AlteredBase("no model_index.json", lambda folder: (folder / INDEX).unlink())
    for part in FULL:
        yield AlteredBase(f"no {part}", lambda folder, part=part: shutil.rmtree(folder / part))
        yield entry(INDEX, **{part: [None, None]})
        yield _index(f"model_index.json without {part}", lambda index, part=part: index.pop(part))
    for changes in (
        {"_class_name": "StableDiffusionImg2ImgPipeline"},
        {"_class_name": "StableDiffusionInpaintPipeline"},
        {"_class_name": "StableDiffusionControlNetPipeline"},
        {"_class_name": "AltDiffusionPipeline"},
        {"_class_name": "KandinskyPipeline"},
        {"_class_name": "FluxPipeline"},
        {"_class_name": "MyPipeline"},
        {"_class_name": None},
        {"unet": ["my_unet", "UNet2DConditionModel"]},
        {"unet": ["diffusers", "UNetMotionModel"]},
        {"unet": ["diffusers", "FlaxUNet2DConditionModel"]},
        {"vae": ["diffusers", "AutoencoderTiny"]},
        {"vae": ["diffusers", "VQModel"]},
        {"vae": ["diffusers", "AutoencoderDC"]},
        {"text_encoder": ["transformers", "CLIPModel"]},
        {"text_encoder": ["transformers", "T5EncoderModel"]},
        {"tokenizer": ["transformers", "CLIPTokenizerFast"]},
        {"tokenizer": ["transformers", "T5TokenizerFast"]},
        {"tokenizer": ["transformers", "AutoTokenizer"]},
        {"scheduler": ["diffusers", "MyScheduler"]},
        {"scheduler": None},
        {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]},
        {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]},
        {"feature_extractor": ["transformers", "CLIPImageProcessor"]},
        {"spare": 3},
        {"spare": ["diffusers", "UNet2DConditionModel"]},
        {"controlnet": ["diffusers", "ControlNetModel"]},
    ):
        yield entry(INDEX, **changes)
    yield AlteredBase("model_index.json is no JSON", lambda folder: (folder / INDEX).write_text("{,"))
    yield AlteredBase("model_index.json is a list", lambda folder: (folder / INDEX).write_text("[]"))
    yield AlteredBase("model_index.json is empty", lambda folder: (folder / INDEX).write_text(""))
    yield AlteredBase(
        "model_index.json begins with a byte order mark",
        lambda folder: (folder / INDEX).write_bytes(b"\xef\xbb\xbf" + (folder / INDEX).read_bytes()),
    )


def _tokenizers() -> Iterator[AlteredBase]:
    config = "tokenizer/tokenizer_config.json"
    for changes in (
        {"model_max_length": 10**30},
        {"model_max_length": None},
        {"model_max_length": 20},
        {"padding_side": "left"},
        {"truncation_side": "left"},
        {"do_lower_case": False},
        {"add_prefix_space": True},
        {"tokenizer_class": "CLIPTokenizerFast"},
        {"tokenizer_class": None},
        {"tokenizer_class": "GPT2Tokenizer"},
        {"pad_token": "!"},
        {"bos_token": "a"},
        {"eos_token": None},
        {"unk_token": "!"},
        {"clean_up_tokenization_spaces": True},
        {"errors": "ignore"},
    ):
        yield entry(config, **changes)
    yield AlteredBase('a tokenizer that pads with "!"', lambda folder: _padded(folder / "tokenizer"))
    yield AlteredBase(
        "tokenizer_config.json without model_max_length",
        lambda folder: _rewritten(folder / config, lambda record: record.pop("model_max_length")),
    )
    yield AlteredBase("no tokenizer_config.json", lambda folder: (folder / config).unlink())
    yield AlteredBase(
        "no special_tokens_map.json", lambda folder: (folder / "tokenizer/special_tokens_map.json").unlink()
    )
    yield AlteredBase("no vocab.json", lambda folder: (folder / "tokenizer/vocab.json").unlink())
    yield AlteredBase("both forms of the tokenizer", lambda folder: _both(folder / "tokenizer"))
    yield AlteredBase(
        "merges.txt without its first line", lambda folder: _headless(folder / "tokenizer/merges.txt")
    )
    yield AlteredBase(
        "merges.txt with Windows' line ends", lambda folder: _windows(folder / "tokenizer/merges.txt")
    )
    yield AlteredBase(
        "vocab.json with an id twice",
        lambda folder: _rewritten(folder / "tokenizer/vocab.json", lambda record: record.update({"ro": 0})),
    )
    yield AlteredBase(
        "vocab.json without a byte",
        lambda folder: _rewritten(folder / "tokenizer/vocab.json", lambda record: record.pop("z")),
    )
    yield AlteredBase(
        "vocab.json without the end",
        lambda folder: _rewritten(
            folder / "tokenizer/vocab.json", lambda record: record.pop("<|endoftext|>")
        ),
    )
    yield AlteredBase(
        "added_tokens.json with the next id",
        lambda folder: (folder / "tokenizer/added_tokens.json").write_text(json.dumps({"<toy>": 516})),
    )


def _files() -> Iterator[AlteredBase]:
    for file in ("unet/config.json", "vae/config.json", "text_encoder/config.json", SCHEDULER):
        yield AlteredBase(f"no {file}", lambda folder, file=file: (folder / file).unlink())
        yield AlteredBase(f"{file} is empty", lambda folder, file=file: (folder / file).write_text(""))
        yield AlteredBase(f"{file} is null", lambda folder, file=file: (folder / file).write_text("null"))
        yield AlteredBase(f"{file} is {{}}", lambda folder, file=file: (folder / file).write_text("{}"))
        yield AlteredBase(f"{file} is a folder", lambda folder, file=file: _as_folder(folder / file))
    for file in (UNET, VAE, TEXT):
        yield AlteredBase(f"no {file}", lambda folder, file=file: (folder / file).unlink())
        yield AlteredBase(f"{file} is empty", lambda folder, file=file: (folder / file).write_bytes(b""))
        yield AlteredBase(f"{file} is a folder", lambda folder, file=file: _as_folder(folder / file))
        yield AlteredBase(f"{file} as a pickle", lambda folder, file=file: _pickled(folder / file))
        yield AlteredBase(
            f"{file} beside a pickle",
            lambda folder, file=file: torch.save({}, (folder / file).with_suffix(".bin")),
        )
        yield AlteredBase(
            f"{file} of no tensors", lambda folder, file=file: save_file({}, folder / file, {"format": "pt"})
        )
        yield AlteredBase(
            f"{file} without metadata",
            lambda folder, file=file: save_file(load_file(folder / file), folder / file),
        )
        yield AlteredBase(
            f"{file} that says it is TensorFlow's",
            lambda folder, file=file: save_file(load_file(folder / file), folder / file, {"format": "tf"}),
        )
    for file, kind in ((UNET, torch.bfloat16), (VAE, torch.float8_e4m3fn), (TEXT, torch.float64)):
        yield AlteredBase(
            f"{file} in {kind}",
            lambda folder, file=file, kind=kind: _stored_as(folder / file, kind),
            own_graphs=True,
        )
    yield AlteredBase("vae is a file", lambda folder: _as_file(folder / "vae"))
    yield AlteredBase(
        "three parts as fp16 variants alone",
        lambda folder: [_variant(folder / file, "fp16", torch.float16) for file in (UNET, VAE, TEXT)],
        own_graphs=True,
    )
    yield AlteredBase("an empty unet", lambda folder: _emptied(folder / "unet"))
    yield weight(
        UNET, "UNet with a tensor of another shape", lambda t: t.update({"conv_in.bias": torch.zeros(3)})
    )
    yield weight(TEXT, "text encoder with a prefix more", lambda t: _put(t, "text_encoder."))
    yield weight(UNET, "UNet with an infinite weight", lambda t: t["conv_out.weight"][0].fill_(float("inf")))
    yield weight(
        UNET, "UNet with averaged weights beside", lambda t: t.update({"model_ema.decay": torch.zeros(())})
    )


def _index(name: str, change: Callable[[dict[str, Any]], object]) -> AlteredBase:
    return AlteredBase(name, lambda folder: _rewritten(folder / INDEX, change))


def _rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def _padded(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(folder)


def _both(folder: Path) -> None:
    CLIPTokenizerFast.from_pretrained(folder).save_pretrained(folder)


def _headless(path: Path) -> None:
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")


def _windows(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def _emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _pickled(path: Path) -> None:
    torch.save(load_file(path), path.with_name(f"{path.stem.replace('model', 'pytorch_model')}.bin")
               if path.parent.name == "text_encoder" else path.with_suffix(".bin"))  # fmt: skip
    path.unlink()


def _variant(path: Path, name: str, kind: torch.dtype) -> None:
    _stored_as(path, kind)
    path.rename(path.with_name(f"{path.stem}.{name}.safetensors"))


def _stored_as(path: Path, kind: torch.dtype) -> None:
    tensors = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, {"format": "pt"})


def _put(tensors: dict[str, torch.Tensor], start: str) -> None:
    for name in list(tensors):
        tensors[start + name] = tensors.pop(name)
