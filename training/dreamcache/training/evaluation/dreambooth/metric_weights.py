"""Where the metrics' models lie: a local folder, or an id of the Hub; safetensors weights alone.

`facebook/dino-vits16` and `openai/clip-vit-base-patch32` hold a pickle (`pytorch_model.bin`) on their main branches,
which can run code when it is opened and so never is: `how_to_get` says how to convert it once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamcache.models.bases.files import pickles_in
from dreamcache.models.bases.hub import fetch_files, is_model_id
from dreamcache.runtime.files import sha256_file
from dreamcache.training.errors import MetricModelError

Metric = Literal["dino", "clip"]

_WANTED = ["*.json", "*.txt", "*.safetensors"]


@dataclass(frozen=True)
class MetricKind:
    """What a metric asks for.

    title: as papers write it. model_type: in config.json. published: its architecture there. defaults: what an entry
    means that config.json leaves out. files: beside the weights. convert: Python that writes the folder.
    """

    title: str
    model_id: str
    model_type: str
    published: dict[str, int]
    defaults: dict[str, int]
    files: tuple[str, ...]
    convert: str


KINDS: dict[Metric, MetricKind] = {
    "dino": MetricKind(
        title="DINO ViT-S/16",
        model_id="facebook/dino-vits16",
        model_type="vit",
        published={"hidden_size": 384, "num_hidden_layers": 12, "patch_size": 16, "image_size": 224},
        defaults={"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16, "image_size": 224},
        files=("config.json",),
        convert="from transformers import ViTModel as M; M.from_pretrained('{id}').save_pretrained('{folder}')",
    ),
    "clip": MetricKind(
        title="CLIP ViT-B/32",
        model_id="openai/clip-vit-base-patch32",
        model_type="clip",
        published={"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 32, "image_size": 224},
        defaults={"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 32, "image_size": 224},
        files=("config.json", "preprocessor_config.json", "vocab.json", "merges.txt"),
        convert=(
            "from transformers import CLIPModel as M, CLIPProcessor as P; "
            "[k.from_pretrained('{id}').save_pretrained('{folder}') for k in (M, P)]"
        ),
    ),
}


@dataclass(frozen=True)
class MetricWeights:
    """A folder that can be loaded. source: as the user named it. sha256: of its weights, joined. as_published: whether
    the architecture is the one of the published scores."""

    metric: Metric
    folder: Path
    source: str
    sha256: str
    as_published: bool

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values: what scores depend on."""
        return {"source": self.source, "sha256": self.sha256, "as_published": self.as_published}


def how_to_get(metric: Metric) -> str:
    """The sentence that says what to fetch and where to put it."""
    kind = KINDS[metric]
    folder = kind.model_id.partition("/")[2]
    convert = kind.convert.format(id=kind.model_id, folder=folder)
    return f'on a machine where you trust it, run: python -c "{convert}"; then give --{metric} {folder}'


def find_weights(metric: Metric, source: str) -> MetricWeights:
    """The weights of a metric, checked without loading them.

    Args:
        metric: which.
        source: a folder, or `owner/name` or `owner/name@revision` of the Hub.

    Raises:
        MetricModelError: they are absent, pickles, incomplete or of another kind; says what to fetch and where to
            put it.
    """
    kind, folder = KINDS[metric], Path(source)
    if not folder.is_dir():
        folder = _fetch(metric, source)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = pickles_in(folder)
        held = f"{pickles[0].name}, a pickle, which is never opened" if pickles else "no weights"
        raise MetricModelError(
            f"{kind.title}: {source} holds {held}; to get safetensors, {how_to_get(metric)}"
        )
    # A tokenizer that transformers 5 saved is one file in place of two.
    whole = {"vocab.json", "merges.txt"} if (folder / "tokenizer.json").is_file() else set()
    missing = [name for name in kind.files if name not in whole and not (folder / name).is_file()]
    if missing:
        raise MetricModelError(
            f"{kind.title}: {source} lacks {', '.join(missing)}; to get the whole folder, {how_to_get(metric)}"
        )
    config = _read_config(folder / "config.json", kind)
    vision = {**kind.defaults, **config.get("vision_config", config)}
    return MetricWeights(
        metric=metric,
        folder=folder,
        source=source,
        sha256="+".join(sha256_file(path) for path in weights),
        as_published=all(vision[name] == value for name, value in kind.published.items()),
    )


def _fetch(metric: Metric, source: str) -> Path:
    kind = KINDS[metric]
    if not is_model_id(source):
        raise MetricModelError(
            f"{kind.title}: {source} is neither a folder nor an id of the Hub such as {kind.model_id}; "
            f"to get the weights, {how_to_get(metric)}"
        )
    mend = f"check the id and the connection, or, {how_to_get(metric)}"
    try:
        folder = fetch_files(source, mend, allow_patterns=_WANTED)
    except FileNotFoundError as error:
        raise MetricModelError(f"{kind.title}: {error}") from error
    if not any(folder.glob("*.safetensors")):
        raise MetricModelError(
            f"{kind.title}: {source} on the Hub has no safetensors weights, and pickles are never opened; "
            f"{how_to_get(metric)}"
        )
    return folder


def _read_config(path: Path, kind: MetricKind) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetricModelError(f"{path} is not JSON ({error}); fetch {kind.model_id} again") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != kind.model_type:
        raise MetricModelError(
            f"{kind.title}: a {kind.model_type} model is expected in {path.parent}, received {found}; "
            f"give the folder of {kind.model_id}"
        )
    return dict(config)
