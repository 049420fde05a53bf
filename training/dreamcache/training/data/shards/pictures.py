"""Pictures and texts of a sample as bytes and back; decoded by name, and only in the size that is expected.

References and masks are PNG: a reference's white must stay exactly white, which training's augmentation relies on,
and JPEG rings beside every edge of the cut-out. A rendered target may be JPEG at quality 95 with full colour: three to
four times smaller, and nearer to the picture than the VAE it goes through next. Small drawn targets are PNG, since
JPEG's blocks of 8 × 8 are large on 64 × 64.
"""

from __future__ import annotations

import io
import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.errors import first_line
from dreamcache.runtime.untrusted import parse_json
from dreamcache.training.data.shards.shards import ShardSample
from dreamcache.training.errors import ShardError

TargetFormat = Literal["jpg", "png"]
_JPEG_QUALITY = 95


def encode_png(picture: Image.Image) -> bytes:
    """PNG without metadata; the same bytes for the same pixels."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def encode_target(picture: Image.Image, form: TargetFormat) -> tuple[str, bytes]:
    """Kind and bytes of a target."""
    if form == "png":
        return "target.png", encode_png(picture.convert("RGB"))
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "target.jpg", stream.getvalue()


def target_member(sample: ShardSample, where: str) -> tuple[str, bytes]:
    """Kind and bytes of the target, in whichever format.

    Raises: ShardError when the sample has none.
    """
    for kind in ("target.jpg", "target.png"):
        if kind in sample.members:
            return kind, sample.members[kind]
    raise ShardError(f"{where}: sample {sample.key}: target.jpg or target.png is expected, received neither")


def decode_picture(data: bytes, size: int, mode: Literal["RGB", "L"], where: str) -> Image.Image:
    """A picture of size × size pixels; its header is looked at before anything is decoded.

    Raises: ShardError when it is not a whole PNG or JPEG, or of another size.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=["PNG", "JPEG"])
        if picture.size == (size, size):
            picture.load()
            return picture.convert(mode)
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise ShardError(
            f"{where}: a whole PNG or JPEG is expected, received a broken one ({first_line(error)})"
        ) from error
    width, height = picture.size
    raise ShardError(f"{where}: {size} x {size} px are expected, received {width} x {height}")


def decode_array(data: bytes, size: int, mode: Literal["RGB", "L"], where: str) -> NDArray[np.uint8]:
    """The same as uint8 [size, size, 3] or, for mode "L", [size, size]."""
    return np.array(decode_picture(data, size, mode, where), dtype=np.uint8)


def decode_text(sample: ShardSample, where: str) -> str:
    """The caption.

    Raises: ShardError when there is none, or it is not UTF-8.
    """
    try:
        return sample.members["txt"].decode()
    except (KeyError, UnicodeDecodeError) as error:
        raise ShardError(f"{where}: sample {sample.key}: a caption as UTF-8 text is expected") from error


def decode_json(sample: ShardSample, where: str) -> dict[str, Any]:
    """What the stages noted of the sample.

    Raises: ShardError when there is none, or it is not a JSON object.
    """
    try:
        record = parse_json(sample.members["json"])
    except (KeyError, ValueError) as error:
        raise ShardError(f"{where}: sample {sample.key}: JSON is expected") from error
    if not isinstance(record, dict):
        raise ShardError(f"{where}: sample {sample.key}: a JSON object is expected")
    return record


def encode_json(record: dict[str, Any]) -> bytes:
    """In one form for the same content."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False).encode()
