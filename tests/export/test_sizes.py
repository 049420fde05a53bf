"""`--resolution 48x32`: pictures that are not square, of a reference that is; equal to diffusers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.console import Console
from stock_pictures import picture_db

from dreamcache.export.command import export
from dreamcache.export.coreml.modules import component_modules, unet_modules
from dreamcache.export.declare.architecture import declare_architecture
from dreamcache.export.declare.sizes import PictureSize
from dreamcache.export.errors import ExportError
from dreamcache.export.int8.trajectories import middle_square
from dreamcache.export.source import Source
from dreamcache.runtime.budgets.plan import stage_quantities
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, MIN_PSNR_DB
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.cli.inspect import bundle_tables
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.subject import load_subject


@pytest.fixture(scope="module", name="wide")
def _wide(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wide") / "bundle"
    export(out=out, base=str(tiny_base), adapters=tiny_adapters, resolution="48x32", max_references=2)
    return out


def test_the_contract_says_both_sizes_and_the_gates_held(wide: Path) -> None:
    contract = open_bundle(wide).contract
    shape = contract.architecture
    assert contract.format_version == 2
    assert (shape.image_width, shape.image_height) == (48, 32)
    assert (shape.latent_shape, shape.reference_latent_shape) == ((1, 4, 8, 12), (1, 4, 8, 8))
    assert shape.reference_side == 32
    graphs = contract.graphs
    assert graphs.cache.inputs[0].shape == (1, 4, 8, 8)
    assert graphs.vae_encoder.inputs[0].shape == (1, 3, 32, 32)
    assert graphs.denoiser.inputs[0].shape == (1, 4, 8, 12)
    assert graphs.vae_decoder.outputs[0].shape == (1, 3, 32, 48)
    assert shape.deep is not None
    assert (shape.deep.height, shape.deep.width) == (8, 12)
    # A subject is that of a square picture: as large, whatever the picture is.
    assert [site.tokens for site in shape.sites] == [16, 16, 64, 64]
    assert min(contract.parity.psnr_db.values()) >= MIN_PSNR_DB
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in contract.parity.condition.values())
    assert all(check.passed for check in verify_bundle(wide))
    encoder, cache, denoiser = (
        stage_quantities(contract, stage) for stage in ("vae_encode", "cache", "denoise")
    )
    assert stage_quantities(contract, "vae_decode").decoder == 1.5 * encoder.encoder
    assert denoiser.unet == 1.5 * cache.unet


def test_strength_0_is_diffusers_picture_of_that_height_and_width(
    wide: Path, tiny_base: Path, tmp_path: Path
) -> None:
    theirs = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    runner = Pipeline.load(wide)
    pixels = np.full((40, 40, 3), 255, np.uint8)
    pixels[8:30, 12:28] = (200, 40, 60)
    file = tmp_path / "toy.subject.safetensors"
    runner.cache(Image.fromarray(pixels)).save(file)
    subject = load_subject(file, runner.contract)
    assert picture_db(runner, theirs, subject) >= 55
    assert picture_db(runner, theirs, subject, strength=1.0) < 45
    drawn = runner.generate("a robot", [subject, subject], steps=4, seed=1, step_cache=2)
    assert drawn.size == (48, 32)
    # Another scale of latents is another picture.
    theirs.vae.register_to_config(scaling_factor=0.8)
    assert picture_db(runner, theirs, subject) < 55


def test_inspect_shows_both_sizes(wide: Path) -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(next(bundle_tables(open_bundle(wide))))
    assert "48 x 32 px" in shown.get()
    assert "32 x 32 px" in shown.get()


def test_core_mls_modules_have_both_sizes(tiny_base: Path, tiny_adapters: Path) -> None:
    source = Source.load(str(tiny_base), tiny_adapters)
    shape = declare_architecture("tiny", source.base, source.conditioned, PictureSize(32, 56), 1)
    parts = unet_modules(source.base, source.conditioned, shape, "plain") | component_modules(
        source.base, shape
    )
    sizes = {name: (part.inputs[0].shape, part.outputs[0].shape) for name, part in parts.items()}
    assert sizes["cache"] == ((1, 4, 8, 8), (1, 16, 32))
    assert sizes["denoise"] == ((1, 4, 14, 8), (1, 4, 14, 8))
    assert sizes["vae_encoder"] == ((1, 3, 32, 32), (1, 4, 8, 8))
    assert sizes["vae_decoder"] == ((1, 4, 14, 8), (1, 3, 56, 32))


def test_calibration_puts_the_middle_square_on_white() -> None:
    picture = np.arange(24, dtype=np.float32).reshape(1, 1, 4, 6)
    assert middle_square(picture)[0, 0].tolist() == picture[0, 0, :, 1:5].tolist()
    assert middle_square(picture.transpose(0, 1, 3, 2)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("written", "size"), [("768x512", (768, 512)), ("768X512", (768, 512)), ("64", (64, 64))]
)
def test_sizes_as_people_write_them(written: str, size: tuple[int, int]) -> None:
    parsed = PictureSize.parse(written)
    assert (parsed.width, parsed.height) == size
    assert str(parsed) == written.lower()


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        ("768*512", r"--resolution: pixels as WIDTHxHEIGHT or one number .* received '768\*512'$"),
        ("x512", "pixels as WIDTHxHEIGHT"),
        ("-64", "pixels as WIDTHxHEIGHT"),
        ("48x36", "resolution is 48x36 px; this base takes multiples of 8 in width and height$"),
        ("48x0", "resolution is 48x0 px; this base takes multiples of 8 in width and height$"),
    ],
)
def test_sizes_that_cannot_be(
    tiny_base: Path, tiny_adapters: Path, tmp_path: Path, resolution: str, message: str
) -> None:
    with pytest.raises(ExportError, match=message) as raised:
        export(out=tmp_path / "bundle", base=str(tiny_base), adapters=tiny_adapters, resolution=resolution)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_downsampling_divides_rows_and_columns(
    tiny_base: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"kv-downsample is 8; .* the latent's 8 rows and 12 columns"):
        export(
            out=tmp_path / "bundle",
            base=str(tiny_base),
            adapters=tiny_adapters,
            resolution="48x32",
            kv_downsample=8,
        )
