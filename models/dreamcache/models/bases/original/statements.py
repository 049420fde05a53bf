"""What a single checkpoint says of itself: marker keys, and the metadata that training tools write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dreamcache.models.errors import AdapterError

_NAMES = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "noise": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "velocity": "v_prediction",
}


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
    if header.get("modelspec.architecture", "").split("/")[0] == "stable-diffusion-v2-768-v":
        said["modelspec.architecture"] = "v_prediction"
    if header.get("ss_v_parameterization", "").lower() == "true":
        said["ss_v_parameterization"] = "v_prediction"
    if len(set(said.values())) > 1:
        words = ", ".join(f"{source} says {kind}" for source, kind in said.items())
        raise AdapterError(
            f"{path} contradicts itself ({words}); give --base-config only once it is corrected"
        )
    zero_snr = "ztsnr" in keys or header.get("ss_zero_terminal_snr", "").lower() == "true"
    return Statement(next(iter(said.values()), None), zero_snr)


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
