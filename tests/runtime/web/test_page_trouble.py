"""What people meet on the page: plain http, a start that fails, a broken connection, a changed file, a full storage."""

from __future__ import annotations

import http.server
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from page_files import draw, draw_refused, serving, settle, visit

from dreamcache.runtime.web.certificate import temporary_context

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright")

PROMPT = "a toy on the beach"
_DAMAGE = """async (name) => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("dreamcache");
    const file = await (await folder.getFileHandle(name)).createWritable({ keepExistingData: true });
    await file.write(new Uint8Array([1, 2, 3]));
    await file.close();
}"""


def test_what_did_not_start_is_started_by_the_next_touch(
    chromium: Browser, pristine: Path, javascript: dict[str, Path], tmp_path: Path, toy: Path
) -> None:
    with serving(pristine, javascript, tmp_path, temporary_context(["127.0.0.1"])) as (_, server):
        whole = server.offers
        files = {name: offer for name, offer in whole.files.items() if not name.startswith("bundle/")}
        server.offers = replace(whole, files=files)
        page = visit(chromium, server)
        assert page.inner_text("#trouble") == "there is no such file here"
        server.offers = whole
        assert draw(page, PROMPT, steps=1, seed=1).std() > 1
        # what the desk would not take is not sent; what is no seed is not a random one
        large = tmp_path / "large.png"
        large.write_bytes(toy.read_bytes() + bytes(32 << 20))
        page.set_input_files("#photograph", large)
        page.wait_for_selector("#trouble:not([hidden])")
        settle(page)
        assert (
            page.inner_text("#trouble")
            == "This picture has 33 MiB, and the desk takes 32. Choose a smaller one."
        )
        page.fill("#seed", "-1")
        draw_refused(page, PROMPT, "Seed: at most 18 digits are expected, received -1")
        # another run of the command has another token
        server.token = "another"
        page.click("#toy")
        settle(page)
        assert page.inner_text("#trouble").startswith("This address is not valid any more")
        page.context.close()


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
        # another engine would have to be fetched: the one that runs goes on
        page.evaluate("document.getElementById('engines').dispatchEvent(new Event('change'))")
        settle(page)
        assert page.inner_text("#trouble").startswith("The page could not start what computes.")
        np.testing.assert_array_equal(draw(page, PROMPT, steps=2, seed=1), picture)
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
        # no other engine would read it otherwise
        assert "another engine" not in other.inner_text("#advice")
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
