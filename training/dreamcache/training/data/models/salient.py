"""Segmentation without a name: the salient-object models that the runner takes (`runtime.reference.salient`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.reference.salient import USUAL_FORM, SalientModel, open_salient, split_form
from dreamcache.training.data.models.segmentation import INSIDE, Found
from dreamcache.training.data.models.weights import fingerprint_files
from dreamcache.training.data.shards.index import ModelRecord
from dreamcache.training.errors import WeightsError

_ROLE = "salient-object model"


@dataclass(frozen=True)
class SalientSegmenter:
    """model: ``FILE.onnx``, or ``FILE.onnx:FORM`` where the name does not tell how it is fed."""

    model: Path

    @cached_property
    def models(self) -> tuple[ModelRecord, ...]:
        """Raises: WeightsError without the file."""
        path, _ = split_form(self.model)
        if not path.is_file():
            raise WeightsError(
                f"no {_ROLE} at {str(path)!r}; put one as ONNX there, such as u2net.onnx or "
                "isnet-general-use.onnx from the releases of danielgatis/rembg, or leave --salient out to segment by "
                "name"
            )
        return (ModelRecord(role=_ROLE, source=str(path), fingerprint=fingerprint_files(path)),)

    @property
    def settings(self) -> dict[str, float | str]:
        """Its choices."""
        form = split_form(self.model)[1]
        own: dict[str, float | str] = {} if form == USUAL_FORM else {"form": form}
        return {"segmenter": "salient", **own}

    @cached_property
    def _opened(self) -> SalientModel:
        self.models  # noqa: B018  # says what is missing first
        try:
            return open_salient(self.model)
        except SettingsError as error:
            raise WeightsError(str(error)) from error

    def find(self, pictures: Sequence[Image.Image], subjects: Sequence[str]) -> list[Found | None]:
        """The most salient object, whatever it is; confidence is the mean saliency inside its mask.

        Raises: WeightsError for a file that cannot be used.
        """
        del subjects
        return [self._find(picture) for picture in pictures]

    def _find(self, picture: Image.Image) -> Found | None:
        try:
            mask = np.asarray(self._opened.find_mask(picture.convert("RGB")))
        except SettingsError as error:
            raise WeightsError(str(error)) from error
        inside = mask >= INSIDE
        return Found(mask, float(mask[inside].mean() / 255)) if inside.any() else None
