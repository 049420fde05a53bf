"""What the page asks of this machine: a photograph prepared as every reference is, and a place for its records.

Background removal and resampling stay here, so that a subject made on a phone is the one that Python makes.
"""

from __future__ import annotations

import base64
import json
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image

from dreamcache.runtime.errors import ImageError, OutputError, SettingsError, first_line
from dreamcache.runtime.files import claim_file, replacing
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.reference.picture_sources import IN_MEMORY, Source
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.subject import thumbnail_base64
from dreamcache.runtime.untrusted import parse_json

MAX_PHOTOGRAPH_BYTES = 32 << 20
MAX_RECORD_BYTES = 4 << 20
_MOST_RECORDS = 1000


class Desk:
    """Answers of one run. records: the folder for what browsers measured; it is made when the first comes."""

    def __init__(self, pipeline: Pipeline, records: Path, reference: Source | None = None) -> None:
        """reference: the picture that the page begins with; default: a drawn toy.

        Raises: ImageError for a reference that cannot be used, OutputError where no record could be kept.
        """
        _claim_folder(records)
        self._pipeline = pipeline
        self._records = records
        self._one_at_a_time = threading.Lock()
        self._kept = 0
        self.reference = json.dumps(self.prepared(drawn_toy() if reference is None else reference)).encode()

    def prepared(self, photograph: Source) -> dict[str, Any]:
        """The reference square of a photograph: side in px, RGB as base64, how its background went, a thumbnail.

        Raises: ImageError for a picture that cannot be used.
        """
        contract = self._pipeline.contract
        segment = None if contract.graphs.segmenter is None else self._pipeline.segment
        with self._one_at_a_time:
            try:
                found = prepare_reference(
                    photograph, None, size=contract.architecture.reference_side, segment=segment
                )
            except ImageError as error:
                raise ImageError(str(error).replace(IN_MEMORY, "this picture", 1)) from error
        return {
            "side": found.image.width,
            "pixels": base64.b64encode(found.image.convert("RGB").tobytes()).decode("ascii"),
            "background": found.how,
            "thumbnail": thumbnail_base64(found.image),
        }

    def keep_record(self, text: bytes) -> Path:
        """Write a browser's record as a file of its own; `dreamcache bench --merge` checks what is in it.

        Raises: SettingsError for anything but a record, OutputError where none can be written.
        """
        try:
            record = parse_json(text)
            written = json.dumps(record, indent=1, allow_nan=False) + "\n"
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"record: JSON is expected, received what is not ({error})") from error
        if not isinstance(record, dict) or type(record.get("schema_version")) is not int:
            raise SettingsError("record: an object with a schema_version is expected, received another")
        with self._one_at_a_time:
            if self._kept >= _MOST_RECORDS:
                raise OutputError(f"{_MOST_RECORDS} records were kept; start `dreamcache web` again for more")
            moment = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
            try:
                self._records.mkdir(parents=True, exist_ok=True)
                while True:
                    self._kept += 1
                    place = self._records / f"browser-{moment}-{self._kept}.json"
                    if not place.exists():
                        break
                with replacing(place) as beside:
                    beside.write_text(written, encoding="utf-8")
            except OSError as error:
                raise OutputError(
                    f"the desk cannot keep a record in {self._records.name}: {error.strerror or first_line(error)}"
                ) from error
        return place


def _claim_folder(folder: Path) -> None:
    """Before a phone measures for minutes: the folder, or the one that it will be made in, can be written."""
    standing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not standing.is_dir():
        raise OutputError(
            f"{folder}: a folder for records is expected, {standing} is none; choose another --records"
        )
    claim_file(standing / "browser.json", overwrite=True)


def drawn_toy() -> Image.Image:
    """A toy on white, for people who have no photograph at hand."""
    from PIL import ImageDraw

    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((66, 118, 190, 236), radius=26, fill=(44, 110, 180))
    draw.rounded_rectangle((78, 30, 178, 126), radius=24, fill=(214, 69, 65))
    for left in (98, 138):
        draw.ellipse((left, 62, left + 20, 82), fill="white")
    draw.rectangle((98, 152, 158, 176), fill=(246, 200, 60))
    return image
