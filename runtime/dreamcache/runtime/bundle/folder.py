"""A bundle on disk, opened and checked.

Nothing of a bundle is used before its contract has been read, every path has been resolved inside its
folder, and the size and SHA-256 of every file have been compared with the contract's table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

from dreamcache.runtime.arguments import check_functions, path_of
from dreamcache.runtime.bundle.contract import (
    CONTRACT_NAME,
    MAX_CONTRACT_BYTES,
    Contract,
    FileRecord,
    GraphSpec,
    parse_contract,
)
from dreamcache.runtime.bundle.graph_files.contents import read_graph, stored_tensors
from dreamcache.runtime.bundle.graph_files.sizes.limits import (
    bundle_limits,
    check_sizes,
    longest_shapes,
    picture_limits,
)
from dreamcache.runtime.bundle.graph_files.tensors import (
    StoredTensor,
    check_location,
    check_needed,
    is_finite,
)
from dreamcache.runtime.bundle.graphs import SegmenterSpec
from dreamcache.runtime.bundle.hub import fetch_bundle, holds, is_hub_id
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.progress import Progress
from dreamcache.runtime.untrusted import read_bounded, utf8_path

MINI = "mini"
MINI_FOLDER = Path(__file__).parents[1] / MINI
"""The shipped miniature in 8 bits, inside the runner's package."""


@dataclass(frozen=True)
class Bundle:
    """The folder and its contract. `open_bundle` makes one; every path it gives lies inside the folder."""

    folder: Path
    contract: Contract

    def path(self, relative: str) -> Path:
        """Path of a listed file.

        Raises: BundleError when it is missing, not a regular file, or a link that leaves the bundle.
        """
        place = self.folder / relative
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise BundleError(
                f"{relative} is missing from {self.folder}; export or copy the bundle again"
            ) from error
        if not holds(self.folder, real):
            raise BundleError(f"{relative} leads out of the bundle to {real}; a bundle holds its own files")
        if not real.is_file():
            raise BundleError(f"{relative} is not a regular file; export or copy the bundle again")
        return place

    def total_bytes(self) -> int:
        """Total size of the listed files."""
        return sum(record.size for record in self.contract.files.values())


def open_bundle(
    path: str | os.PathLike[str], check_hashes: bool = True, progress: Progress | None = None
) -> Bundle:
    """Read the contract and check every file against it.

    check_hashes: False compares the sizes only, for a bundle that was checked when it was installed.
    Raises: BundleError naming the first file that is missing, truncated, edited or swapped.
    """
    check_functions(progress=progress)
    bundle = open_contract(path)
    check_files(bundle, check_hashes, progress)
    for graph in bundle.contract.graphs.by_name().values():
        check_storage(bundle, graph)
    return bundle


def check_files(bundle: Bundle, check_hashes: bool = True, progress: Progress | None = None) -> None:
    """Compare every file with its record: all sizes first, which is cheap, then the hashes.

    Raises: BundleError naming the first file that is missing, truncated, edited or swapped.
    """
    for name, record in bundle.contract.files.items():
        check_size(bundle, name, record)
    if not check_hashes:
        return
    done, total = 0, bundle.total_bytes()

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for name, record in bundle.contract.files.items():
        check_hash(bundle, name, record, advance)


def open_contract(path: str | os.PathLike[str]) -> Bundle:
    """Read the contract alone; no other file is looked at.

    Raises: BundleError when there is no contract or it cannot be used.
    """
    folder = _folder(path)
    if not _stands(folder, folders=True):
        raise BundleError(
            f"{folder} is not a folder; a bundle made by `dreamcache export` is expected, "
            f"owner/name on the Hub, or `{MINI}`, which comes with the runner"
        )
    try:
        utf8_path(folder.resolve())
    except ValueError as error:
        raise BundleError(str(error)) from error
    contract_path = folder / CONTRACT_NAME
    if not holds(folder, contract_path):
        raise BundleError(f"{CONTRACT_NAME} is a link out of the bundle; a bundle holds its own files")
    try:
        text = read_bounded(contract_path, MAX_CONTRACT_BYTES)
    except ValueError as error:
        raise BundleError(f"{CONTRACT_NAME}: {error}; is this a DreamCache bundle?") from error
    except OSError as error:
        raise BundleError(
            f"{folder} has no readable {CONTRACT_NAME}; a bundle made by `dreamcache export` is expected"
        ) from error
    return Bundle(folder.resolve(), parse_contract(text))


def _folder(path: str | os.PathLike[str]) -> Path:
    """Of a bundle by its path or name; a folder of yours comes before `mini` and the Hub."""
    folder = path_of("bundle", path)
    name = folder.as_posix()
    if _stands(folder):
        return folder
    if name == MINI:
        return MINI_FOLDER
    return fetch_bundle(name) if is_hub_id(name) else folder


def _stands(path: Path, folders: bool = False) -> bool:
    """Whether something, or a folder, is there; what the system does not answer (a name too long) is nothing."""
    try:
        return path.is_dir() if folders else path.exists()
    except OSError:
        return False


def check_size(bundle: Bundle, name: str, record: FileRecord) -> None:
    """Compare one file's size with the contract. Raises: BundleError."""
    size = bundle.path(name).stat().st_size
    if size != record.size:
        raise BundleError(
            f"{name}: {record.size} bytes are expected, received {size}; export or copy it again"
        )


def check_hash(
    bundle: Bundle, name: str, record: FileRecord, progress: Callable[[int], None] | None = None
) -> None:
    """Compare one file's SHA-256 with the contract. Raises: BundleError."""
    received = sha256_file(bundle.path(name), progress)
    if received != record.sha256:
        raise BundleError(
            f"{name} was changed: SHA-256 {record.sha256[:12]}… is expected, received {received[:12]}…; "
            "export or copy it again"
        )


def check_storage(bundle: Bundle, graph: GraphSpec) -> None:
    """Both forms of a graph consist of what they may (`graph_files.contents`), of tensors inside the declared files.

    What a form makes of them, or of its inputs, keeps to the sizes that the contract states (`graph_files.sizes`).
    Raises: BundleError.
    """
    if isinstance(graph, SegmenterSpec):
        limits = picture_limits(prod(graph.inputs[0].shape[2:]))
    else:
        limits = bundle_limits(bundle.contract.architecture)
    for file in graph.files:
        form = read_graph(bundle.path(file))
        needed = check_tensors(form.tensors, bundle, graph)
        held = sum(bundle.contract.files[name].size for name in (file, *graph.weights))
        try:
            check_needed(needed, held)
            check_sizes(form, longest_shapes(graph.inputs), limits, held)
        except ValueError as error:
            raise BundleError(
                f"{file} is not a graph that a bundle may hold ({error}); export it again"
            ) from error


def check_tensors(tensors: Iterable[StoredTensor], bundle: Bundle, graph: GraphSpec) -> int:
    """Every external tensor lies in a declared weights file and is as long as its shape; the bytes of all.

    The tensors may be those of another form of the graph, which refers to the same weights files.
    Raises: BundleError.
    """
    folder = bundle.path(graph.file).parent
    allowed = _weights_in_its_folder(graph)
    needed = 0
    for tensor in tensors:
        check_location(tensor, folder, allowed)
        needed += tensor.size
    return needed


def non_finite_weights(bundle: Bundle, graph: GraphSpec) -> Iterator[str]:
    """Names of the stored tensors that hold a NaN or an infinity. Raises: BundleError as `check_storage`."""
    folder = bundle.path(graph.file).parent
    allowed = _weights_in_its_folder(graph)
    for tensor in (tensor for file in graph.files for tensor in stored_tensors(bundle.path(file))):
        check_location(tensor, folder, allowed)
        if not is_finite(tensor, folder):
            yield tensor.name


def _weights_in_its_folder(graph: GraphSpec) -> set[str]:
    """The declared weights files as the ONNX file names them: relative to its own folder."""
    folder = PurePosixPath(graph.file).parent
    return {
        str(PurePosixPath(path).relative_to(folder))
        for path in graph.weights
        if PurePosixPath(path).is_relative_to(folder)
    }
