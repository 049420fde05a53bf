"""Salient-object models as people have them, each fed as its authors feed it: ONNX files that tell a subject from its
background.

U²-Net (arXiv 2005.09007), IS-Net (arXiv 2203.03041), BiRefNet (arXiv 2401.03407) and MODNet (arXiv 2011.11961): one
input [1, 3, h, w], a first output [1, 1, h, w]. Masks are not stretched to the full range, as some programs do: that
makes an object of a picture without one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.arguments import path_of
from dreamcache.runtime.bundle.graph_files.contents import read_graph
from dreamcache.runtime.bundle.graph_files.sizes.limits import check_sizes, picture_limits
from dreamcache.runtime.bundle.graph_files.tensors import check_location, check_needed, is_finite
from dreamcache.runtime.errors import BundleError, SettingsError, first_line
from dreamcache.runtime.reference.prepare import OWN_SEGMENTER, Segment
from dreamcache.runtime.reference.segmenter import enlarged, fed_picture, subject_of
from dreamcache.runtime.sessions.profiles import session_options
from dreamcache.runtime.untrusted import is_regular_file, utf8_path

Colours = tuple[float, float, float]
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_MOST_SIDE = 4096
_MOST_LOGIT = 30.0
"""Nothing below 0 and something above this are no logits of a picture."""


@dataclass(frozen=True)
class SalientForm:
    """A family of models. words: what files of it are called. side: of the picture, where the file leaves it open."""

    words: tuple[str, ...]
    side: int
    mean: Colours
    std: Colours


FORMS = {
    "birefnet": SalientForm(("birefnet", "rmbg-2"), 1024, _IMAGENET_MEAN, _IMAGENET_STD),
    "isnet": SalientForm(("isnet", "rmbg"), 1024, _HALF, (1.0, 1.0, 1.0)),
    "modnet": SalientForm(("modnet",), 512, _HALF, _HALF),
    "u2net": SalientForm(("u2net", "silueta"), 320, _IMAGENET_MEAN, _IMAGENET_STD),
}
"""By the name that `FILE.onnx:FORM` gives; a file's own name is searched for the words in this order."""
USUAL_FORM = "u2net"
"""Of a file whose name tells nothing."""


def split_form(given: str | os.PathLike[str]) -> tuple[Path, str]:
    """``FILE`` or ``FILE:FORM`` as the file and the form that it says or that its name tells; else U²-Net's."""
    path = path_of("segmenter", given)
    before, _, form = os.fspath(path).rpartition(":")
    if before and form in FORMS and not is_regular_file(path):
        return Path(before), form
    name = path.name.lower()
    return path, next(
        (form for form, known in FORMS.items() if any(word in name for word in known.words)), USUAL_FORM
    )


@dataclass(frozen=True)
class SalientModel:
    """An open model; `open_salient` makes one. given, made: names of its input and first output.

    form: how it is fed. size: height and width of its picture.
    """

    path: Path
    form: str
    size: tuple[int, int]
    given: str
    made: str
    session: Any

    def saliency(self, rgb: Image.Image) -> NDArray[np.float32]:
        """What the model makes of a picture, 0 to 1, of the model's size [h, w]. Raises: SettingsError."""
        known = FORMS[self.form]
        return as_probability(self.run(fed_picture(rgb, self.size, known.mean, known.std)))

    def run(self, colours: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output [h, w] of normalised colours [1, 3, h, w]. Raises: SettingsError."""
        try:
            found = np.asarray(self.session.run([self.made], {self.given: colours})[0], np.float32)
        except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
            raise SettingsError(f"{self.path} fails on a picture: {first_line(error)}") from error
        if found.ndim != 4 or found.size != found.shape[-1] * found.shape[-2]:
            raise SettingsError(
                f"{self.path}: a first output [1, 1, h, w] is expected, received {list(found.shape)}"
            )
        plane: NDArray[np.float32] = found[0, 0]
        finite = plane[np.isfinite(plane)]
        if finite.size and finite.min() >= 0 and finite.max() > _MOST_LOGIT:
            raise SettingsError(
                f"{self.path}: a mask from 0 to 1, or logits, is expected, received {finite.min():g} to "
                f"{finite.max():g}; scale it inside the model"
            )
        return plane

    def find_subject(self, rgb: Image.Image) -> Image.Image | None:
        """The mask "L" of a picture's subject; None where there is none, or everything is. Raises: SettingsError."""
        return subject_of(self.saliency(rgb), rgb.size)

    def find_mask(self, rgb: Image.Image) -> Image.Image:
        """The same, whatever it holds."""
        return enlarged(self.saliency(rgb), rgb.size)


def open_salient(given: str | os.PathLike[str], threads: int | None = None) -> SalientModel:
    """Check and open a model: ``FILE.onnx`` or ``FILE.onnx:FORM``. threads: as `Pipeline.load`.

    Raises: SettingsError in one line for a file that is absent, no ONNX graph, holds what no graph of a bundle may or
    weights in other files, or has other inputs and outputs.
    """
    import onnxruntime

    path, form = split_form(given)
    _check_file(path, FORMS[form].side)
    try:
        session = onnxruntime.InferenceSession(
            utf8_path(path), session_options("speed", threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # as above
        raise SettingsError(f"{path}: an ONNX model is expected ({first_line(error)})") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [list(place.shape) for place in inputs]
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not _is_picture(shapes[0]):
        raise SettingsError(
            f"{path}: one float32 input [1, 3, h, w] is expected, received {shapes} {inputs[0].type if inputs else ''}"
        )
    shape = list(outputs[0].shape) if outputs else []
    if len(shape) != 4 or any(isinstance(side, int) and side not in (1, -1) for side in shape[:2]):
        raise SettingsError(f"{path}: a first output [1, 1, h, w] is expected, received {shape}")
    side = FORMS[form].side
    height, width = (found if isinstance(found, int) and found > 0 else side for found in shapes[0][2:])
    return SalientModel(path, form, (height, width), inputs[0].name, outputs[0].name, session)


def chosen_segmenter(
    given: str | os.PathLike[str] | None, own: Segment | None, threads: int | None
) -> tuple[Segment | None, str]:
    """What finds subjects, a given model or else the bundle's own, and what to call it. Raises: SettingsError."""
    if given is None:
        return own, OWN_SEGMENTER
    model = open_salient(given, threads)
    return model.find_subject, f"the given segmenter, fed as {model.form}"


def as_probability(saliency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Saliency [h, w] as 0 to 1: as it is where it keeps to that, else as logits.

    Values that are not finite count as background.
    """
    clean = np.nan_to_num(saliency, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if is_probability(saliency):
        return np.clip(np.where(np.isfinite(clean), clean, 0), 0, 1).astype(np.float32)
    return (1 / (1 + np.exp(-np.clip(clean, -_MOST_LOGIT, _MOST_LOGIT)))).astype(np.float32)


def is_probability(saliency: NDArray[np.float32]) -> bool:
    """Whether what a model gives keeps to 0 to 1, and so needs no sigmoid."""
    finite = saliency[np.isfinite(saliency)]
    return bool(finite.size and finite.min() >= -1e-3 and finite.max() <= 1 + 1e-3)


def _is_picture(shape: list[Any]) -> bool:
    """[1, 3, h, w]; what is no number, or one below 0, is left open."""
    most = (1, 3, _MOST_SIDE, _MOST_SIDE)
    fits = [
        not isinstance(side, int) or side < 0 or 1 <= side <= limit
        for side, limit in zip(shape, most, strict=False)
    ]
    return len(shape) == 4 and shape[1] == 3 and all(fits)


def _check_file(path: Path, side: int) -> None:
    """What a bundle's graphs are held to, of a file that brings its weights inside.

    side: of the picture, where the file leaves it open. Raises: SettingsError.
    """
    if not is_regular_file(path):
        raise SettingsError(
            f"no salient-object model at {str(path)!r}; put one as ONNX there, such as u2net.onnx or "
            f"isnet-general-use.onnx from the releases of danielgatis/rembg (FILE or FILE:FORM, {', '.join(FORMS)})"
        )
    try:
        _check_graph(path, side)
    except (BundleError, OSError, ValueError) as error:
        reason = error if error.__cause__ is None else error.__cause__
        raise SettingsError(
            f"{path}: an ONNX model is expected, of what a bundle's graphs may hold ({first_line(reason)})"
        ) from error


def _check_graph(path: Path, side: int) -> None:
    """Raises: BundleError, OSError, ValueError."""
    graph, held = read_graph(path), path.stat().st_size
    for tensor in graph.tensors:
        if tensor.location is not None:
            raise BundleError("weights inside the file are expected, received some in another file")
        check_location(tensor, path.parent, set())
        if not is_finite(tensor, path.parent):
            raise BundleError(f"finite weights are expected, received NaN or infinite ones in {tensor.name}")
    check_needed(sum(tensor.size for tensor in graph.tensors), held)
    given = {name: shape for name, shape in graph.inputs.items() if name not in graph.stored}
    if [len(shape) for shape in given.values()] != [4] or not all(map(_is_picture, given.values())):
        raise BundleError(f"one float32 input [1, 3, h, w] is expected, received {list(given.values())}")
    usual = (1, 3, side, side)
    shapes = {
        name: tuple(given or known for given, known in zip(shape, usual, strict=True))
        for name, shape in given.items()
    }
    check_sizes(
        graph, shapes, picture_limits(max(side**2, *(prod(shape[2:]) for shape in shapes.values()))), held
    )
