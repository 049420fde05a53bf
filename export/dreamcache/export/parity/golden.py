"""Golden tensors: inputs like those of a real picture, and what PyTorch makes of them, for `check.safetensors`.

What is large is stored as a part of itself, which readers repeat (`runtime.bundle.golden`); PyTorch reads the
repeated form too. The UNet's modules are those that were exported, with attention written in PyTorch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.export.graphs.session import open_exported
from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph, caching_condition
from dreamcache.export.parity.gates import check_psnr
from dreamcache.export.parity.report import text_cases
from dreamcache.export.parity.torch_reference import TorchModel, subject_picture
from dreamcache.models.bases.parts.autoencoder import encode_mean, latent_shift
from dreamcache.models.bases.parts.segmenter import load_segmenter
from dreamcache.models.caching import noise_reference
from dreamcache.models.pipeline import CACHE_NOISE_SEED, draw_noise
from dreamcache.runtime.bundle.contract import Graphs, GraphSpec
from dreamcache.runtime.bundle.golden import (
    CHECK_NAME,
    NULL,
    STOCK,
    GoldenCase,
    golden_cases,
    repeated,
    save_golden,
    spread_sample,
    take_sample,
)
from dreamcache.runtime.bundle.parity import MIN_DEVICE_PSNR_DB, psnr_db
from dreamcache.runtime.sessions.allocator import release_freed

Stored = dict[str, NDArray[Any]]

# With the outputs' samples below the file's megabyte for every base, SDXL among them; of SD 1.5 a text is whole.
_PICTURE_BYTES, _LATENT_BYTES, _TEXT_BYTES, _KEYS_AND_VALUES_BYTES = 50_000, 40_000, 240_000, 190_000

# 8 bits round anew where a value moves by its last bit.
_SAME_DB = 3.0


@torch.no_grad()
def write_golden(folder: Path, graphs: Graphs, model: TorchModel) -> Stored:
    """Write `check.safetensors` into the bundle's folder; its tensors.

    Args:
        folder: of the unfinished bundle.
        graphs: as the contract declares them.
        model: base and adapters in PyTorch.
    """
    stored: Stored = {}
    for name, (ids, outputs) in text_cases(model.base).items():
        spec = graphs.by_name()[name]
        stored |= _case(name, spec, {spec.inputs[0].name: ids}, outputs)
    encoder, decoder = graphs.vae_encoder, graphs.vae_decoder
    picture = _fitting_picture(model.architecture.reference_side)
    mean = encode_mean(model.base.vae, _whole(picture, encoder))
    stored |= _case("vae_encoder", encoder, {encoder.inputs[0].name: picture}, [mean.numpy()])
    latent = _cut(mean.numpy(), decoder.inputs[0].shape, _LATENT_BYTES)
    decoded = model.base.vae.decode(_whole(latent, decoder)).sample
    stored |= _case("vae_decoder", decoder, {decoder.inputs[0].name: latent}, [decoded.numpy()])
    release_freed()
    keys_and_values = _cache(stored, graphs.cache, model, mean)
    release_freed()
    _denoiser(stored, graphs.denoiser, model, keys_and_values)
    release_freed()
    if graphs.segmenter is not None and (trained := load_segmenter(model.base.path)) is not None:
        picture = _fitting_picture(trained.size)
        mask = trained.module(_whole(picture, graphs.segmenter))
        stored |= _case(
            "segmenter", graphs.segmenter, {graphs.segmenter.inputs[0].name: picture}, [mask.numpy()]
        )
    save_golden(folder / CHECK_NAME, stored)
    return stored


def check_portable(
    folder: Path,
    graphs: Graphs,
    golden: Stored,
    least_db: float | None,
    own_layers: Collection[str] = (),
) -> None:
    """Compare the portable forms with the golden tensors.

    Args:
        folder: of the unfinished bundle.
        graphs: as the contract declares them.
        golden: tensors of `check.safetensors`.
        least_db: how close to PyTorch they must be; None is as close as the graph with fused attention, but for
            `_SAME_DB`.
        own_layers: files of graphs whose portable form has other layers in 8 bits; those must be as close as a device.

    Raises:
        ExportError: one is not.
    """
    for name, case in golden_cases(graphs, golden).items():
        spec = case.spec
        if spec.portable is None:
            continue
        least = worst_db(name, case, folder / spec.file) - _SAME_DB if least_db is None else least_db
        if spec.file in own_layers:
            least = min(least, MIN_DEVICE_PSNR_DB)
        check_psnr(f"{name} in its portable form", worst_db(name, case, folder / spec.portable), least)


def worst_db(name: str, case: GoldenCase, file: Path) -> float:
    """Of a golden case, what the worst output of a graph has."""
    made = open_exported(name, file, case.spec).run(case.inputs())
    return min(psnr_db(wish, take_sample(made[out], wish.size)) for out, wish in case.outputs.items())


def _cache(
    stored: Stored, spec: GraphSpec, model: TorchModel, mean: Tensor
) -> dict[str, NDArray[np.float32]]:
    """Add the caching graph's case; what its keys and values are stored as for the denoiser, [1, rows, d]."""
    base, conditioned = model.base, model.conditioned
    clean = (mean - latent_shift(base.vae)) * base.vae.config.scaling_factor
    noise = torch.from_numpy(draw_noise(CACHE_NOISE_SEED, model.architecture.reference_latent_shape[1:]))
    noised = noise_reference(base.scheduler, clean, noise, conditioned.config.cache_timestep).numpy()
    latent = _cut(noised, spec.inputs[0].shape, _LATENT_BYTES)
    null = caching_condition(base, conditioned, model.architecture)
    graph = CachingGraph(conditioned, null.text, "plain", model.approximations, null.added or None)
    made = [value.numpy() for value in graph(_whole(latent, spec))]
    stored |= _case("cache", spec, {"latent": latent}, made)
    rows = max(value.shape[1] for value in made)
    while rows > 1 and sum(value[:, :rows].nbytes for value in made) > _KEYS_AND_VALUES_BYTES:
        rows = (rows + 1) // 2
    # Tokens from all over the picture.
    return {
        tensor.name: value[:, :: max(1, value.shape[1] // rows)][:, :rows]
        for tensor, value in zip(spec.outputs, made, strict=True)
    }


def _denoiser(
    stored: Stored, spec: GraphSpec, model: TorchModel, keys_and_values: Mapping[str, NDArray[np.float32]]
) -> None:
    """Add the denoiser's cases: prompt and reference, strength 0, null text."""
    shape = model.architecture.latent_shape
    texts = {
        name: {
            tensor: _cut(value, (1, *value.shape[1:]), _TEXT_BYTES, (1,)) for tensor, value in read.items()
        }
        for name, read in model.embeddings.items()
    }
    inputs: Stored = {
        "latent": _cut(draw_noise(0, shape[1:]), shape, _LATENT_BYTES),
        "timestep": np.array([model.base.scheduler.config.num_train_timesteps // 2], np.float32),
        "reference_strength": np.ones(1, np.float32),
        **texts["prompt"],
        **keys_and_values,
    }
    graph = DenoiserGraph(model.conditioned, "plain", model.approximations)
    changes: dict[str, Stored] = {
        "denoiser": inputs,
        STOCK: {"reference_strength": np.zeros(1, np.float32)},
        NULL: texts["null"],
    }
    for case, given in changes.items():
        # One row, which the batch repeats.
        one = [
            torch.from_numpy(repeated((inputs | given)[tensor.name], (1, *tensor.shape[1:])))
            for tensor in spec.inputs
        ]
        outputs = [
            repeated(value.numpy(), tensor.shape)
            for value, tensor in zip(graph(*one), spec.outputs, strict=False)
        ]
        stored |= _case(case, spec, given, outputs)


def _case(case: str, spec: GraphSpec, inputs: Mapping[str, NDArray[Any]], outputs: Any) -> Stored:
    made = {tensor.name: spread_sample(value) for tensor, value in zip(spec.outputs, outputs, strict=True)}
    return {f"{case}/input/{name}": value for name, value in inputs.items()} | {
        f"{case}/output/{name}": value for name, value in made.items()
    }


def _whole(stored: NDArray[Any], spec: GraphSpec) -> Tensor:
    """The only input of a graph as it takes it."""
    return torch.from_numpy(repeated(stored, spec.inputs[0].shape))


def _fitting_picture(side: int) -> NDArray[np.float32]:
    """A subject on white, as large as may be stored."""
    while 3 * 4 * side**2 > _PICTURE_BYTES:
        side = (side + 1) // 2
    return subject_picture(side, 0)


def _cut(
    value: NDArray[np.float32], shape: tuple[int, ...], most_bytes: int, axes: tuple[int, ...] = (2, 3)
) -> NDArray[np.float32]:
    """The first part along some axes that fits into a shape and into as many bytes."""
    part = value[tuple(slice(length) for length in shape)]
    while part.nbytes > most_bytes and part.shape[axes[-1]] > 1:
        for axis in axes:
            part = part.take(range((part.shape[axis] + 1) // 2), axis)
    return part
