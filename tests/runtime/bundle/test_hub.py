"""Bundles of the Hub: fetched into its cache of links, drawn from there, pushed with a card."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import REVISION, asked, files_of, hub_stand_in

from dreamcache.runtime import BundleError, Pipeline
from dreamcache.runtime.bundle.contract import CONTRACT_NAME
from dreamcache.runtime.bundle.folder import MINI_FOLDER, open_bundle
from dreamcache.runtime.bundle.hub import is_hub_id

pytest.importorskip("huggingface_hub")
COMMAND = [sys.executable, "-m", "dreamcache.runtime.cli"]


@pytest.fixture(scope="module", name="repositories")
def _repositories() -> dict[str, dict[str, bytes]]:
    return {"someone/mini": files_of(MINI_FOLDER)}


@pytest.fixture(scope="module", name="environment")
def _environment(
    repositories: dict[str, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    with hub_stand_in(repositories) as address:
        home = tmp_path_factory.mktemp("hub")
        yield {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_made_up",
            "HF_HUB_DISABLE_XET": "1",
        }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_a_bundle_is_fetched_once_and_opens_again_without_the_hub(environment: dict[str, str]) -> None:
    done = run(environment, "inspect", "someone/mini")
    assert done.returncode == 0, done.stderr
    assert "128 x 128 px" in done.stdout
    offline = {**environment, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert run(offline, "verify", "someone/mini").returncode == 0
    absent = run(offline, "inspect", "someone/other")
    assert absent.returncode == 1
    assert "cannot be fetched from the Hub" in absent.stderr
    assert len(absent.stderr.strip().splitlines()) == 1


def test_nothing_but_the_files_of_a_bundle_is_downloaded(
    environment: dict[str, str], repositories: dict[str, dict[str, bytes]]
) -> None:
    """A base of many gigabytes is refused by its first file, and what lies beside a bundle stays where it is."""
    repositories["someone/base"] = {"model_index.json": b"{}", "unet/model.safetensors": bytes(1 << 20)}
    repositories["someone/more"] = {**files_of(MINI_FOLDER), "videos/of-us.mp4": bytes(1 << 20)}
    asked.clear()
    done = run(environment, "inspect", "someone/base")
    assert done.returncode == 1
    assert (
        "on the Hub has no dreamcache.json; a bundle made by `dreamcache export` is expected" in done.stderr
    )
    assert len(done.stderr.strip().splitlines()) == 1
    assert set(asked) == {CONTRACT_NAME}
    assert run(environment, "inspect", "someone/more").returncode == 0
    assert "unet/model.onnx" in asked
    assert "videos/of-us.mp4" not in asked


def test_the_caches_folder_of_links_is_a_bundle_and_a_link_elsewhere_is_refused(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--mini"
    snapshot = repository / "snapshots" / REVISION
    (repository / "blobs").mkdir(parents=True)
    for number, (name, data) in enumerate(files_of(MINI_FOLDER).items()):
        (repository / "blobs" / str(number)).write_bytes(data)
        place = snapshot / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(repository / "blobs" / str(number), place.parent))
    drawn = Pipeline.load(snapshot, profile="memory").generate("a toy duck in space", steps=1, seed=1)
    assert drawn == Pipeline.load("mini", profile="memory").generate("a toy duck in space", steps=1, seed=1)
    foreign = tmp_path / "secret.onnx"
    foreign.write_bytes((MINI_FOLDER / "unet/model.onnx").read_bytes())
    (snapshot / "unet/model.onnx").unlink()
    (snapshot / "unet/model.onnx").symlink_to(foreign)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(snapshot)
    contract = snapshot / CONTRACT_NAME
    for elsewhere in (tmp_path / "dreamcache.json", contract):
        contract.unlink()
        contract.symlink_to(elsewhere)
        with pytest.raises(BundleError, match=r"dreamcache\.json is a link out of the bundle"):
            open_bundle(snapshot)


def test_push_writes_every_file_and_a_card_that_says_what_it_is(
    environment: dict[str, str], repositories: dict[str, dict[str, bytes]]
) -> None:
    done = run(environment, "push", "mini", "someone/new", "--license", "apache-2.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("someone/new")
    written = repositories["someone/new"]
    card = written.pop("README.md").decode()
    assert written == repositories["someone/mini"]
    assert "license: apache-2.0\n" in card
    assert 'Pipeline.load("someone/new")' in card
    assert "| precision | int8 |" in card
    assert "effect of the reference" in card


def test_what_is_no_repository_is_refused(environment: dict[str, str]) -> None:
    done = run(environment, "push", "mini", "someone")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert [is_hub_id(text) for text in ("a/b", "a/b@v1", "a/../b", "a/b/c", "mini", "/a/b", "./a", "a/b@")] == [
        True, True, False, False, False, False, False, False,
    ]  # fmt: skip
