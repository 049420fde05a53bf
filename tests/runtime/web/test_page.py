"""The page in a real browser: what it draws is Python's picture, its files are Python's, and what people meet."""

from __future__ import annotations

import http.server
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from page_files import draw, give_file, press, serving, settle, visit
from tiny_bundle import seal
from tiny_golden import add_golden

from dreamcache.benchmarks.record import read_record
from dreamcache.runtime.bundle.folder import MINI_FOLDER
from dreamcache.runtime.bundle.golden import CHECK_NAME, save_golden
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.web.certificate import temporary_context
from dreamcache.runtime.web.server import PageServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright")

PROMPT = "a toy on the beach"
_DAMAGE = """async (name) => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("dreamcache");
    const file = await (await folder.getFileHandle(name)).createWritable({ keepExistingData: true });
    await file.write(new Uint8Array([1, 2, 3]));
    await file.close();
}"""
Served = tuple[Pipeline, PageServer, Path]


@pytest.fixture(scope="module")
def served(
    pristine: Path, javascript: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    records = tmp_path_factory.mktemp("records")
    with serving(pristine, javascript, records, temporary_context(["127.0.0.1"])) as (pipeline, server):
        yield pipeline, server, records


@pytest.fixture(scope="module")
def page(chromium: Browser, served: Served) -> Page:
    return visit(chromium, served[1])


def test_the_picture_of_a_photograph_is_pythons(page: Page, served: Served, toy: Path) -> None:
    pipeline = served[0]
    give_file(page, "photograph", toy)
    assert page.inner_text("#status") == "Ready."
    subject = pipeline.cache(toy)
    expected = np.asarray(pipeline.generate(PROMPT, subject, steps=4, seed=7))
    received = draw(page, PROMPT, steps=4, seed=7)
    assert received.shape == expected.shape == (16, 16, 3)
    apart = np.abs(received.astype(int) - expected)
    assert (apart <= 1).mean() >= 0.999
    assert apart.max() <= 2
    plain = expected
    # another seed and another sampler are other pictures
    assert (np.abs(draw(page, PROMPT, steps=4, seed=8).astype(int) - expected) > 1).mean() > 0.5
    page.select_option("#scheduler", "dpmpp_2m_sde")
    expected = np.asarray(pipeline.generate(PROMPT, subject, steps=4, seed=7, scheduler="dpmpp_2m_sde"))
    received = draw(page, PROMPT, steps=4, seed=7)
    assert (np.abs(received.astype(int) - expected) <= 1).mean() >= 0.999
    page.select_option("#scheduler", pipeline.contract.guidance.scheduler)
    # the shallow graph at every second step
    cached = np.asarray(pipeline.generate(PROMPT, subject, steps=4, seed=7, step_cache=2))
    page.select_option("#step-cache", "2")
    received = draw(page, PROMPT, steps=4, seed=7)
    assert (np.abs(received.astype(int) - cached) <= 1).mean() >= 0.999
    assert (np.abs(received.astype(int) - plain) > 1).mean() > 0.02
    page.select_option("#step-cache", "1")
    with page.expect_download() as download:
        press(page, "save")
    assert download.value.suggested_filename.endswith(".png")


def test_a_subject_goes_both_ways(page: Page, served: Served, toy: Path, tmp_path: Path) -> None:
    pipeline = served[0]
    give_file(page, "photograph", toy)
    with page.expect_download() as download:
        press(page, "keep-subject")
    kept = tmp_path / download.value.suggested_filename
    download.value.save_as(kept)
    ours = pipeline.cache(toy)
    theirs = pipeline.load_subject(kept)
    assert (theirs.background, theirs.timestep) == (ours.background, ours.timestep)
    for name, values in ours.tensors.items():
        np.testing.assert_allclose(theirs.tensors[name], values, atol=1e-5 * np.abs(values).max())
    press(page, "toy")
    own = ours.save(tmp_path / "own.subject.safetensors")
    give_file(page, "open-subject", own)
    assert page.inner_text("#background") == "Subject of own.subject.safetensors."
    expected = np.asarray(pipeline.generate(PROMPT, ours, steps=2, seed=3))
    assert (np.abs(draw(page, PROMPT, steps=2, seed=3).astype(int) - expected) <= 1).mean() >= 0.999
    # cut, and of another bundle
    whole = own.read_bytes()
    other = whole.replace(ours.fingerprint.encode(), ours.fingerprint[::-1].encode())
    for text, why in ((whole[:-8], "is cut"), (other, "another bundle"), (b"x", "no header")):
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(text)
        give_file(page, "open-subject", broken)
        assert why in page.inner_text("#trouble")


def test_what_was_measured_comes_back_as_a_record(page: Page, served: Served, tmp_path: Path) -> None:
    from dreamcache.benchmarks.command import bench_command

    press(page, "toy")
    press(page, "quick")
    (kept,) = served[2].iterdir()
    assert page.inner_text("#kept") == f"Kept at your desk as {kept.name}."
    record = read_record(kept)
    assert record.quick
    assert record.conditions.providers == ("wasm",)
    assert record.conditions.threads is not None
    assert record.conditions.unet_calls == 4 * 3
    assert len(record.samples["step"]) == record.spread["step"].n == 12
    assert record.metrics.step_ms_p50 == pytest.approx(float(np.median(record.samples["step"])))
    assert record.metrics.e2e_ms_p50 is not None
    assert record.metrics.e2e_ms_p50 > 0
    assert record.metrics.cold_load_ms is record.metrics.peak_private_mb is None
    assert set(record.absent) >= {"cold_load_ms", "peak_private_mb", "step_ms_p90"}
    assert record.bundle.fingerprints == served[0].contract.fingerprints.model_dump()
    table = tmp_path / "devices.csv"
    bench_command([kept, kept], merge=True, csv=table)
    assert [line.count("wasm") for line in table.read_text().splitlines()] == [0, 1, 1]
    kept.unlink()


def test_a_page_that_was_killed_says_so_and_leaves_a_record(page: Page, served: Served) -> None:
    state = {"stage": "denoiser", "engine": {"provider": "wasm", "threads": 1}}
    state["contract"] = json.loads(served[1].offers.facts)["contract_sha256"]
    page.evaluate("state => localStorage.setItem('dreamcache-stage', JSON.stringify(state))", state)
    page.reload()
    settle(page)
    assert "killed in denoiser" in page.inner_text("#advice")
    (kept,) = served[2].iterdir()
    assert "killed in denoiser" in read_record(kept).absent["e2e_ms_p50"]
    kept.unlink()
    assert page.evaluate("localStorage.length") == 0
    page.click("summary")


def test_without_a_secure_context_it_draws_and_says_what_is_missing(
    chromium: Browser, pristine: Path, javascript: dict[str, Path], tmp_path: Path
) -> None:
    with serving(pristine, javascript, tmp_path / "records") as (_, server):
        page = visit(chromium, server, "desk.test")
        assert not page.evaluate("isSecureContext")
        assert page.inner_text("#advice").startswith("Plain http: one thread, no GPU")
        picture = draw(page, PROMPT, steps=2, seed=1)
        assert picture.std() > 1
        # the network goes away: what is loaded goes on, what needs it says so
        page.context.set_offline(True)
        np.testing.assert_array_equal(draw(page, PROMPT, steps=2, seed=1), picture)
        page.click("#toy")
        settle(page)
        assert page.inner_text("#trouble").startswith("The connection to the desk is lost.")
        page.context.close()


def test_a_connection_that_breaks_is_taken_up_again_and_a_changed_file_is_not_used(
    chromium: Browser,
    bundle: Path,
    javascript: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, list[str | None]] = {}
    with serving(bundle, javascript, tmp_path / "records", temporary_context(["127.0.0.1"])) as (_, server):
        handler: Any = server.RequestHandlerClass
        whole = handler._send_file

        def breaking(self: Any, offer: Any) -> None:
            if offer.path.parent.name == "unet":
                ranges = asked.setdefault(offer.path.name, [])
                ranges.append(self.headers.get("Range"))
                # a part, then the connection is gone
                if offer.path.name == "weights.data" and ranges == [None]:
                    self._begin(http.HTTPStatus.OK, offer.kind, offer.path.stat().st_size, {})
                    self.wfile.write(offer.path.read_bytes()[:1000])
                    self.wfile.flush()
                    self.connection.close()
                    self.close_connection = True
                    return
            whole(self, offer)

        monkeypatch.setattr(handler, "_send_file", breaking)
        page = visit(chromium, server)
        assert page.inner_text("#status") == "Ready."
        # what had arrived before the break may be lost with it
        assert asked["weights.data"] in ([None, "bytes=1000-"], [None, None])
        # kept on the device, and checked when it is read: only the damaged file is fetched again
        before = {name: len(ranges) for name, ranges in asked.items()}
        page.evaluate(_DAMAGE, server.desk._pipeline.contract.files["unet/cache.onnx"].sha256)
        page.reload()
        settle(page)
        assert page.inner_text("#status") == "Ready."
        assert {name: len(ranges) for name, ranges in asked.items()} == {**before, "cache.onnx": 2}
        time.sleep(0.01)
        weights = bundle / "unet/weights.data"
        weights.write_bytes(weights.read_bytes()[::-1])
        other = visit(chromium, server)
        assert "the bundle was changed" in other.inner_text("#trouble")
        page.context.close()
        other.context.close()


def test_a_full_storage_is_said_and_the_page_draws_all_the_same(
    chromium: Browser, pristine: Path, javascript: dict[str, Path], tmp_path: Path
) -> None:
    with serving(pristine, javascript, tmp_path, temporary_context(["127.0.0.1"])) as (_, server):
        context = chromium.new_context(ignore_https_errors=True)
        page = context.new_page()
        origin = f"https://127.0.0.1:{server.server_address[1]}"
        quota = {"origin": origin, "quotaSize": 100}
        context.new_cdp_session(page).send("Storage.overrideQuotaForOrigin", quota)
        page.goto(f"{origin}/{server.token}/")
        settle(page)
        assert page.inner_text("#advice").startswith("This browser has no room to keep the model")
        assert "No WebGPU" in page.inner_text("#facts")
        page.click("summary")
        assert draw(page, PROMPT, steps=1, seed=1).std() > 1
        context.close()


def test_the_page_checks_its_device_by_golden_tensors(
    chromium: Browser, bundle: Path, javascript: dict[str, Path], tmp_path: Path
) -> None:
    golden = add_golden(bundle)
    context = temporary_context(["127.0.0.1"])
    with serving(bundle, javascript, tmp_path, context) as (_, server):
        page = visit(chromium, server)
        assert page.inner_text("#verdict") == "Checked: this device computes what PyTorch computed."
        figures = page.locator("#checks b").all_inner_texts()
        assert len(figures) == 7
        assert all(float(figure.removesuffix(" dB")) > 100 for figure in figures[:5])
        assert figures[5:] == ["1.000", "1.000"]
        # each number of threads was timed, and the fastest is remembered
        threads = page.evaluate("localStorage.getItem('dreamcache-threads')")
        assert page.inner_text("#engine") == f"{threads} thread{'s' if threads > '1' else ''}"
        page.reload()
        settle(page)
        assert page.inner_text("#engine").startswith(threads)
        page.context.close()
    # a device that predicts something else
    golden["denoiser/output/prediction"] = 1.5 * golden["denoiser/output/prediction"]
    save_golden(bundle / CHECK_NAME, golden)
    seal(bundle)
    with serving(bundle, javascript, tmp_path, context) as (_, server):
        page = visit(chromium, server)
        assert "NOT right" in page.inner_text("#verdict")
        page.context.close()


def test_the_shipped_miniature_draws(chromium: Browser, javascript: dict[str, Path], tmp_path: Path) -> None:
    with serving(MINI_FOLDER, javascript, tmp_path / "records", temporary_context(["127.0.0.1"])) as (
        _,
        server,
    ):
        page = visit(chromium, server)
        assert page.locator("#engines option").all_inner_texts()[-1] == "Processor, 1 thread"
        picture = draw(page, "a toy robot on the beach", steps=2, seed=1)
        assert picture.shape == (128, 128, 3)
        assert picture.std() > 10
        page.context.close()
