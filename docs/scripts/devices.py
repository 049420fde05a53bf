"""`dreamcache web` in headless Chromium: how right each engine is, records, and the pictures of the documents.

    python docs/scripts/devices.py check BUNDLE... [--gpu]
    python docs/scripts/devices.py measure BUNDLE --out docs/results/devices [--gpu]
    python docs/scripts/devices.py pictures BUNDLE --out FOLDER
    python docs/scripts/devices.py draw BUNDLE [--steps N] [--gpu]

`check` prints decibels by bundle and engine, `measure` keeps a quick record of each, `draw` draws a few steps without
guidance, prints what they took, and compares the picture with Python's: for bundles of full size. `pictures` makes
docs/images/web.png, and more to look at.
--gpu is WebGPU on SwiftShader, a software adapter, which is no device. Needs the extra `[web]`, playwright, and a
Chromium at hand.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import Page

_CPU = ("--disable-features=WebGPU",)
_SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan,WebGPU",
)
_GRAPHS = {
    "Text": "text",
    "Reference": "VAE encoder",
    "Caching": "caching graph",
    "Denoiser": "denoiser",
    "Picture": "VAE decoder",
}
"""The page's names of graphs, and the documents'."""
_TOY = Path(__file__).parents[1] / "images/toy.png"
_PHONE, _DESK = {"width": 360, "height": 780}, {"width": 1200, "height": 900}
_GAP = 40
_LONGEST_MS = 3_600_000.0
_PROMPT, _SEED = "a toy on the beach", 0
_PIXELS = """() => {
    const canvas = document.getElementById("picture");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, Array.from(data)];
}"""


@contextmanager
def served(bundle: str, records: Path) -> Iterator[str]:
    """The address of `dreamcache web` on this machine alone."""
    command = [sys.executable, "-m", "dreamcache.runtime.cli", "web", bundle, "--host", "127.0.0.1"]
    command += ["--port", "0", "--reference", str(_TOY), "--records", str(records)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(line.strip() for line in server.stdout if line.startswith("https://"))
        finally:
            server.terminate()


@contextmanager
def opened(address: str, gpu: bool, size: dict[str, int] = _PHONE, scheme: str = "light") -> Iterator[Page]:
    """The page when its first work is done: everything is checked, and the reference cached."""
    from playwright.sync_api import ViewportSize, sync_playwright

    options = ["--no-sandbox", *(_SOFTWARE_GPU if gpu else _CPU)]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        context = browser.new_context(
            ignore_https_errors=True,
            viewport=ViewportSize(width=size["width"], height=size["height"]),
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page = context.new_page()
        page.set_default_timeout(_LONGEST_MS)
        page.goto(address)
        settle(page)
        yield page
        browser.close()


def settle(page: Page) -> None:
    """Wait for the end of what was begun. Raises: SystemExit with the page's own sentence about trouble."""
    page.wait_for_timeout(100)
    page.wait_for_selector("html[data-state=ready]", state="attached")
    if trouble := page.inner_text("#trouble"):
        raise SystemExit(trouble)


def engines(page: Page, gpu: bool) -> Iterator[str]:
    """Each engine by its name, chosen and checked; of a GPU that alone."""
    page.click("summary")
    for name in page.locator("#engines option").all_inner_texts():
        if gpu == name.startswith("GPU"):
            if page.evaluate("document.getElementById('engines').selectedOptions[0].text") != name:
                page.select_option("#engines", label=name)
                settle(page)
            yield name


def check(bundles: list[str], gpu: bool) -> None:
    """Rows of a table."""
    print(f"| bundle | engine | {' | '.join(_GRAPHS.values())} |", flush=True)
    for bundle in bundles:
        with (
            TemporaryDirectory() as records,
            served(bundle, Path(records)) as address,
            opened(address, gpu) as page,
        ):
            for engine in engines(page, gpu):
                named = (row.split("\n") for row in page.locator("#checks li").all_inner_texts())
                db = {name: figure.removesuffix(" dB") for name, figure in named}
                row = " | ".join(db[name] for name in _GRAPHS)
                print(f"| `{Path(bundle).name}` | {engine} | {row} |", flush=True)
            if advice := page.inner_text("#advice"):
                print(advice, file=sys.stderr)


def measure(bundle: str, out: Path, gpu: bool) -> None:
    """A quick record of each engine: wasm-1-thread.json, webgpu-software.json."""
    with TemporaryDirectory() as place, served(bundle, Path(place)) as address, opened(address, gpu) as page:
        for engine in engines(page, gpu):
            threads = "".join(filter(str.isdigit, engine))
            name = "webgpu-software" if gpu else f"wasm-{threads}-thread{'s' if threads != '1' else ''}"
            page.click("#quick")
            settle(page)
            (record,) = Path(place).iterdir()
            out.mkdir(parents=True, exist_ok=True)
            shutil.move(record, out / f"{name}.json")
            print(out / f"{name}.json", flush=True)


def draw(bundle: str, gpu: bool, steps: int) -> None:
    """A picture without guidance: seconds, the most memory of the page's process, and the distance from Python's."""
    began = monotonic()

    def said(what: str) -> None:
        print(f"{monotonic() - began:.0f} s: {what}; at most {renderer_peak_mb():.0f} MB", flush=True)

    with (
        TemporaryDirectory() as records,
        served(bundle, Path(records)) as address,
        opened(address, gpu) as page,
    ):
        said(f"{page.inner_text('#engine')}, reference cached: {page.inner_text('#status')}")
        page.click("summary")
        page.select_option("#mode", "none")
        page.fill("#prompt", _PROMPT)
        page.fill("#steps", str(steps))
        page.fill("#seed", str(_SEED))
        page.click("#go")
        settle(page)
        said(page.inner_text("#status"))
        height, width, values = page.evaluate(_PIXELS)
    print(distance(bundle, np.array(values, np.uint8).reshape(height, width, 4)[..., :3], steps), flush=True)


def distance(bundle: str, picture: NDArray[np.uint8], steps: int) -> str:
    """How far a picture [h, w, 3] of the page is from the one that Python draws."""
    from dreamcache.runtime import Pipeline

    pipeline = Pipeline.load(bundle)
    drawn = pipeline.generate(_PROMPT, pipeline.cache(_TOY), steps=steps, seed=_SEED, guidance_mode="none")
    apart = np.abs(np.asarray(drawn, np.int16) - picture)
    return f"from Python's picture: at most {apart.max()} levels, more than one in {(apart > 1).mean():.3%}"


def renderer_peak_mb() -> float:
    """The largest resident size that a page's process of this browser ever had; needs Linux."""
    found = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = status.with_name("cmdline").read_bytes()
            if b"--type=renderer" in command and b"playwright" in command:
                (peak,) = re.findall(r"VmHWM:\s*(\d+)", status.read_text())
                found = max(found, int(peak) / 1000)
        except (OSError, ValueError):
            pass  # gone meanwhile
    return found


def pictures(bundle: str, out: Path) -> None:
    """Subject, finished picture and measurement on a phone and on a desk; `web.png`: the phone's three."""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as records, served(bundle, Path(records)) as address:
        for device, size, scheme in (("phone", _PHONE, "dark"), ("desk", _DESK, "light")):
            shots = screenshots(address, size, scheme)
            for name, shot in shots.items():
                (out / f"web-{device}-{name}.png").write_bytes(shot)
            if size is _PHONE:
                side_by_side(list(shots.values()), out / "web.png")


def screenshots(address: str, size: dict[str, int], scheme: str) -> dict[str, bytes]:
    """PNGs of a visit: the subject, a finished picture, a measurement."""
    with opened(address, False, size, scheme) as page:
        page.fill("#prompt", "a toy duck on the beach")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        shots = {"start": page.screenshot()}
        page.click("summary")
        page.fill("#seed", "7")
        page.click("summary")
        page.fill("#steps", "20")
        page.click("#go")
        settle(page)
        page.evaluate("scrollTo(0, 0)")
        shots["picture"] = page.screenshot()
        page.click("#quick")
        settle(page)
        page.evaluate("document.getElementById('device').scrollIntoView()")
        shots["bench"] = page.screenshot()
    return shots


def side_by_side(shots: list[bytes], out: Path) -> None:
    """One picture of several, in 256 colours."""
    from PIL import Image

    screens = [Image.open(BytesIO(shot)).convert("RGB") for shot in shots]
    width, height = screens[0].size
    wide = Image.new("RGB", ((width + _GAP) * len(screens) - _GAP, height), "white")
    for place, screen in enumerate(screens):
        wide.paste(screen, ((width + _GAP) * place, 0))
    few = wide.quantize(256)
    wide.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(out, optimize=True)


def main() -> None:
    """See the first lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["check", "measure", "pictures", "draw"])
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--steps", type=int, default=1, help="of draw")
    given = parser.parse_args()
    if given.what == "check":
        check(given.bundles, given.gpu)
        return
    for bundle in given.bundles:
        if given.what == "measure":
            measure(bundle, given.out, given.gpu)
        elif given.what == "draw":
            draw(bundle, given.gpu, given.steps)
        else:
            pictures(bundle, given.out)


if __name__ == "__main__":
    main()
