"""The decoder in strips on the page: Python's rows and Python's picture, with maps stored and with maps made again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from page_files import ask_page
from tiny_strips import add_strips

from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.decoding import decode_in_strips
from dreamcache.runtime.web.offers import page_facts

HELD = (1 << 27, 8_000, 0)
"""All maps stored; the large ones made again, in chains of two and three; all made again."""


def test_the_picture_is_pythons(bundle: Path, javascript: dict[str, Path], tmp_path: Path) -> None:
    latent = np.random.default_rng(0).standard_normal((1, 4, 4, 4), dtype=np.float32)
    cases, expected = [], []
    for rows in (3, 5):
        folder = Path(shutil.copytree(bundle, tmp_path / str(rows)))
        add_strips(folder, rows)
        pipeline = Pipeline.load(folder)
        case = {"ask": "strips", "library": str(javascript["ort.wasm.min.mjs"]), "folder": str(folder)}
        case |= {"graphs": page_facts(pipeline.bundle, "tiny")["contract"]["graphs"]}
        for held in HELD:
            cases.append({**case, "latent": latent.ravel().tolist(), "held": held})
            expected.append(decode_in_strips(pipeline.contract.graphs, pipeline.sessions.open, latent, held))
    *answers, other = ask_page([*cases, {**cases[0], "latent": (-latent).ravel().tolist()}])
    for values, picture in zip(answers, expected, strict=True):
        np.testing.assert_allclose(np.array(values, np.float32).reshape(picture.shape), picture, atol=2e-5)
    assert np.abs(np.array(other) - answers[0]).max() > 1


def test_a_decoder_with_fused_attention_is_given_in_its_portable_form(bundle: Path) -> None:
    opened = open_bundle(bundle)
    graphs = opened.contract.graphs
    fused = graphs.vae_decoder.model_copy(update={"portable": "vae_decoder/model.portable.onnx"})
    both = {"vae_decoder": fused, "denoiser": graphs.denoiser.model_copy(update={"portable": "unet/d.onnx"})}
    contract = opened.contract.model_copy(update={"onnx": graphs.model_copy(update=both)})
    files = {
        name: spec["file"]
        for name, spec in page_facts(replace(opened, contract=contract), "tiny")["contract"]["graphs"].items()
        if name in both
    }
    assert files == {"vae_decoder": "vae_decoder/model.portable.onnx", "denoiser": graphs.denoiser.file}
    plain = page_facts(opened, "tiny")["contract"]["graphs"]
    assert plain["vae_decoder"]["file"] == graphs.vae_decoder.file
