"""The page of `dreamcache web` and what runs its modules: Node, and a browser where there is one."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.web.desk import Desk
from dreamcache.runtime.web.offers import PAGE, make_offers
from dreamcache.runtime.web.server import PageServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WAIT_MS = 120_000
_PIXELS = """() => {
    const canvas = document.getElementById("picture");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, Array.from(data)];
}"""


def need(tool: str, package: str) -> str:
    """The path of a program, installed where that may be; else the test is skipped with the reason, in CI it fails."""
    if (found := shutil.which(tool)) is None and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(["apt-get", "-qq", *command], capture_output=True, check=False)
        found = shutil.which(tool)
    if found is None:
        reason = f"{tool} is not installed; with Debian: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def ask_page(cases: list[dict[str, Any]]) -> list[Any]:
    """The answers of page_arithmetic.mjs, one for each case."""
    script = Path(__file__).with_name("page_arithmetic.mjs")
    done = subprocess.run(
        [need("node", "nodejs"), str(script), str(PAGE)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


@contextmanager
def serving(
    bundle: Path, runtime: Mapping[str, Path], records: Path, context: ssl.SSLContext | None = None
) -> Iterator[tuple[Pipeline, PageServer]]:
    """A bundle's page at a free port of this machine alone."""
    pipeline = Pipeline.load(bundle)
    offers = make_offers(pipeline.bundle, bundle.name, runtime)
    with PageServer(("127.0.0.1", 0), offers, Desk(pipeline, records), context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield pipeline, server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def launched(*options: str) -> Iterator[Browser]:
    """The system's Chromium, headless."""
    from playwright.sync_api import sync_playwright

    path = need("chromium", "chromium")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", *options])
        yield browser
        browser.close()


def visit(browser: Browser, server: PageServer, host: str = "127.0.0.1") -> Page:
    """The page in a profile of its own, when its first work is done."""
    scheme = "https" if isinstance(server.socket, ssl.SSLSocket) else "http"
    page = browser.new_context(ignore_https_errors=True).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{scheme}://{host}:{server.server_address[1]}/{server.token}/")
    settle(page)
    page.click("summary")
    return page


def settle(page: Page) -> None:
    """Wait until the page has nothing more to do; an event marks it busy before it is over."""
    page.wait_for_selector("html[data-state=ready]", state="attached")


def press(page: Page, name: str) -> None:
    """Press a button and wait for what it does."""
    page.click(f"#{name}")
    settle(page)
    assert page.inner_text("#trouble") == ""


def give_file(page: Page, name: str, path: Path) -> None:
    """Choose a file and wait for what is made of it."""
    with page.expect_event("requestfinished") if name == "photograph" else nullcontext():
        page.set_input_files(f"#{name}", path)
    page.wait_for_timeout(50)
    settle(page)


def draw(page: Page, prompt: str, steps: int, seed: int) -> NDArray[np.uint8]:
    """The picture [h, w, 3] that the page draws."""
    page.fill("#prompt", prompt)
    page.fill("#steps", str(steps))
    page.fill("#seed", str(seed))
    press(page, "go")
    height, width, values = page.evaluate(_PIXELS)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def draw_refused(page: Page, prompt: str, why: str) -> None:
    """A prompt that cannot be drawn: the page says why, and goes on."""
    page.fill("#prompt", prompt)
    page.click("#go")
    settle(page)
    assert why in page.inner_text("#trouble")
