"""From how many pictures of a subject on which method is cheaper: seconds once a subject, seconds a picture.

DreamCache's two figures are measured, and so is a plain step. What other ways of personalising would take on the same
device is computed from that step, each by one stated assumption, and marked as computed; peers that were measured
(benchmarks/README.md, "Break-even") are added and replace nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from dreamcache.benchmarks.protocol.samples import median
from dreamcache.benchmarks.record import Measurement, RecordError
from dreamcache.runtime.untrusted import parse_json, read_bounded

_MAX_BYTES = 1 << 20

# OpenCLIP ViT-H/14, the encoder of IP-Adapter: 167 GMAC a picture; the plain SD 1.5 UNet at 512 px: 401 GMAC a call.
_ENCODER_CALLS = 167 / 401


@dataclass(frozen=True)
class Method:
    """subject_s: once a subject. picture_s: each picture. computed: how, where it was not measured."""

    name: str
    subject_s: float
    picture_s: float
    computed: str = ""

    def cumulative_s(self, pictures: int) -> float:
        """Seconds for a subject's first `count` pictures."""
        return self.subject_s + pictures * self.picture_s


def methods(measurement: Measurement) -> list[Method]:
    """DreamCache, then what is computed from the plain step; nothing where a figure is absent."""
    metrics, conditions = measurement.metrics, measurement.conditions
    if metrics.e2e_ms_p50 is None or metrics.cache_ms is None:
        return []
    encode_ms = median(measurement.samples.get("vae_encode", ())) or 0.0
    found = [Method("DreamCache", (metrics.cache_ms + encode_ms) / 1e3, metrics.e2e_ms_p50 / 1e3)]
    if metrics.plain_step_ms_p50 is None or metrics.step_ms_p50 is None:
        return found
    plain_s = metrics.plain_step_ms_p50 / 1e3
    without_adapters = found[0].picture_s - conditions.unet_calls * (metrics.step_ms_p50 / 1e3 - plain_s)
    encoder = _ENCODER_CALLS * plain_s
    share = (
        f"an encoder of {_ENCODER_CALLS:.2f} plain UNet calls, as ViT-H/14 is to SD 1.5 at 512 px, "
        "its adapters taken as free"
    )
    found.append(Method("image encoder, kept", encoder, without_adapters, f"{share}, run once a subject"))
    found.append(Method("image encoder", 0.0, without_adapters + encoder, f"{share}, run for each picture"))
    # Its reference noise level follows the step, so the second UNet runs once a step, not once a branch.
    second = without_adapters + conditions.steps * plain_s
    found.append(Method("second UNet", encode_ms / 1e3, second, "one more plain UNet call a step"))
    return found


def cheaper_from(ours: Method, other: Method) -> int | None:
    """The number of pictures from which `ours` costs no more than `other`; None when it never does."""
    gain = other.picture_s - ours.picture_s
    debt = ours.subject_s - other.subject_s
    if debt <= 0:
        # Cheaper at once; but one that loses on every picture does not stay so.
        return 1 if gain >= 0 else None
    return max(1, ceil(debt / gain - 1e-9)) if gain > 0 else None


def read_methods(path: Path) -> list[Method]:
    """Measured peers: a JSON list of objects with name, subject_s and picture_s.

    Raises: RecordError when it is not that.
    """
    try:
        raw: Any = parse_json(read_bounded(path, _MAX_BYTES))
        found = [Method(str(one["name"]), float(one["subject_s"]), float(one["picture_s"])) for one in raw]
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{path}: a JSON list of name, subject_s, picture_s is expected ({error!r})"
        ) from error
    if any(one.picture_s <= 0 or one.subject_s < 0 for one in found):
        raise RecordError(f"{path}: positive seconds are expected")
    return found
