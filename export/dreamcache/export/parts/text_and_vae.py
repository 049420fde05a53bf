"""Text encoder and VAE encoder, through optimum's ONNX exporter, with static shapes.

TAESD's encoder, which optimum does not know, is traced as the denoiser is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from optimum.exporters.onnx import export as optimum_export
from optimum.exporters.onnx.model_configs import (
    CLIPTextOnnxConfig,
    VaeEncoderOnnxConfig,
)
from torch import nn

from dreamcache.export.declare.components import GraphTensors, declare_text_encoders, declare_vae_encoder
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.portable import load_simplified, without_idle_nodes
from dreamcache.export.graphs.shared_weights import rewrite_shared, write_shared
from dreamcache.export.graphs.trace import export_graph, quiet_exporters
from dreamcache.export.modules.text_encoder import sdxl_text_encoders
from dreamcache.export.modules.vae_encoder import VaeMean
from dreamcache.models.bases.base import Base
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import Graphs, GraphSpec
from dreamcache.runtime.bundle.tensors import TensorSpec
from dreamcache.runtime.errors import first_line

TEXT_ENCODER = "text_encoder/model.onnx"
TEXT_ENCODER_2 = "text_encoder_2/model.onnx"
VAE_ENCODER = "vae_encoder/model.onnx"
WEIGHTS_NAME = "weights.data"


def export_components(base: Base, folder: Path, architecture: Architecture) -> dict[str, GraphSpec]:
    """Write text encoders and VAE encoder below `folder`.

    Returns:
        ``text_encoder``, ``vae_encoder`` and, of SDXL, ``text_encoder_2`` as the contract declares them.

    Raises:
        ExportError: a component cannot be exported, or not with static shapes.
    """
    side = architecture.reference_side
    tensors = declare_vae_encoder(base.vae, *architecture.reference_latent_shape[2:])
    if isinstance(base.vae, AutoencoderTiny):
        encoder = _trace(VaeMean(base.vae), folder, VAE_ENCODER, tensors)
    else:
        # The exporter takes the picture's size from the config alone; references are square.
        sized = FrozenDict({**base.vae.config, "sample_size": side})
        encoder = _export(
            VaeMean(base.vae),
            VaeEncoderOnnxConfig(sized, task="semantic-segmentation"),
            folder,
            VAE_ENCODER,
            {"batch_size": 1, "height": side, "width": side},
            tensors,
        )
    return {**_text_encoders(base, folder), "vae_encoder": encoder}


def rewrite_components(folder: Path, graphs: Graphs, change: Callable[[ir.Model], ir.Model]) -> None:
    """Change text encoders, VAE encoder and every graph of the VAE decoder, each family on its weights file."""
    families: dict[Path, list[GraphSpec]] = {}
    for name, spec in graphs.by_name().items():
        if name.startswith(("text_encoder", "vae_")):
            families.setdefault((folder / spec.file).parent, []).append(spec)
    for place, specs in families.items():
        (weights_file,) = specs[0].weights
        models = {Path(spec.file).name: change(load_simplified(folder / spec.file)) for spec in specs}
        rewrite_shared(place, models, Path(weights_file).name)


def _text_encoders(base: Base, folder: Path) -> dict[str, GraphSpec]:
    declared = declare_text_encoders(base)
    if base.second is None:
        return {
            "text_encoder": _export(
                base.text_encoder,
                CLIPTextOnnxConfig(base.text_encoder.config, task="feature-extraction"),
                folder,
                TEXT_ENCODER,
                {"batch_size": 1, "sequence_length": base.text_length},
                declared["text_encoder"],
            )
        }
    files = {"text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}
    return {
        name: _trace(module, folder, files[name], declared[name])
        for name, module in sdxl_text_encoders(base).items()
    }


def _trace(module: nn.Module, folder: Path, file: str, tensors: GraphTensors) -> GraphSpec:
    path = folder / file
    path.parent.mkdir()
    model = export_graph(module, tensors.inputs, tensors.outputs)
    write_shared(path.parent, {path.name: model}, WEIGHTS_NAME)
    return _declare(folder, file, tensors)


def _export(
    model: nn.Module,
    config: Any,
    folder: Path,
    file: str,
    shapes: Mapping[str, int],
    tensors: GraphTensors,
) -> GraphSpec:
    try:
        with quiet_exporters():
            optimum_export(
                model.eval(),
                config,
                folder / file,
                input_shapes=dict(shapes),
                no_dynamic_axes=True,
                disable_dynamic_axes_fix=True,
            )
    except Exception as error:
        raise ExportError(f"{file} does not export: {first_line(error)}") from error
    _keep_output(folder / file, tensors.outputs[0])
    path = folder / file
    # In a file beside the graph, which a runner can map instead of reading it onto the heap.
    rewrite_shared(path.parent, {path.name: without_idle_nodes(ir.load(path))}, WEIGHTS_NAME)
    return _declare(folder, file, tensors)


def _keep_output(path: Path, wanted: TensorSpec) -> None:
    """Leave one output, the one the runner wants, and state its shape, which the exporter leaves open."""
    model = onnx.load(path, load_external_data=False)
    kept = [value for value in model.graph.output if value.name == wanted.name]
    if len(kept) != 1:
        raise ExportError(
            f"{path.name} has outputs {[value.name for value in model.graph.output]}, expected {wanted.name}"
        )
    dtype = kept[0].type.tensor_type.elem_type
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(wanted.name, dtype, wanted.shape))
    onnx.save(model, path)


def _declare(folder: Path, file: str, tensors: GraphTensors) -> GraphSpec:
    """The graph as the contract has it, once the written file was seen to have those inputs and outputs."""
    graph = onnx.load(folder / file, load_external_data=False).graph
    for value, spec in zip((*graph.input, *graph.output), (*tensors.inputs, *tensors.outputs), strict=True):
        shape = tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        if (value.name, shape, dtype) != (spec.name, spec.shape, spec.dtype):
            raise ExportError(
                f"{file}: {spec.name} {spec.shape} {spec.dtype} is expected, received {value.name} {shape} {dtype}"
            )
    stored = sorted(path.name for path in (folder / file).parent.iterdir() if path.name != Path(file).name)
    return GraphSpec(
        file=file,
        weights=tuple(f"{Path(file).parent}/{name}" for name in stored),
        inputs=tensors.inputs,
        outputs=tensors.outputs,
    )
