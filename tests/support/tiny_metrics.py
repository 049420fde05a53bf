"""Tiny DINO and CLIP models with random weights in the true formats, and a tiny benchmark of real photographs.

The photographs are scikit-image's: a cat, a cup of coffee, an astronaut; each subject has three crops of one.
"""

from __future__ import annotations

from pathlib import Path

import skimage.data
import torch
from PIL import Image
from tiny_models import TEXT_LENGTH, tiny_tokenizer
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    ViTConfig,
    ViTModel,
)

SIDE, PATCH, WIDTH, PROJECTION = 32, 8, 32, 16
# Wider than the usual 0.02, so that what a random model says depends on the picture.
_SPREAD = 0.2

SUBJECTS = {"tabby": "cat", "coffee": "cup", "astronaut": "toy"}
_PHOTOGRAPHS = {"tabby": "chelsea", "coffee": "coffee", "astronaut": "astronaut"}
OBJECT_PROMPTS = ("a {0} {1} in the jungle", "a {0} {1} floating on top of water", "a red {0} {1}")
LIVE_PROMPTS = ("a {0} {1} in the jungle", "a {0} {1} wearing a red hat", "a red {0} {1}")


def write_tiny_dino(folder: Path, seed: int = 0) -> Path:
    """A ViT folder: config.json and model.safetensors."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ViTModel(
            ViTConfig(
                hidden_size=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=2 * WIDTH,
                image_size=SIDE,
                patch_size=PATCH,
                initializer_range=_SPREAD,
            ),
            add_pooling_layer=False,
        )
    model.save_pretrained(folder)
    return folder


def write_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP folder: both towers, the image processor, the tokenizer."""
    tokenizer = tiny_tokenizer(folder)
    common = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 4, "projection_dim": PROJECTION}
    text = CLIPTextConfig(
        **common,
        vocab_size=len(tokenizer),
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_factor=5.0,
    )
    vision = CLIPVisionConfig(**common, image_size=SIDE, patch_size=PATCH, initializer_factor=5.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(
            CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION)
        )
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    return folder


def prompts_file(subjects: dict[str, str] = SUBJECTS) -> str:
    """The text of prompts_and_classes.txt in the layout of google/dreambooth."""

    def templates(prompts: tuple[str, ...]) -> str:
        lines = ",\n".join(f"'{prompt}'.format(unique_token, class_token)" for prompt in prompts)
        return f"prompt_list = [\n{lines}\n]\n"

    table = "\n".join(f"{name},{kind}" for name, kind in subjects.items())
    return (
        f"Classes\n\nsubject_name,class\n{table}\n\nPrompts\n\nObject Prompts\n\n{templates(OBJECT_PROMPTS)}\n"
        f"Live Subject Prompts\n\n{templates(LIVE_PROMPTS)}"
    )


def photographs(subject: str) -> list[Image.Image]:
    """Three overlapping crops of one photograph, 96 px high."""
    whole = Image.fromarray(getattr(skimage.data, _PHOTOGRAPHS[subject])()).convert("RGB")
    width, height = whole.size
    boxes = [(0, 0, 0.9, 0.9), (0.1, 0, 1, 0.9), (0.05, 0.1, 0.95, 1)]
    crops = [
        whole.crop((round(a * width), round(b * height), round(c * width), round(d * height)))
        for a, b, c, d in boxes
    ]
    return [crop.resize((96 * crop.width // crop.height, 96), Image.Resampling.BICUBIC) for crop in crops]


def write_tiny_benchmark(folder: Path) -> Path:
    """The data set's folder: three subjects, three photographs each, three prompts of either kind."""
    for name in SUBJECTS:
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(photographs(name)):
            picture.save(folder / name / f"{number:02d}.jpg", quality=95)
    (folder / "prompts_and_classes.txt").write_text(prompts_file(), encoding="utf-8")
    return folder
