"""The decoder in strips: the whole decoder's picture, where tiles with their own statistics show seams."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from dreamcache.export.modules.decoder import DecoderHead, cut_strips
from dreamcache.export.parts.decoder import (
    CUT_BYTES,
    VAE_DECODER_WEIGHTS,
    export_decoder,
    find_cut,
    plan_decoder,
)
from dreamcache.models.bases.base import MINI_DIR, load_base
from dreamcache.runtime.bundle.contract import (
    CONTRACT_NAME,
    Contract,
    FileRecord,
    Graphs,
    GraphSpec,
    graph_fingerprint,
    strip_name,
)
from dreamcache.runtime.bundle.decoder_strips import even_rows, scale_of, windows
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.parity import MIN_PSNR_DB, MIN_SEAM_DB, psnr_db
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.errors import BundleError, SettingsError
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.decoding import decode_in_strips
from dreamcache.runtime.sampling.strips import HELD_BYTES, RowMap, StripState, chain_length, run_strip

Array = NDArray[np.float32]


class TorchGraph:
    """A graph's module, run as a session runs the graph."""

    def __init__(self, module: nn.Module, spec: GraphSpec) -> None:
        self.module, self.spec = module, spec

    @torch.no_grad()
    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        given = self.module(*(torch.from_numpy(inputs[tensor.name]) for tensor in self.spec.inputs))
        tensors = given if isinstance(given, tuple) else (given,)
        return {spec.name: tensor.numpy() for spec, tensor in zip(self.spec.outputs, tensors, strict=True)}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    """The miniature's, trained."""
    return AutoencoderKL.from_pretrained(MINI_DIR / "vae").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def latent(vae: AutoencoderKL) -> Tensor:
    """Of a picture whose halves have little in common: black above, coloured squares below."""
    squares = np.random.default_rng(0).uniform(-1, 1, (3, 4, 8)).astype(np.float32)
    picture = torch.full((1, 3, 64, 64), -1.0)
    picture[0, :, 32:] = torch.from_numpy(squares.repeat(8, axis=1).repeat(8, axis=2))
    mean: Tensor = vae.encode(picture).latent_dist.mean
    return mean


def in_strips(vae: AutoencoderKL, latent: Tensor, window_bytes: int, held_bytes: int = HELD_BYTES) -> Array:
    """The strips' modules in PyTorch, through the runner's own code."""
    specs = plan_decoder(vae, *latent.shape[2:], cut_bytes=1, window_bytes=window_bytes)
    assert specs.head is not None
    modules: list[nn.Module] = [DecoderHead(vae, "plain", 0), *(strip.module for strip in cut_strips(vae, 0))]
    graphs = Graphs.model_construct(vae_decoder_head=specs.head, vae_decoder_strips=specs.strips)
    names = ["vae_decoder_head", *(strip_name(index) for index in range(len(specs.strips)))]
    opened = [TorchGraph(*pair) for pair in zip(modules, (specs.head, *specs.strips), strict=True)]

    @contextmanager
    def open_graph(name: str) -> Iterator[TorchGraph]:
        yield opened[names.index(name)]

    return decode_in_strips(graphs, open_graph, latent.numpy(), held_bytes)  # type: ignore[arg-type]


@pytest.mark.parametrize("window_bytes", [1, 20_000, 1 << 30])
def test_strips_of_any_height_give_the_whole_decoders_picture(
    vae: AutoencoderKL, latent: Tensor, window_bytes: int
) -> None:
    expected = vae.decode(latent).sample.numpy()
    # Rounding alone; the miniature's weights were measured at 127 dB.
    assert psnr_db(expected, in_strips(vae, latent, window_bytes)) > 100.0


def test_maps_that_are_made_again_give_the_same_picture_bit_for_bit(
    vae: AutoencoderKL, latent: Tensor
) -> None:
    stored = in_strips(vae, latent, 20_000)
    for held_bytes in (0, 1 << 16):  # all of them, or the large ones
        assert np.array_equal(in_strips(vae, latent, 20_000, held_bytes), stored)


def test_maps_that_are_made_again_are_gone_with_their_chain(vae: AutoencoderKL, latent: Tensor) -> None:
    # Without the collector: a map that only it would find is memory that waits for it.
    gc.collect()
    gc.disable()
    try:
        before = [one for one in gc.get_objects() if isinstance(one, RowMap)]
        in_strips(vae, latent, 20_000, 0)
        assert [one for one in gc.get_objects() if isinstance(one, RowMap)] == before
    finally:
        gc.enable()


def test_sd_stores_the_maps_of_its_last_block_at_half_size_alone() -> None:
    from dreamcache.models.bases.architectures import VAE_CONFIG

    with torch.device("meta"):
        specs = plan_decoder(AutoencoderKL(**VAE_CONFIG), 64, 64)
    assert specs.head is not None
    side, index, lengths = specs.head.outputs[0].shape[3], 0, []
    while index < len(specs.strips):
        lengths.append(chain_length(specs.strips[index:], side, side, HELD_BYTES))
        side *= scale_of(specs.strips[index].kind)
        index += lengths[-1]
    # An upsampler and three layers at 256 px, the same at 512 px, the output.
    assert lengths == [1] * 7 + [3, 2, 2, 1]
    assert chain_length(specs.strips[7:], 256, 256, 1 << 40) == 1


def test_tiles_with_their_own_statistics_show_seams(latent: Tensor) -> None:
    vae = AutoencoderKL.from_pretrained(MINI_DIR / "vae").eval().requires_grad_(False)
    expected = vae.decode(latent).sample.numpy()
    vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 32
    vae.enable_tiling()
    assert psnr_db(expected, vae.decode(latent).sample.numpy()) < MIN_SEAM_DB - 10


def test_statistics_of_another_picture_are_noticed(vae: AutoencoderKL, latent: Tensor) -> None:
    # Half a picture's statistics, which is what a tile sees, moved into the whole one's strips.
    specs = plan_decoder(vae, 8, 8, cut_bytes=1, window_bytes=20_000)
    (up, first), spec = (strip.module for strip in list(cut_strips(vae, 0))[:2]), specs.strips
    assert specs.head is not None
    features = DecoderHead(vae, "plain", 0)(latent).numpy()
    results = []
    for rows in (features, np.concatenate([features[:, :, :4]] * 2, axis=2)):
        graph = TorchGraph(up, spec[0])
        results.append(run_strip(graph, spec[0], start(rows)))  # type: ignore[arg-type]
    own, other = results
    kept = own.features.rows(0, 16)
    given = []
    for statistics in (own.statistics, other.statistics):
        state = start(kept)
        state.statistics = statistics
        given.append(run_strip(TorchGraph(first, spec[1]), spec[1], state).features.rows(0, 16))  # type: ignore[arg-type]
    expected = vae.decoder.up_blocks[1].resnets[0]
    whole = expected.conv1(nn.functional.silu(expected.norm1(torch.from_numpy(kept)))).numpy()
    assert psnr_db(whole, given[0]) > 100.0
    assert psnr_db(whole, given[1]) < MIN_SEAM_DB


def start(features: Array) -> StripState:
    return StripState(RowMap([features]))


@pytest.fixture(scope="module")
def striped_bundle(tiny_bundle: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_bundle` with its decoder cut, though its maps are small."""
    folder = tmp_path_factory.mktemp("striped") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    shutil.rmtree(folder / "vae_decoder")
    decoder = export_decoder(
        load_base(tiny_base).vae, folder, 8, 8, "mha", cut_bytes=1 << 15, window_bytes=5_000
    )
    raw = json.loads((folder / CONTRACT_NAME).read_text())
    raw["graphs"] |= {
        "vae_decoder": decoder.whole.model_dump(mode="json"),
        "vae_decoder_head": decoder.head.model_dump(mode="json") if decoder.head else None,
        "vae_decoder_strips": [strip.model_dump(mode="json") for strip in decoder.strips],
    }
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != CONTRACT_NAME]
    records = {
        path.relative_to(folder).as_posix(): FileRecord(size=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    }
    raw["files"] = {name: record.model_dump() for name, record in records.items()}
    raw["fingerprints"]["graph"] = graph_fingerprint(Graphs.model_validate(raw["graphs"]), records)
    (folder / CONTRACT_NAME).write_text(json.dumps(raw))
    return folder


def test_a_bundle_decodes_in_strips(striped_bundle: Path, tiny_base: Path) -> None:
    pipeline = Pipeline.load(striped_bundle)
    assert len(pipeline.contract.graphs.vae_decoder_strips) == 6
    scaled = np.random.default_rng(0).standard_normal((2, 4, 8, 8), dtype=np.float32)
    whole, strips = (np.asarray(pipeline.decode(scaled, tiled), int) for tiled in (False, True))
    # One level of 255 is rounding.
    assert np.abs(whole - strips).max() <= 1
    assert np.abs(whole[0] - strips[1]).max() > 1
    base = load_base(tiny_base)
    unscaled = torch.from_numpy(scaled[:1]) / base.vae.config.scaling_factor
    expected = base.vae.decode(unscaled).sample.detach().numpy()
    received = decode_in_strips(pipeline.contract.graphs, pipeline.sessions.open, unscaled.numpy())
    assert psnr_db(expected, received) >= MIN_PSNR_DB
    one, two = (pipeline.generate("a robot", tiled_vae=tiled, steps=2, seed=1) for tiled in (False, True))
    assert np.abs(np.asarray(one, int) - np.asarray(two, int)).max() <= 1
    assert all(check.passed for check in verify_bundle(striped_bundle))


def test_the_decoders_weights_are_stored_once(striped_bundle: Path, tiny_base: Path) -> None:
    vae = load_base(tiny_base).vae
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    size = (striped_bundle / VAE_DECODER_WEIGHTS).stat().st_size
    assert size < 4 * sum(parameter.numel() for parameter in parameters) + 64 * len(parameters)


def test_a_chain_that_does_not_fit_is_refused(striped_bundle: Path) -> None:
    contract = open_bundle(striped_bundle).contract
    raw = contract.model_dump(mode="json", by_alias=True)
    strips = raw["graphs"]["vae_decoder_strips"]
    for wrong, complaint in (
        (strips[:-1], "expected to end in a picture"),
        (strips[1:], "do not leave what it takes"),
        (strips[:2] + strips[3:], "decoder strip 2"),
        ([], "belong together"),
    ):
        changed = {**raw, "graphs": {**raw["graphs"], "vae_decoder_strips": wrong}}
        with pytest.raises(ValueError, match=complaint):
            Contract.model_validate(changed)
    assert Contract.model_validate(raw) == contract


def test_a_bundle_of_small_pictures_has_no_strips(tiny_bundle: Path) -> None:
    pipeline = Pipeline.load(tiny_bundle)
    with pytest.raises(SettingsError, match="no strips"):
        pipeline.decode(np.zeros((1, 4, 8, 8), np.float32), tiled=True)
    with pytest.raises(SettingsError, match="no strips"):
        pipeline.generate("a robot", tiled_vae=True, steps=1)
    assert not issubclass(SettingsError, BundleError)


@pytest.mark.parametrize(("pixels", "cut"), [(128, None), (256, 2), (512, 1), (768, 0)])
def test_the_cut_is_where_maps_grow_large(pixels: int, cut: int | None) -> None:
    from dreamcache.models.bases.architectures import VAE_CONFIG

    with torch.device("meta"):
        vae = AutoencoderKL(**VAE_CONFIG)
    assert find_cut(vae, pixels // 8, pixels // 8, CUT_BYTES) == cut
    if cut is None:
        return
    specs = plan_decoder(vae, pixels // 8, pixels // 8)
    # Rows that two neighbouring windows both compute are a small part.
    for strip in specs.strips:
        rows, width = strip.inputs[0].shape[2:]
        assert rows * len(list(windows(width, rows, scale_of(strip.kind)))) < 1.15 * width
    # Sums are asked for by a normalisation alone.
    assert [strip.kind for strip in specs.strips].count("upsample") == 3 - cut
    assert sum("sums" in {spec.name for spec in strip.outputs} for strip in specs.strips) == 6 * (3 - cut) + 1


@pytest.mark.parametrize("scale", [1, 2])
def test_windows_give_every_row_once_from_neighbours_that_are_there(scale: int) -> None:
    for height in range(3, 20):
        for rows in range(3, height + 1):
            given: list[int] = []
            for window in windows(height, rows, scale):
                assert 0 <= window.start <= window.start + rows <= height
                # A row beside a cut is not given: its neighbour was not read.
                assert window.first == 0 or window.first > scale * window.start
                assert window.end == scale * height or window.end < scale * (window.start + rows)
                given += range(window.first, window.end)
            assert given == list(range(scale * height))
            assert 3 <= even_rows(height, rows, scale) <= height
    # A window for each 32 rows, and two rows more in all but the first and the last.
    assert (even_rows(256, 32, 1), len(list(windows(256, 34, 1)))) == (34, 8)
    with pytest.raises(AssertionError):
        list(windows(8, 2, scale))


def test_rows_that_were_given_up_are_gone() -> None:
    rows = RowMap([np.full((1, 1, 2, 1), value, np.float32) for value in (0, 1, 2)])
    assert rows.rows(1, 5).ravel().tolist() == [0, 1, 1, 2]
    rows.give_up(3)
    assert rows.rows(2, 6).ravel().tolist() == [1, 1, 2, 2]
    with pytest.raises(AssertionError):
        rows.rows(1, 3)
