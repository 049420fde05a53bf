"""What a single checkpoint says of itself: marker keys, and the metadata that training tools write."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from dreamcache.models.bases.parts.schedule import ddim_of, read_schedule
from dreamcache.models.errors import AdapterError, BaseWarning

_NAMES = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "noise": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "velocity": "v_prediction",
}


_ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}
"""What sd-scripts writes as ``modelspec.architecture``, as far as it settles the prediction."""
_VELOCITY_VERSIONS = ("sd_v1_v", "sd_v2_v")

_BUFFERS = ("scale_factor", "alphas_cumprod")
_NO_SIGNAL = 1e-4
BUFFER_TOLERANCE = 0.02
"""Relative; buffers are often rounded to 16 bits."""


_ENCODER_LAYER = "modelspec.encoder_layer"


class Statement(NamedTuple):
    """A file's own words; None and False where it says nothing."""

    prediction_type: str | None = None
    zero_snr: bool = False


def read_statement(path: object, names: Iterable[str], metadata: Mapping[str, str] | None) -> Statement:
    """The keys ``v_pred`` and ``ztsnr``, and the header's ``modelspec.*`` and ``ss_*`` entries on both.

    Raises:
        AdapterError: the file contradicts itself, or predicts what no bundle does.
    """
    keys, header = set(names), metadata or {}
    said = {"key v_pred": "v_prediction"} if "v_pred" in keys else {}
    if stated := header.get("modelspec.prediction_type"):
        if stated.lower() not in _NAMES:
            raise AdapterError(
                f"{path} says modelspec.prediction_type {stated!r}, expected epsilon or v; give another base"
            )
        said["modelspec.prediction_type"] = _NAMES[stated.lower()]
    architecture = header.get("modelspec.architecture", "").split("/")[0]
    if architecture in _ARCHITECTURES:
        said["modelspec.architecture"] = _ARCHITECTURES[architecture]
    if header.get("ss_base_model_version") in _VELOCITY_VERSIONS:
        said["ss_base_model_version"] = "v_prediction"
    if header.get("ss_v_parameterization", "").lower() == "true":
        said["ss_v_parameterization"] = "v_prediction"
    if len(set(said.values())) > 1:
        words = ", ".join(f"{source} says {kind}" for source, kind in said.items())
        raise AdapterError(
            f"{path} contradicts itself ({words}); give --base-config only once it is corrected"
        )
    zero_snr = "ztsnr" in keys or header.get("ss_zero_terminal_snr", "").lower() == "true"
    return Statement(next(iter(said.values()), None), zero_snr)


def warn_of_encoder_layer(path: object, metadata: Mapping[str, str], clip_skip: int) -> None:
    """Say that a file wants layers of its text encoder left out, which diffusers and AUTOMATIC1111 do not read either.

    ``modelspec.encoder_layer`` counts from the end: 1 is the last layer, and 2 what others call "clip skip 2".

    Warns: BaseWarning, unless layers are left out already.
    """
    stated = metadata.get(_ENCODER_LAYER, "")
    layers = int(stated) - 1 if stated.isdecimal() else 0
    if layers > 0 and not clip_skip:
        warnings.warn(
            f"{path} says that it reads an earlier layer of its text encoder ({_ENCODER_LAYER} {stated}), and the last "
            f"one is taken; --clip-skip {layers} leaves out what follows it",
            BaseWarning,
            stacklevel=2,
        )


def agreed(path: object, statement: Statement, prediction: str | None) -> Statement:
    """A statement with the prediction type of ``--prediction``.

    Raises:
        AdapterError: the file says another.
    """
    if prediction is None or statement.prediction_type in (None, prediction):
        return statement._replace(prediction_type=prediction or statement.prediction_type)
    raise AdapterError(
        f"{path} says of itself that it predicts {statement.prediction_type}, received --prediction {prediction}; "
        "leave the option out"
    )


def joined(
    path: object, statement: Statement, scheduler: Mapping[str, Any], config: str | None
) -> dict[str, Any]:
    """A scheduler config with the file's statement in it.

    Args:
        path: of the checkpoint.
        statement: its own.
        scheduler: the config that goes with it.
        config: what --base-config named; None where the architecture was recognised.

    Raises:
        AdapterError: what --base-config names says something else.
    """
    result = dict(scheduler)
    kind = statement.prediction_type
    if kind is not None:
        configured = scheduler.get("prediction_type", "epsilon")
        if config is not None and configured != kind:
            raise AdapterError(
                f"{path} says of itself that it predicts {kind}, and --base-config {config} says {configured}; give "
                "the config of its own architecture"
            )
        result["prediction_type"] = kind
    if statement.zero_snr:
        if config is not None and scheduler.get("rescale_betas_zero_snr") is False:
            raise AdapterError(
                f"{path} says of itself that its last step holds no signal (key ztsnr or ss_zero_terminal_snr), and "
                f"--base-config {config} says rescale_betas_zero_snr false; correct its scheduler_config.json"
            )
        result["rescale_betas_zero_snr"] = True
    return result


def check_buffers(path: Path, scale: float | None, scheduler: Mapping[str, Any]) -> None:
    """Hold the buffers that latent diffusion saves beside the weights to the configs.

    Args:
        path: of the checkpoint.
        scale: the VAE's scaling factor; None where another VAE takes its place.
        scheduler: the config that goes with it.

    Raises:
        AdapterError: another scale of latents, or another noise schedule.
    """
    with safe_open(path, framework="pt") as stored:
        held = {name: stored.get_tensor(name).double() for name in _BUFFERS if name in set(stored.keys())}
    own = held.get("scale_factor")
    if own is not None and scale is not None and not _near(own, torch.tensor(scale)):
        raise AdapterError(
            f"{path} says of itself that its latents are scaled by {float(own.flatten()[0]):g} (scale_factor), and its "
            f"config {scale:g}; give --base-config with a folder whose vae/config.json says so"
        )
    if (alphas := held.get("alphas_cumprod")) is None:
        return
    known = [
        ddim_of({**read_schedule(str(path), scheduler), "rescale_betas_zero_snr": rescaled}).alphas_cumprod
        # Trainers keep the buffer that they found, also where they then trained with zero terminal SNR.
        for rescaled in {False, bool(scheduler.get("rescale_betas_zero_snr"))}
    ]
    if not any(_near(alphas, expected) for expected in known):
        mend = "give --base-config with a folder of its own scheduler config"
        if alphas.numel() and float(alphas.flatten()[-1]) < _NO_SIGNAL:
            mend = "its last step holds no signal: give --zero-terminal-snr"
        raise AdapterError(
            f"{path} says of itself that it was trained on another noise schedule (alphas_cumprod) than its config "
            f"says; {mend}"
        )


def _near(received: Tensor, expected: Tensor) -> bool:
    """Whether all values are as expected, but for rounding to 16 bits; one value may have any shape."""
    if received.numel() != expected.numel():
        return False
    wanted = expected.double().flatten()
    return bool(((received.flatten() - wanted).abs() <= BUFFER_TOLERANCE * wanted + _NO_SIGNAL).all())
