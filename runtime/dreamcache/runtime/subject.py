"""Subject files: one reference picture as the keys and values of every site (docs/concepts/bundle.md).

A `*.subject.safetensors` holds the caching graph's outputs
and, in its metadata, the fingerprint of base, adapters and graphs, the timestep, what was done to the
background, and a thumbnail. A file that does not belong to the bundle is refused, so a subject can never be
read with the wrong weights.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.arguments import path_of
from dreamcache.runtime.bundle.contract import Contract, cache_tensors
from dreamcache.runtime.errors import SettingsError, SubjectError
from dreamcache.runtime.files import replacing
from dreamcache.runtime.untrusted import is_regular_file

SUFFIX = ".subject.safetensors"

_FORMAT = "dreamcache-subject-1"
_THUMBNAIL_PX = 128
_MAX_HEADER_BYTES = 4 << 20


@dataclass(frozen=True)
class Subject:
    """A cached reference.

    tensors: per site `<site>.key` and `<site>.value`, [1, tokens, width]. fingerprint: of the bundle that
    made it. timestep: noise level of the caching pass. background: how the background was removed.
    """

    tensors: Mapping[str, NDArray[Any]] = field(repr=False)
    fingerprint: str
    timestep: int
    background: str = ""
    thumbnail: Image.Image | None = None

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the subject file, which this user alone may read: it holds the thumbnail, unless that is None.

        Raises: OutputError when it exists already or cannot be written.
        """
        from safetensors.numpy import save

        metadata = {
            "format": _FORMAT,
            "fingerprint": str(self.fingerprint),
            "timestep": str(self.timestep),
            "background": str(self.background),
            "thumbnail": thumbnail_base64(self.thumbnail),
        }
        data = save({name: np.ascontiguousarray(array) for name, array in self.tensors.items()}, metadata)
        with replacing(path_of("out", path), overwrite) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(data)
        return Path(path)


def load_subject(path: str | os.PathLike[str], contract: Contract, mapped: bool = False) -> Subject:
    """Read a subject file that belongs to the bundle of `contract`.

    mapped: tensors lie in the file, which the system may drop from memory and read again, as weights do; it must
    not be shortened meanwhile. Raises: SubjectError when it is missing, damaged, from another bundle, or holds NaN or
    infinities.
    """
    from safetensors import SafetensorError, safe_open

    place = path_of("subject", path)
    _check_file_size(place, contract)
    try:
        with safe_open(place, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            _check_owner(place, metadata, contract)
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, TypeError) as error:
        raise _damaged(place, error) from error
    if mapped:
        tensors = _mapped(place, tensors)
    check_subject_tensors(str(place), tensors, contract)
    return Subject(
        tensors=tensors,
        fingerprint=metadata["fingerprint"],
        timestep=contract.cache_timestep,
        background=metadata.get("background", ""),
        thumbnail=_from_base64(place, metadata.get("thumbnail", "")),
    )


def _mapped(place: Path, read: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Tensors where they lie in a file that safetensors has read whole; those that were read where they lie askew.

    Raises: SubjectError where the file has changed since.
    """
    found: dict[str, NDArray[Any]] = {}
    try:
        with place.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        data = np.memmap(place, np.uint8, mode="r", offset=8 + length)
        for name, array in read.items():
            begin, end = header[name]["data_offsets"]
            found[name] = np.asarray(data[begin:end]).view(array.dtype).reshape(array.shape)
    except (OSError, KeyError, ValueError) as error:
        raise _damaged(place, error) from error
    return found if all(array.flags.aligned for array in found.values()) else dict(read)


def _damaged(place: Path, error: Exception) -> SubjectError:
    return SubjectError(
        f"{place}: a complete subject file is expected, received a damaged one ({error}); cache the reference again"
    )


def check_subject_tensors(where: str, tensors: Mapping[str, NDArray[Any]], contract: Contract) -> None:
    """Names, shapes, dtypes and finiteness of a subject's tensors. Raises: SubjectError."""
    declared = {spec.name: spec for spec in cache_tensors(contract.architecture)}
    if set(tensors) != set(declared):
        odd = sorted(set(tensors) ^ set(declared))[0]
        raise SubjectError(f"{where}: tensor {odd} is missing or unexpected; cache the reference again")
    for name, spec in declared.items():
        array = tensors[name]
        if not isinstance(array, np.ndarray):
            raise SubjectError(f"{where}: {name} is expected as an array, received {type(array).__name__}")
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            raise SubjectError(
                f"{where}: {name} {list(spec.shape)} {spec.dtype} is expected, "
                f"received {list(array.shape)} {array.dtype}; cache the reference again"
            )
        if not np.isfinite(array).all():
            raise SubjectError(f"{where}: {name} holds NaN or infinite values; cache the reference again")


def check_subject(subject: Subject, contract: Contract) -> None:
    """Raises: SubjectError when a subject in memory belongs to another bundle or does not fit."""
    _check_owner(None, {"format": _FORMAT, "fingerprint": subject.fingerprint}, contract)
    check_subject_tensors("the subject", subject.tensors, contract)


def listed_subjects(given: object) -> list[Subject] | None:
    """One subject or several as a list; None stays None. Raises: SettingsError for anything else."""
    if given is None:
        return None
    several = [given] if isinstance(given, Subject) or not isinstance(given, (list, tuple)) else list(given)
    subjects = [one for one in several if isinstance(one, Subject)]
    if len(subjects) < len(several):
        other = next(one for one in several if not isinstance(one, Subject))
        raise SettingsError(
            f"subject: a Subject is expected, received {type(other).__name__}; make one with Pipeline.cache or "
            "Pipeline.load_subject"
        )
    return subjects


def join_subjects(subjects: Sequence[Subject], contract: Contract) -> dict[str, NDArray[Any]]:
    """What the denoiser takes of one or several subjects: their tokens, one after the other.

    Raises: SubjectError when there are none, more than the bundle takes at once, or one that does not fit.
    """
    most = contract.architecture.max_references
    if not 1 <= len(subjects) <= most:
        raise SubjectError(
            f"this bundle takes {'1 subject' if most == 1 else f'1 to {most} subjects'} at once, received "
            f"{len(subjects)}; one exported with --max-references {max(2, len(subjects))} takes more"
        )
    for subject in subjects:
        check_subject(subject, contract)
    return join_tokens([subject.tensors for subject in subjects])


def join_tokens(caches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Keys and values of several references as a denoiser takes them at once: their tokens, one after the other.

    One reference's are not copied.
    """
    if len(caches) == 1:
        return dict(caches[0])
    return {name: np.concatenate([cache[name] for cache in caches], axis=1) for name in caches[0]}


def _check_file_size(place: Path, contract: Contract) -> None:
    """Before anything is read: the file can hold the declared tensors and little else."""
    if not is_regular_file(place):
        raise SubjectError(f"{place} is not a file; a subject file made by `dreamcache cache` is expected")
    wanted = sum(
        prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in cache_tensors(contract.architecture)
    )
    size = place.stat().st_size
    if size > wanted + _MAX_HEADER_BYTES:
        raise SubjectError(f"{place}: about {wanted} bytes are expected for this bundle, received {size}")


def _check_owner(place: Path | None, metadata: Mapping[str, str], contract: Contract) -> None:
    where = "the subject" if place is None else str(place)
    if metadata.get("format") != _FORMAT:
        raise SubjectError(f"{where} is not a subject file of this version; cache the reference again")
    expected, received = contract.fingerprints.subject(), str(metadata.get("fingerprint", ""))
    if received != expected:
        raise SubjectError(
            f"{where} belongs to another bundle: fingerprint {expected[:12]}… is expected, "
            f"received {received[:12]}…; cache the reference with this bundle"
        )
    timestep = metadata.get("timestep", str(contract.cache_timestep))
    if timestep != str(contract.cache_timestep):
        raise SubjectError(
            f"{where}: cache timestep {contract.cache_timestep} is expected, received {timestep}; "
            "cache it again"
        )


def thumbnail_base64(image: Image.Image | None) -> str:
    """A picture in at most 128 px as the PNG in a subject file's metadata; empty for None."""
    if image is None:
        return ""
    if not isinstance(image, Image.Image):
        raise SettingsError(f"thumbnail: a Pillow image is expected, received {type(image).__name__}")
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _from_base64(place: Path, text: str) -> Image.Image | None:
    if not text:
        return None
    try:
        data = base64.b64decode(text, validate=True)
        # width and height of the PNG, before Pillow looks: it warns of large ones, or raises an error of its own
        sides = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        if max(sides) > _THUMBNAIL_PX:
            raise ValueError(f"{sides[0]} × {sides[1]} pixels, at most {_THUMBNAIL_PX} are expected")
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()
    except (ValueError, OSError, SyntaxError) as error:
        raise SubjectError(
            f"{place}: the thumbnail is damaged ({error}); cache the reference again"
        ) from error
    return image
