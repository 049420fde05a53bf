"""The page in a real browser: what it draws is Python's picture, its files are Python's, and what people meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from page_files import draw, give_file, press, serving, settle, visit
from tiny_bundle import seal
from tiny_golden import add_golden
from tiny_strips import add_strips

from dreamcache.benchmarks.record import read_record
from dreamcache.runtime.bundle.folder import MINI_FOLDER
from dreamcache.runtime.bundle.golden import CHECK_NAME, save_golden
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.web.certificate import temporary_context
from dreamcache.runtime.web.desk import drawn_toy
from dreamcache.runtime.web.server import PageServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Error = pytest.importorskip("playwright.sync_api").Error

PROMPT = "a toy on the beach"
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
    # without a connection it is measured all the same, and the record comes with the next visit
    page.context.set_offline(True)
    press(page, "quick")
    assert page.inner_text("#kept").startswith("The desk was not reached: this device keeps the record")
    page.context.set_offline(False)
    assert not list(served[2].iterdir())
    for sentence in (
        "A record of an earlier visit came to your desk.",
        "The record goes to your desk, and nowhere else.",
    ):
        page.reload()
        settle(page)
        assert page.inner_text("#kept") == sentence
    page.click("summary")
    (kept,) = served[2].iterdir()
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
    def beside() -> Page:
        other = page.context.new_page()
        other.goto(page.url)
        settle(other)
        return other

    working = beside()
    working.check("#sustained")
    working.click("#quick")
    working.wait_for_selector("#status:has-text('steps of the denoiser')")
    living = beside()
    assert living.inner_text("#advice") == ""
    assert not list(served[2].iterdir())
    # what the system does to a page that takes too much
    with working.expect_event("crash"), suppress(Error):
        working.goto("chrome://crash", timeout=5000)
    for _ in range(50):
        living.reload()
        settle(living)
        if living.inner_text("#advice"):
            break
    assert "killed in denoiser" in living.inner_text("#advice")
    (kept,) = served[2].iterdir()
    assert "killed in denoiser" in read_record(kept).absent["e2e_ms_p50"]
    kept.unlink()
    # it is said once; what nobody of this page wrote is passed over
    for state in ("no JSON", "null", '{"stage": "unknown"}'):
        living.evaluate("state => localStorage.setItem('dreamcache-stage-x', state)", state)
        living.reload()
        settle(living)
        assert living.inner_text("#advice") == living.inner_text("#trouble") == ""
    assert living.evaluate("localStorage.length") == 0
    assert not list(served[2].iterdir())
    living.close()


def test_the_page_checks_its_device_by_golden_tensors(
    chromium: Browser, bundle: Path, javascript: dict[str, Path], tmp_path: Path
) -> None:
    add_strips(bundle)
    golden = add_golden(bundle)
    context = temporary_context(["127.0.0.1"])
    with serving(bundle, javascript, tmp_path, context) as (pipeline, server):
        page = visit(chromium, server)
        assert page.inner_text("#verdict") == "Checked: this device computes what PyTorch computed."
        figures = page.locator("#checks b").all_inner_texts()
        assert len(figures) == 7
        assert all(float(figure.removesuffix(" dB")) > 100 for figure in figures[:5])
        assert figures[5:] == ["1.000", "1.000"]
        # a decoder that has strips runs in strips, which here give another picture than the whole one
        received, subject = draw(page, PROMPT, steps=1, seed=7), pipeline.cache(drawn_toy())
        for tiled in (True, False):
            expected = pipeline.generate(PROMPT, subject, steps=1, seed=7, tiled_vae=tiled)
            apart = np.abs(received.astype(int) - np.asarray(expected)) > 1
            assert (apart.mean() < 0.001) == tiled
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
