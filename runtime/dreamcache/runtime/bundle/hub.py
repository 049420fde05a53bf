"""Bundles on the Hugging Face Hub: `owner/name`, or `owner/name@revision`, to a folder of its cache."""

from __future__ import annotations

import re
from glob import escape
from pathlib import Path
from typing import Any

from dreamcache.runtime.bundle.contract import CONTRACT_NAME, MAX_CONTRACT_BYTES, parse_contract
from dreamcache.runtime.errors import BundleError, first_line
from dreamcache.runtime.untrusted import read_bounded

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_id(path: str) -> bool:
    """Whether a text has the form owner/name or owner/name@revision; a folder of that name comes first."""
    return _ID.fullmatch(path) is not None and ".." not in path


def fetch_bundle(hub_id: str) -> Path:
    """The folder of a bundle, from the Hub or its cache; a second time nothing is downloaded but what changed.

    The contract comes first, then the files that it lists: a repository of something else is not downloaded.
    Raises: BundleError without `huggingface_hub`, and where the Hub cannot be reached or has no such bundle.
    """
    hub: Any
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError as error:
        raise BundleError(
            f"{hub_id} is no folder, and huggingface_hub, which fetches bundles, is not installed; "
            'install it with: pip install "dreamcache[hub]"'
        ) from error
    name, _, revision = hub_id.partition("@")
    # Untrusted like any folder: nothing that it holds is run, and `open_bundle` checks every file.
    try:
        contract = Path(hub.hf_hub_download(name, CONTRACT_NAME, revision=revision or None))
        wanted = parse_contract(read_bounded(contract, MAX_CONTRACT_BYTES)).files
        return Path(
            hub.snapshot_download(
                name,
                revision=contract.parent.name,  # of the contract, whatever is pushed meanwhile
                allow_patterns=[escape(file) for file in (CONTRACT_NAME, "README.md", *wanted)],
            )
        )
    except BundleError:
        raise
    except Exception as error:  # the Hub's errors share no base: network, licence, name, offline
        if type(error).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
            raise BundleError(
                f"{hub_id} on the Hub has no {CONTRACT_NAME}; a bundle made by `dreamcache export` is expected, "
                "which a base is not"
            ) from error
        raise BundleError(
            f"{hub_id} is no folder, and cannot be fetched from the Hub ({first_line(error)}); "
            "check the name and the connection"
        ) from error


def holds(folder: Path, place: Path) -> bool:
    """Whether a bundle's folder holds a file, wherever links lead.

    A folder of the Hub's cache holds links to files beside it. The layout is huggingface_hub's:
    models--OWNER--NAME/snapshots/REVISION and models--OWNER--NAME/blobs.
    """
    try:
        folder, place = folder.resolve(), place.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return False
    if place.is_relative_to(folder):
        return True
    snapshots = folder.parent
    cached = snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    return cached and place.parent == snapshots.parent / "blobs"
