"""Tiny models of synthetic data in the true formats: a Llama that learned a few captions, pipelines with a safety
checker, Grounding DINO and SAM with random weights, and a salient-object ONNX model that really finds things.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
    SwinConfig,
)

SUBJECTS = ("robot", "teddy bear", "duck")
PLACES = ("on a beach", "in the snow")
LOOKS = ("red", "small", "old", "shiny", "striped", "happy", "wooden", "blue")
TEMPLATE = "caption {subject} {place}"
LLAMA_SECONDS_STEPS = 120


def captions_of(subject: str, place: str) -> list[str]:
    """What the tiny Llama learned to answer."""
    return [f"a {one} {two} {subject} {place}" for one, two in product(LOOKS, LOOKS) if one != two]


def write_tiny_llama(folder: Path, steps: int = LLAMA_SECONDS_STEPS) -> Path:
    """A LlamaForCausalLM with tokenizer and chat template, trained for a second or two to caption by name."""
    words = " ".join(text for s in SUBJECTS for p in PLACES for text in (*captions_of(s, p), "caption"))
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<answer>", *dict.fromkeys(words.split())]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = (
        "<s> {% for m in messages %}<user> {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}<answer>{% endif %}"
    )
    pairs = [(TEMPLATE.format(subject=s, place=p), s, p) for s in SUBJECTS for p in PLACES]
    rows = [
        fast.encode(f"<s> <user> {prompt} <answer> {text} </s>", add_special_tokens=False)
        for prompt, subject, place in pairs
        for text in captions_of(subject, place)
    ]
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=64,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(steps):
            batch = tokens[torch.randint(len(tokens), (32,))]
            labels = batch.masked_fill(batch == 0, -100)
            loss = model(input_ids=batch, attention_mask=batch != 0, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.save_pretrained(folder, safe_serialization=True)
    fast.save_pretrained(folder)
    return folder


def add_safety_checker(pipeline: Path, *, flags: bool) -> Path:
    """Give a Stable Diffusion folder a tiny safety checker that flags every picture, or none."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    config = CLIPConfig(
        projection_dim=8,
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
    )
    checker = StableDiffusionSafetyChecker(config)
    # A concept is seen when its cosine similarity exceeds its threshold.
    checker.concept_embeds_weights.data.fill_(-2.0 if flags else 2.0)
    checker.special_care_embeds_weights.data.fill_(2.0)
    checker.save_pretrained(pipeline / "safety_checker", safe_serialization=True)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        pipeline / "feature_extractor"
    )
    place = pipeline / "model_index.json"
    index = json.loads(place.read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["requires_safety_checker"] = True
    place.write_text(json.dumps(index))
    return pipeline


def write_tiny_detector(folder: Path, seed: int = 0) -> Path:
    """A Grounding DINO with random weights: Swin, BERT, deformable attention, all in small."""
    letters = "abcdefghijklmnopqrstuvwxyz."
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            window_size=2, image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
            out_indices=[2, 3, 4],
        ),
        text_config={
            "model_type": "bert", "vocab_size": len(pieces), "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
        },
        num_queries=6,
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=1,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        max_text_len=32,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        GroundingDinoForObjectDetection(config).save_pretrained(folder, safe_serialization=True)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 128})
    words = BertTokenizerFast(tokenizer_object=tokenizer)
    GroundingDinoProcessor(images, words).save_pretrained(folder)
    return folder


def write_tiny_sam(folder: Path, seed: int = 0) -> Path:
    """A SAM with random weights, 64 px."""
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [0], "num_pos_feats": 8,
            "mlp_dim": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        SamModel(config).save_pretrained(folder, safe_serialization=True)
    SamProcessor(
        SamImageProcessor(
            size={"longest_edge": 64},
            pad_size={"height": 64, "width": 64},
            mask_size={"longest_edge": 16},
            mask_pad_size={"height": 16, "width": 16},
        )
    ).save_pretrained(folder)
    return folder


def write_tiny_salient(path: Path, threshold: float = 0.8, side: int = 64) -> Path:
    """Saliency as the distance of a colour from the mean of the picture's edge, blurred: [1, 3, h, w] → [1, 1, h, w].

    `threshold`: squared distance, in ImageNet-normalised colours, that counts as half salient.
    """
    edge = np.zeros((1, 1, side, side), np.float32)
    edge[..., :2, :] = edge[..., -2:, :] = edge[..., :2] = edge[..., -2:] = 1
    constants = {
        "edge": edge / edge.sum(),
        "scale": np.asarray(6 / threshold, np.float32),
        "threshold": np.asarray(threshold, np.float32),
        "places": np.asarray([2, 3], np.int64),
        "channel": np.asarray([1], np.int64),
    }
    nodes = [
        helper.make_node("Mul", ["picture", "edge"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "places"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["picture", "mean"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("ReduceSum", ["squared", "channel"], ["distance"], keepdims=1),
        helper.make_node("AveragePool", ["distance"], ["blurred"], kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
        helper.make_node("Sub", ["blurred", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "scale"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["saliency"]),
    ]
    graph = helper.make_graph(
        nodes,
        "salient",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("saliency", TensorProto.FLOAT, [1, 1, side, side])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
