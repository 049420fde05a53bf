"""The gates: an export that does not compute what PyTorch does is not written.

Inputs are those of real denoising trajectories: latents that PyTorch's own DDIM visits under guidance, and
references that went through the VAE. The denoiser runs through the runner's own code. Gates
(docs/concepts/method.md, "Gates"): every graph at least 80 dB; the condition's size within 5 %; a zeroed or
swapped cache changes the prediction; strength 0 is the stock base whatever the cache; two graphs at most 1.05
times the disk of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreamcache.export.graphs.session import open_exported
from dreamcache.export.options import EXACT, Approximations
from dreamcache.export.parity.gates import (
    check_condition,
    check_disk,
    check_final_latent,
    check_psnr,
    check_sensitivity,
    condition_ratios,
)
from dreamcache.export.parity.torch_reference import (
    GUIDANCE_SCALE,
    PROMPT,
    STOCK,
    Point,
    TorchModel,
)
from dreamcache.export.parity.unet import UnetParity, measure_unet
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.autoencoder import encode_mean
from dreamcache.models.bases.parts.second_text import penultimate
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import Graphs, GraphSpec, ParityReport, Precision
from dreamcache.runtime.bundle.parity import (
    EIGHT_BITS,
    MAX_INT8_STRIPS_LOSS_DB,
    MIN_PSNR_DB_BY_PRECISION,
    MIN_SEAM_DB,
    psnr_db,
)
from dreamcache.runtime.sampling.decoding import OpenGraph, decode_in_strips
from dreamcache.runtime.sessions.allocator import release_freed
from dreamcache.runtime.sessions.session import GraphSession

Array = NDArray[np.float32]
Ticker = Callable[[], None]


@torch.no_grad()
def measure_parity(
    folder: Path,
    graphs: Graphs,
    architecture: Architecture,
    base: Base,
    conditioned: ConditionedUNet,
    disk: tuple[int, int],
    tick: Ticker = lambda: None,
    *,
    precision: Precision = "fp32",
    enforce: bool = True,
    brief: bool = False,
    approximations: Approximations = EXACT,
) -> ParityReport:
    """Compare the graphs of a new bundle with PyTorch; raise where a gate fails.

    Args:
        folder: where the graphs lie.
        graphs: their declarations.
        architecture: shapes and sites.
        base: in PyTorch.
        conditioned: its UNet with adapters.
        disk: bytes of both UNet graphs with their weights, and of the denoiser with its own.
        tick: called after each graph.
        precision: of the graphs, which decides how close they must be.
        enforce: False reports what 8 bits cost random weights, and refuses nothing for it.
        brief: see `TorchModel.sample`.
        approximations: of attention, in PyTorch too.

    Raises:
        ExportError: names the gate, what was expected and what was measured.
    """
    check_disk(*disk)
    torch_model = TorchModel(base, conditioned, architecture, approximations)
    psnr = {"cache": 0.0, "denoiser": 0.0}
    for name, db in _component_psnr(folder, graphs, base, precision).items():
        psnr[name] = db
        tick()
    release_freed()
    references, points = torch_model.sample(brief)
    specs = graphs.by_name()
    together = None
    if architecture.max_references > 1:
        # A substitute has no cache in PyTorch; the same reference twice serves as well.
        second = 1 if references[1].cache else 0
        together = second, torch_model.predict_together((references[0], references[second]), points[0])
    found = measure_unet(
        lambda name: open_exported(name, folder / specs[name].file, specs[name]),
        architecture,
        torch_model,
        references,
        points,
        shallow=graphs.shallow is not None,
        together=together,
    )
    psnr |= {"cache": found.cache_db, "denoiser": found.denoiser_db}
    if found.shallow is not None:
        psnr["shallow"] = found.shallow
    if found.together is not None:
        psnr["several references"] = found.together
    if graphs.plain is not None:
        psnr["plain"] = _plain_psnr(folder, graphs.plain, points[0], torch_model.embeddings["prompt"])
    tick()
    condition = condition_ratios(found.findings)
    if enforce:
        _enforce(psnr, found, precision)
    return ParityReport(
        psnr_db=psnr,
        condition=condition,
        trajectory_db=tuple(found.trajectory_db),
        disk_ratio=disk[0] / disk[1],
        notes=(
            f"{len(points)} DDIM steps, prompt {PROMPT!r}, guidance {GUIDANCE_SCALE:g}, onnxruntime on the CPU",
        ),
    )


def _enforce(psnr: dict[str, float], found: UnetParity, precision: Precision) -> None:
    """Raise where a precision's gates are missed."""
    least = MIN_PSNR_DB_BY_PRECISION.get(precision, 0.0)
    for name, db in psnr.items():
        check_psnr(name, db, least)
    check_condition(found.findings)
    check_sensitivity(found.findings, least, 2.0 if precision in EIGHT_BITS else 10.0)
    if precision in EIGHT_BITS:
        check_final_latent(found.trajectory_db[-1])


def _plain_psnr(folder: Path, spec: GraphSpec, point: Point, text: Mapping[str, Array]) -> float:
    """The plain graph against the stock UNet at one point of the trajectory."""
    rows = spec.inputs[0].shape[0]
    feed = {
        "latent": np.repeat(point.latent, rows, 0),
        "timestep": np.full(rows, point.timestep, np.float32),
        **{name: np.repeat(value, rows, 0) for name, value in text.items()},
    }
    prediction = open_exported("plain", folder / spec.file, spec).run(feed)["prediction"]
    return psnr_db(point.predictions[STOCK], prediction[:1])


def _component_psnr(folder: Path, graphs: Graphs, base: Base, precision: Precision) -> dict[str, float]:
    # Noise: flat pictures through random weights leave group normalisation nothing but rounding to amplify.
    random = np.random.default_rng(0)
    pixels, picture = (
        random.uniform(-1, 1, spec.shape).astype(np.float32)
        for spec in (graphs.vae_encoder.inputs[0], graphs.vae_decoder.outputs[0])
    )
    encoded = encode_mean(base.vae, torch.from_numpy(pixels)).numpy()
    latent = encoded
    if pixels.shape != picture.shape:
        latent = encode_mean(base.vae, torch.from_numpy(picture)).numpy()
    wanted = text_cases(base) | {
        "vae_encoder": (pixels, (encoded,)),
        "vae_decoder": (latent, (base.vae.decode(torch.from_numpy(latent)).sample.numpy(),)),
    }
    found = {}
    for name, (value, outputs) in wanted.items():
        spec = graphs.by_name()[name]
        given = open_exported(name, folder / spec.file, spec).run({spec.inputs[0].name: value})
        expected, received = outputs[0], given[spec.outputs[0].name]
        found[name] = min(
            psnr_db(wish, given[output.name]) for wish, output in zip(outputs, spec.outputs, strict=True)
        )
    if graphs.vae_decoder_head is not None:
        # The loop's last graph was the decoder.
        strips = decode_in_strips(graphs, _opener(folder, graphs), latent)
        found["vae_decoder_strips"] = psnr_db(expected, strips)
        if precision == "int8":
            # Both round, and not alike: what strips may cost is judged against PyTorch, as the whole is.
            least = found["vae_decoder"] - MAX_INT8_STRIPS_LOSS_DB
            check_psnr("vae_decoder_strips", found["vae_decoder_strips"], least)
        else:
            check_psnr("vae_decoder_strips (against the whole)", psnr_db(received, strips), MIN_SEAM_DB)
    return found


def text_cases(base: Base) -> dict[str, tuple[NDArray[Any], tuple[Array, ...]]]:
    """Token ids of the prompt and what PyTorch's text encoders make of them, by graph."""
    base = replace(base, text_chunks=1)
    ids = base.token_ids([PROMPT])
    if base.second is None:
        return {"text_encoder": (ids[0].numpy(), (base.encode_text([PROMPT]).numpy(),))}
    first, _ = penultimate(base.text_encoder, ids[0])
    return {
        "text_encoder": (ids[0].numpy(), (first.numpy(),)),
        "text_encoder_2": (
            ids[1].numpy(),
            tuple(output.numpy() for output in penultimate(base.second.encoder, ids[1])),
        ),
    }


def _opener(folder: Path, graphs: Graphs) -> OpenGraph:
    """Opens the graphs of a new bundle one at a time."""

    @contextmanager
    def open_graph(name: str) -> Iterator[GraphSession]:
        spec = graphs.by_name()[name]
        yield open_exported(name, folder / spec.file, spec)

    return open_graph
