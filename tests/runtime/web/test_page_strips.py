"""The decoder in strips on the page: Python's rows and Python's picture, with maps stored and with maps made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from page_files import ask_page
from tiny_strips import add_strips

from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.decoding import decode_in_strips
from dreamcache.runtime.web.offers import page_facts


@pytest.mark.parametrize("rows", [3, 5])
def test_the_picture_is_pythons(bundle: Path, javascript: dict[str, Path], rows: int) -> None:
    add_strips(bundle, rows)
    pipeline = Pipeline.load(bundle)
    graphs = pipeline.contract.graphs
    latent = np.random.default_rng(0).standard_normal((1, 4, 4, 4), dtype=np.float32)
    case = {"ask": "strips", "library": str(javascript["ort.wasm.min.mjs"]), "folder": str(bundle)}
    case |= {"graphs": page_facts(pipeline.bundle, "tiny")["contract"]["graphs"]}
    # all stored; the large ones made again, in chains of two and three; all made again
    held = (1 << 27, 8_000, 0)
    asked = [
        {**case, "latent": values.ravel().tolist(), "held": most}
        for most in held
        for values in (latent, -latent)
    ]
    received = [np.array(values, np.float32) for values in ask_page(asked)]
    for values, most in zip(received[::2], held, strict=True):
        expected = decode_in_strips(graphs, pipeline.sessions.open, latent, most)
        np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=2e-5)
    assert np.abs(received[1] - received[0]).max() > 1
