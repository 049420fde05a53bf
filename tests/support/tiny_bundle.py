"""A hand-built bundle that honours the contract and runs in milliseconds: 16 px, two tapped sites.

Its graphs are a few operators each, with seeded random weights, so that every prediction depends on the
latent, the timestep, the text, the strength and every key and value. As a script: `tiny_bundle.py OUT`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tiny_unet
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tokenizers.pre_tokenizers import ByteLevel  # type: ignore[import-untyped]

from dreamcache.runtime.bundle.architecture import DeepSpec
from dreamcache.runtime.bundle.contract import (
    CONTRACT_NAME,
    Architecture,
    Contract,
    FileRecord,
    Fingerprints,
    Graphs,
    GraphSpec,
    GuidanceDefaults,
    ParityReport,
    SchedulerSpec,
    SegmenterSpec,
    SiteSpec,
    TensorSpec,
    TextSpec,
    VaeSpec,
    dump_contract,
    graph_fingerprint,
    needed_format,
)
from dreamcache.runtime.files import sha256_file

Weights = dict[str, NDArray[np.float32]]


_OTHER_WEIGHTS = {"embedding", "position", "encoder", "decoder"}
_WORDS = ["a", "robot", "on", "the", "beach", "toy", "снег"]


def architecture(batch: int = 1, shallow: bool = True, text_chunks: int = 1) -> Architecture:
    return Architecture(
        name="tiny",
        latent_channels=4,
        latent_height=4,
        latent_width=4,
        image_height=16,
        image_width=16,
        text_length=8,
        text_width=6,
        text_chunks=text_chunks,
        batch=batch,
        sites=(
            SiteSpec(name="mid_block.attentions.0", width=8, heads=2, token_height=2, token_width=2),
            SiteSpec(name="up_blocks.1.attentions.1", width=4, heads=1, token_height=4, token_width=4),
        ),
        deep=DeepSpec(channels=2, height=4, width=4, sites=("up_blocks.1.attentions.1",))
        if shallow
        else None,
    )


def build(
    folder: Path,
    batch: int = 1,
    seed: int = 0,
    shallow: bool = True,
    segmenter: bool = False,
    text_chunks: int = 1,
    **changes: Any,
) -> Path:
    """Write the whole bundle into a fresh folder.

    shallow: with the graphs of step caching and of the stock model. segmenter: with one that finds what is red.
    text_chunks: of a prompt, each of 8 tokens. changes: fields of the contract to set otherwise.
    """
    shape = architecture(batch, shallow, text_chunks)
    for part in ("unet", "text_encoder", "vae_encoder", "vae_decoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
    vocabulary = _write_tokenizer(folder / "tokenizer")
    weights = _weights(np.random.default_rng(seed), len(vocabulary), text_chunks)
    graphs = Graphs(
        **tiny_unet.write_unet(
            folder / "unet", shape, {n: weights[n] for n in weights if n not in _OTHER_WEIGHTS}
        ),
        text_encoder=_text_encoder(folder, weights),
        vae_encoder=_vae_encoder(folder, weights),
        vae_decoder=_vae_decoder(folder, weights),
        segmenter=_segmenter(folder) if segmenter else None,
    )
    files = _records(folder)
    fields: dict[str, Any] = {
        "format_version": needed_format(shape, graphs=graphs),
        "architecture": shape,
        "weights": "random",
        "precision": "fp32",
        "attention": "plain",
        "text": TextSpec(
            bos_id=vocabulary["<|startoftext|>"],
            eos_id=vocabulary["<|endoftext|>"],
            pad_id=vocabulary["<|endoftext|>"],
        ),
        "vae": VaeSpec(scaling_factor=0.5, shift_factor=0.1),
        "scheduler": SchedulerSpec(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction"
        ),
        "guidance": GuidanceDefaults(guidance_scale=3.0, steps=4),
        "graphs": graphs,
        "files": files,
        "fingerprints": Fingerprints(
            base=f"{seed:064x}", adapters="a" * 64, graph=graph_fingerprint(graphs, files)
        ),
        "parity": ParityReport(psnr_db={"denoiser": 120.0}),
        "versions": {"dreamcache": "0.1.0"},
    }
    contract = Contract(**{**fields, **changes})
    (folder / CONTRACT_NAME).write_text(dump_contract(contract), encoding="utf-8")
    return folder


def edit_contract(folder: Path, **changes: Any) -> None:
    """Overwrite top-level fields of the JSON, unchecked."""
    path = folder / CONTRACT_NAME
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**raw, **changes}), encoding="utf-8")


def seal(folder: Path) -> None:
    """Bring hashes, sizes and the graph fingerprint up to date after files were edited."""
    path = folder / CONTRACT_NAME
    raw = json.loads(path.read_text(encoding="utf-8"))
    files = _records(folder)
    fingerprint = graph_fingerprint(Graphs.model_validate(raw["graphs"]), files)
    edit_contract(
        folder,
        files={name: record.model_dump() for name, record in files.items()},
        fingerprints={**raw["fingerprints"], "graph": fingerprint},
    )


def _records(folder: Path) -> dict[str, FileRecord]:
    return {
        path.relative_to(folder).as_posix(): FileRecord(size=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CONTRACT_NAME
    }


def _weights(random: np.random.Generator, vocabulary: int, text_chunks: int) -> Weights:
    def normal(*shape: int, scale: float = 0.3) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    return {
        "shared": normal(64, 64, scale=0.05),
        "mid_block.attentions.0.to_k": normal(16, 8),
        "mid_block.attentions.0.to_v": normal(16, 8),
        "mid_block.attentions.0.to_out": normal(32, 64),
        "up_blocks.1.attentions.1.to_k": normal(4, 4),
        "up_blocks.1.attentions.1.to_v": normal(4, 4),
        "up_blocks.1.attentions.1.to_out": normal(64, 64),
        "text_to_out": normal(48 * text_chunks, 64, scale=0.1),
        "time_to_out": normal(1, 64, scale=0.001),
        "to_deep": normal(64, 32, scale=0.1),
        "from_deep": normal(32, 64, scale=0.1),
        "embedding": normal(vocabulary, 6, scale=1.0),
        "position": normal(1, 8, 6),
        "encoder": normal(8, 3, 4, 4, scale=0.1),
        "decoder": normal(4, 3, 4, 4, scale=0.5),
    }


def _text_encoder(folder: Path, weights: Weights) -> GraphSpec:
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["gathered"]),
        helper.make_node("Add", ["gathered", "position"], ["last_hidden_state"]),
    ]
    inputs = (TensorSpec(name="input_ids", shape=(1, 8), dtype="int64"),)
    outputs = (TensorSpec(name="last_hidden_state", shape=(1, 8, 6), dtype="float32"),)
    return _component(folder, "text_encoder", nodes, inputs, outputs, weights, ["embedding", "position"])


def _vae_encoder(folder: Path, weights: Weights) -> GraphSpec:
    nodes = [helper.make_node("Conv", ["sample", "encoder"], ["latent_parameters"], strides=[4, 4])]
    inputs = (TensorSpec(name="sample", shape=(1, 3, 16, 16), dtype="float32"),)
    outputs = (TensorSpec(name="latent_parameters", shape=(1, 8, 4, 4), dtype="float32"),)
    return _component(folder, "vae_encoder", nodes, inputs, outputs, weights, ["encoder"])


def _vae_decoder(folder: Path, weights: Weights) -> GraphSpec:
    nodes = [
        helper.make_node("ConvTranspose", ["latent_sample", "decoder"], ["wide"], strides=[4, 4]),
        helper.make_node("Tanh", ["wide"], ["sample"]),
    ]
    inputs = (TensorSpec(name="latent_sample", shape=(1, 4, 4, 4), dtype="float32"),)
    outputs = (TensorSpec(name="sample", shape=(1, 3, 16, 16), dtype="float32"),)
    return _component(folder, "vae_decoder", nodes, inputs, outputs, weights, ["decoder"])


def _segmenter(folder: Path) -> SegmenterSpec:
    """Sigmoid of red minus green minus blue of colours from −1 to 1."""
    (folder / "segmenter").mkdir()
    nodes = [
        helper.make_node("Conv", ["picture", "red"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["mask"]),
    ]
    inputs = (TensorSpec(name="picture", shape=(1, 3, 32, 32), dtype="float32"),)
    outputs = (TensorSpec(name="mask", shape=(1, 1, 32, 32), dtype="float32"),)
    red = {"red": np.asarray([9, -9, -9], np.float32).reshape(1, 3, 1, 1)}
    spec = _component(folder, "segmenter", nodes, inputs, outputs, red, ["red"])
    return SegmenterSpec(**spec.model_dump(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _component(
    folder: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    weights: Weights,
    used: list[str],
) -> GraphSpec:
    stored = [numpy_helper.from_array(weights[key], key) for key in used]
    tiny_unet.save(folder / name / "model.onnx", tiny_unet.graph(name, nodes, inputs, outputs, stored))
    return GraphSpec(file=f"{name}/model.onnx", inputs=inputs, outputs=outputs)


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """CLIP's files: every byte, every byte that ends a word, and a few whole words built by merges."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = alphabet + [sign + "</w>" for sign in alphabet]
    merges: list[str] = []
    for word in _WORDS:
        signs = list(ByteLevel(add_prefix_space=False).pre_tokenize_str(word)[0][0])
        signs[-1] += "</w>"
        joined = signs[0]
        for sign in signs[1:]:
            if (pair := f"{joined} {sign}") not in merges:
                merges.append(pair)
            joined += sign
            if joined not in tokens:
                tokens.append(joined)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return vocabulary


if __name__ == "__main__":
    build(Path(sys.argv[1]))
