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
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers.pre_tokenizers import ByteLevel  # type: ignore[import-untyped]

from dreamcache.runtime.contract import (
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
    SiteSpec,
    TensorSpec,
    TextSpec,
    VaeSpec,
    cache_tensors,
    caching_graph_inputs,
    caching_graph_outputs,
    denoiser_inputs,
    denoiser_outputs,
    dump_contract,
    graph_fingerprint,
)
from dreamcache.runtime.files import sha256_file

Weights = dict[str, NDArray[np.float32]]

_ELEMENT = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_WORDS = ["a", "robot", "on", "the", "beach", "toy", "снег"]


def architecture(batch: int = 1) -> Architecture:
    return Architecture(
        name="tiny",
        latent_channels=4,
        latent_height=4,
        latent_width=4,
        image_height=16,
        image_width=16,
        text_length=8,
        text_width=6,
        batch=batch,
        sites=(
            SiteSpec(name="mid_block.attentions.0", width=8, heads=2, token_height=2, token_width=2),
            SiteSpec(name="up_blocks.1.attentions.1", width=4, heads=1, token_height=4, token_width=4),
        ),
    )


def build(folder: Path, batch: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write the whole bundle into a fresh folder. changes: fields of the contract to set otherwise."""
    shape = architecture(batch)
    for part in ("unet", "text_encoder", "vae_encoder", "vae_decoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
    vocabulary = _write_tokenizer(folder / "tokenizer")
    weights = _weights(np.random.default_rng(seed), len(vocabulary))
    _write_unet(folder / "unet", shape, weights)
    others = {
        "text_encoder": _text_encoder(folder, weights),
        "vae_encoder": _vae_encoder(folder, weights),
        "vae_decoder": _vae_decoder(folder, weights),
    }
    shared = ("unet/weights.data",)
    graphs = Graphs(
        cache=GraphSpec(
            file="unet/cache.onnx",
            weights=shared,
            inputs=caching_graph_inputs(shape),
            outputs=caching_graph_outputs(shape),
        ),
        denoiser=GraphSpec(
            file="unet/model.onnx",
            weights=shared,
            inputs=denoiser_inputs(shape),
            outputs=denoiser_outputs(shape),
        ),
        **others,
    )
    files = _records(folder)
    fields: dict[str, Any] = {
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


def _weights(random: np.random.Generator, vocabulary: int) -> Weights:
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
        "text_to_out": normal(48, 64, scale=0.1),
        "time_to_out": normal(1, 64, scale=0.001),
        "embedding": normal(vocabulary, 6, scale=1.0),
        "position": normal(1, 8, 6),
        "encoder": normal(8, 3, 4, 4, scale=0.1),
        "decoder": normal(4, 3, 4, 4, scale=0.5),
    }


def _write_unet(folder: Path, shape: Architecture, weights: Weights) -> None:
    """Both graphs, with one copy of every tensor in `weights.data`."""
    unet = {name: array for name, array in weights.items() if name not in _OTHER_WEIGHTS}
    stored: dict[str, TensorProto] = {}
    with (folder / "weights.data").open("wb") as data:
        for name, array in unet.items():
            stored[name] = _external(name, array, data.tell())
            data.write(array.tobytes())
    _save(folder / "cache.onnx", _caching_graph(shape, stored))
    _save(folder / "model.onnx", _denoiser(shape, stored))


_OTHER_WEIGHTS = {"embedding", "position", "encoder", "decoder"}


def _external(name: str, array: NDArray[np.float32], offset: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.data"), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _caching_graph(shape: Architecture, stored: dict[str, TensorProto]) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Reshape", ["latent", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "shared"], ["mixed"]),
    ]
    constants = {"flat_shape": [1, 64]}
    names = ["shared"]
    for site in shape.sites:
        constants[f"{site.name}.shape"] = [1, site.tokens, 64 // site.tokens]
        nodes.append(helper.make_node("Reshape", ["mixed", f"{site.name}.shape"], [f"{site.name}.tokens"]))
        for kind, output in (("to_k", site.key_name), ("to_v", site.value_name)):
            nodes.append(helper.make_node("MatMul", [f"{site.name}.tokens", f"{site.name}.{kind}"], [output]))
            names.append(f"{site.name}.{kind}")
    initializers = [stored[name] for name in names] + _shapes(constants)
    return _graph("cache", nodes, caching_graph_inputs(shape), caching_graph_outputs(shape), initializers)


def _denoiser(shape: Architecture, stored: dict[str, TensorProto]) -> onnx.GraphProto:
    """tanh(latent·W + text·Wt + t·w) + s·Σ_site (keys · values)·Wo, as [b, 4, 4, 4]."""
    b = shape.batch
    constants = {
        "flat_shape": [b, 64],
        "text_shape": [b, 48],
        "column": [b, 1],
        "latent_shape": [b, 4, 4, 4],
    }
    nodes = [
        helper.make_node("Reshape", ["latent", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "shared"], ["from_latent"]),
        helper.make_node("Reshape", ["text", "text_shape"], ["flat_text"]),
        helper.make_node("MatMul", ["flat_text", "text_to_out"], ["from_text"]),
        helper.make_node("Reshape", ["timestep", "column"], ["time"]),
        helper.make_node("MatMul", ["time", "time_to_out"], ["from_time"]),
        helper.make_node("Sum", ["from_latent", "from_text", "from_time"], ["summed"]),
        helper.make_node("Tanh", ["summed"], ["stock"]),
    ]
    deltas = []
    for site in shape.sites:
        name = site.name
        constants[f"{name}.shape"] = [1, site.tokens * site.width]
        nodes += [
            helper.make_node("Mul", [site.key_name, site.value_name], [f"{name}.product"]),
            helper.make_node("Reshape", [f"{name}.product", f"{name}.shape"], [f"{name}.flat"]),
            helper.make_node("MatMul", [f"{name}.flat", f"{name}.to_out"], [f"{name}.delta"]),
        ]
        deltas.append(f"{name}.delta")
    nodes += [
        helper.make_node("Sum", deltas, ["delta"]),
        helper.make_node("Reshape", ["reference_strength", "column"], ["strength"]),
        helper.make_node("Mul", ["strength", "delta"], ["conditioned"]),
        helper.make_node("Add", ["stock", "conditioned"], ["both"]),
        helper.make_node("Reshape", ["both", "latent_shape"], ["prediction"]),
    ]
    names = ["shared", "text_to_out", "time_to_out", *(f"{site.name}.to_out" for site in shape.sites)]
    initializers = [stored[name] for name in names] + _shapes(constants)
    assert len(cache_tensors(shape)) == 2 * len(shape.sites)
    return _graph("denoiser", nodes, denoiser_inputs(shape), denoiser_outputs(shape), initializers)


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
    _save(folder / name / "model.onnx", _graph(name, nodes, inputs, outputs, stored))
    return GraphSpec(file=f"{name}/model.onnx", inputs=inputs, outputs=outputs)


def _graph(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    initializers: list[TensorProto],
) -> onnx.GraphProto:
    def infos(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(s.name, _ELEMENT[s.dtype], list(s.shape)) for s in specs]

    return helper.make_graph(nodes, name, infos(inputs), infos(outputs), initializers)


def _shapes(constants: dict[str, list[int]]) -> list[TensorProto]:
    return [numpy_helper.from_array(np.array(value, np.int64), key) for key, value in constants.items()]


def _save(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


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
