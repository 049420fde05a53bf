"""What a browser may fetch: the page, the JavaScript runtime and the files that the contract lists, and no others.

Every address is a key of a table that is made once, so no path is ever built from what a browser asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dreamcache.runtime.bundle.contract import CONTRACT_NAME, cache_tensors
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.bundle.graphs import Graphs
from dreamcache.runtime.bundle.parity import (
    CONDITION_TOLERANCE,
    MAX_DB,
    MIN_PSNR_DB_BY_PRECISION,
)
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.sampling.device_check import least_device_db
from dreamcache.runtime.sampling.prompts import PromptTokenizer
from dreamcache.runtime.web.desk import MAX_PHOTOGRAPH_BYTES

PAGE = Path(__file__).parent / "page"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".json": "application/json",
}


@dataclass(frozen=True)
class Offer:
    """One file that may be fetched. stamp: size and time of change when it was offered; None: may change freely."""

    path: Path
    kind: str
    stamp: tuple[int, int] | None = None

    def changed(self) -> bool:
        """Whether it is not the file that was offered any more."""
        return self.stamp is not None and _stamp(self.path) != self.stamp


@dataclass(frozen=True)
class Offers:
    """Files by address. facts: what the page is told of the bundle, tokenizer: its rules, both as JSON."""

    files: Mapping[str, Offer]
    facts: bytes
    tokenizer: bytes


def make_offers(bundle: Bundle, name: str, runtime: Mapping[str, Path], page: Path = PAGE) -> Offers:
    """What is offered of a bundle that was checked.

    name: of the bundle, for people. runtime: files of the JavaScript runtime by name.
    Raises: BundleError when a file has gone, or for a bundle that the page cannot run.
    """
    files = {"": _offer(page / "index.html")}
    for path in sorted(page.rglob("*")):
        if path.is_file() and path.suffix in _TYPES:
            files[f"page/{path.relative_to(page).as_posix()}"] = _offer(path)
    files |= {f"runtime/{file}": _offer(path) for file, path in runtime.items()}
    for file in bundle.contract.files:
        path = bundle.path(file)
        files[f"bundle/{file}"] = Offer(path, "application/octet-stream", _stamp(path))
    return Offers(
        files, json.dumps(page_facts(bundle, name)).encode(), PromptTokenizer.of(bundle).as_json().encode()
    )


def _offer(path: Path) -> Offer:
    return Offer(path, _TYPES.get(path.suffix, "application/octet-stream"))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def page_facts(bundle: Bundle, name: str) -> dict[str, Any]:
    """The complete contract, and what follows from it, so that the page derives nothing of its own."""
    from importlib.metadata import version

    contract = bundle.contract
    if contract.text_2 is not None:
        raise BundleError(
            "a bundle with one text encoder is expected, received one of SDXL, which the page cannot run"
        )
    graphs = _with_plain_decoder(contract.graphs)
    return {
        "name": name,
        "version": version("dreamcache"),
        # In the words of the file: `graphs`, where Python says `onnx`; the decoder's strips by name too.
        "contract": _complete(contract) | {"graphs": _complete(graphs) | _complete(graphs.by_name())},
        "contract_sha256": hashlib.sha256((bundle.folder / CONTRACT_NAME).read_bytes()).hexdigest(),
        "fingerprint": contract.fingerprints.subject(),
        "cache_tensors": _complete(cache_tensors(contract.architecture)),
        "reference_side": contract.architecture.reference_side,
        "photograph_bytes": MAX_PHOTOGRAPH_BYTES,
        "gates": {
            "least_db": MIN_PSNR_DB_BY_PRECISION.get(contract.precision),
            "condition_tolerance": CONDITION_TOLERANCE,
            "max_db": MAX_DB,
            "device_db": least_device_db(contract.precision),
        },
    }


def _with_plain_decoder(graphs: Graphs) -> Graphs:
    """The decoder's graphs in their portable form, where there is one.

    In WASM the fused attention of ONNX Runtime Web 1.30 overflows at 4,096 tokens of the one head that a decoder has.
    """
    found = {"vae_decoder": graphs.vae_decoder, "vae_decoder_head": graphs.vae_decoder_head}
    plain = {
        name: spec.model_copy(update={"file": spec.portable, "portable": None})
        for name, spec in found.items()
        if spec is not None and spec.portable is not None
    }
    return graphs.model_copy(update=plain)


def _complete(part: Any) -> Any:
    """Plain values of a part of the contract, with every default written out."""
    if isinstance(part, BaseModel):
        return {name: _complete(getattr(part, name)) for name in type(part).model_fields}
    if isinstance(part, Mapping):
        return {key: _complete(value) for key, value in part.items()}
    if isinstance(part, tuple):
        return [_complete(value) for value in part]
    return part
