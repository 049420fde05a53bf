"""WebGPU in a real browser: each graph once, on a software adapter that stands for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_files import launched, serving, visit
from tiny_golden import add_golden
from tiny_strips import add_strips

from dreamcache.runtime.web.certificate import temporary_context

pytest.importorskip("playwright")

_SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan,WebGPU",
)
_HAS_ADAPTER = "async () => (await navigator.gpu?.requestAdapter() ?? null) !== null"


def test_every_graph_computes_what_python_computes(
    bundle: Path, javascript: dict[str, Path], tmp_path: Path
) -> None:
    add_strips(bundle)
    add_golden(bundle)
    with (
        serving(bundle, javascript, tmp_path / "records", temporary_context(["127.0.0.1"])) as (_, server),
        launched(*_SOFTWARE_GPU) as browser,
    ):
        page = visit(browser, server)
        if not page.evaluate(_HAS_ADAPTER):
            pytest.skip("this Chromium has no software adapter for WebGPU (SwiftShader)")
        # The page takes a GPU only after its check, so the figures are the GPU's.
        assert page.inner_text("#engine") == "GPU"
        assert page.inner_text("#advice") == ""
        figures = page.locator("#checks b").all_inner_texts()
        assert all(float(figure.removesuffix(" dB")) > 90 for figure in figures[:5]), figures
        assert figures[5:] == ["1.000", "1.000"]
