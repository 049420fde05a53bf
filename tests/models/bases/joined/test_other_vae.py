"""Another VAE: every form is read with the same weights, and what does not fit is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hub_stand_in import HubOfFolders
from joined_files import other_kl, tiny_taesd
from ldm_layout import ldm_vae, write_ldm_checkpoint
from safetensors.torch import load_file, save_file
from stock_pictures import EQUAL_DB, decibels_from_diffusers

from dreamcache.models.bases import hub
from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.joined.additions import Additions
from dreamcache.models.errors import AdapterError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", name="kl")
def _kl(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vaes") / "kl"
    other_kl(tiny_base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", name="taesd")
def _taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vaes") / "taesd"
    tiny_taesd().save_pretrained(folder)
    return folder


def joined(base: Path, vae: str | Path) -> Base:
    return load_base(base, additions=Additions(vae))


@pytest.mark.parametrize("name", ["kl", "taesd"])
def test_pictures_are_those_of_diffusers_with_that_vae(
    name: str, tiny_base: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    own = pipeline.vae
    pipeline.vae = type(tiny_taesd() if name == "taesd" else own).from_pretrained(folder)
    base = joined(tiny_base, folder)
    assert decibels_from_diffusers(base, pipeline) >= EQUAL_DB
    assert decibels_from_diffusers(load_base(tiny_base), pipeline) < 30
    record = base.joined[0]
    assert (record.kind, record.name, len(record.sha256)) == ("vae", name, 64)
    # What img2img would begin with: a deterministic latent.
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = pipeline.vae.encode(picture)
        mean = found.latents if name == "taesd" else found.latent_dist.mean
    wanted = mean * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(base.encode_images(picture), wanted, rtol=0, atol=1e-6)


def test_every_form_holds_the_same_weights(
    kl: Path, taesd: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = other_kl(tiny_base)
    whole = shutil.copytree(tiny_base, tmp_path / "whole")
    shutil.rmtree(whole / "vae")
    shutil.copytree(kl, whole / "vae")
    alone = {key: value.contiguous() for key, value in ldm_vae(model).items()}
    save_file(alone, tmp_path / "original.safetensors")
    shutil.copy(kl / WEIGHTS, tmp_path / "bare.safetensors")
    write_ldm_checkpoint(tmp_path / "checkpoint.safetensors", whole)
    folders = {"somebody/vae": kl, "somebody/base": whole, "somebody/taesd-1.5": taesd}
    served = HubOfFolders(folders, tmp_path / "hub")
    monkeypatch.setattr(hub, "snapshot_download", served)
    forms = ["original.safetensors", "bare.safetensors", "checkpoint.safetensors", "whole"]
    expected = joined(tiny_base, kl).vae.state_dict()
    for source in (
        *(tmp_path / form for form in forms), kl / WEIGHTS, "somebody/vae", "somebody/base",
    ):  # fmt: skip
        found = joined(tiny_base, source).vae
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.state_dict().items()), source
    # A config beside the file counts, else the base's.
    assert joined(tiny_base, kl / WEIGHTS).vae.config.scaling_factor == 0.4
    assert joined(tiny_base, tmp_path / "bare.safetensors").vae.config.scaling_factor == 0.9
    for source in (taesd / WEIGHTS, "somebody/taesd-1.5@v1.0"):
        found = joined(tiny_base, source)
        assert type(found.vae).__name__ == "AutoencoderTiny"
        assert torch.equal(found.vae.state_dict()["decoder.layers.0.weight"],
                           load_file(taesd / WEIGHTS)["decoder.layers.0.weight"])  # fmt: skip
    assert found.joined[0].name == "somebody/taesd-1.5@v1.0"
    assert {wanted.get("revision") for wanted in served.asked} == {None, "v1.0"}


def test_a_base_without_a_vae_of_its_own_or_with_a_broken_one(
    kl: Path, taesd: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    shutil.rmtree(folder / "vae")
    shutil.copytree(taesd, folder / "vae")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderTiny"]}))
    own = load_base(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None, vae=tiny_taesd())
    assert decibels_from_diffusers(own, pipeline) >= EQUAL_DB
    assert own.joined == ()
    spoil(folder / "vae" / WEIGHTS, lambda tensors: next(iter(tensors.values())).fill_(torch.nan))
    with pytest.raises(AdapterError, match=r"the vae of .*not finite"):
        load_base(folder)
    assert joined(folder, kl).vae.config.scaling_factor == 0.4


def spoil(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_what_does_not_fit_is_one_line(taesd: Path, tiny_base: Path, tmp_path: Path) -> None:
    other_kl(tiny_base, latent_channels=16).save_pretrained(tmp_path / "flux")
    shutil.copy(tmp_path / "flux" / WEIGHTS, tmp_path / "flux.safetensors")
    tiny_taesd(latent_channels=16).save_pretrained(tmp_path / "taef1")
    halved = {"encoder_block_out_channels": (40, 40), "decoder_block_out_channels": (40, 40)}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    tiny_taesd(**halved, **counts).save_pretrained(tmp_path / "factor")
    uneven = {"encoder_block_out_channels": (40, 40), "num_encoder_blocks": (1, 1)}
    tiny_taesd(**uneven).save_pretrained(tmp_path / "uneven")
    for name, change in (
        ("nan", lambda tensors: next(iter(tensors.values())).fill_(torch.nan)),
        ("lacking", lambda tensors: tensors.pop(next(iter(tensors)))),
    ):
        spoil(shutil.copytree(taesd, tmp_path / name) / WEIGHTS, change)
    decoder = {f"{int(key.split('.')[2]) + 1}.{key.split('.', 3)[3]}": value
               for key, value in tiny_taesd().state_dict().items() if key.startswith("decoder.")}  # fmt: skip
    save_file(decoder, tmp_path / "taesd_decoder.safetensors")
    (tmp_path / "vae.pt").touch()
    refused = {
        "flux": "latents have 16 channels, and the base's 4",
        "flux.safetensors": "latents have 16 channels, and the base's 4",
        "taef1": "latents have 16 channels, and the base's 4",
        "factor": "makes 2 pixels a side of a latent's cell, and the base's 4",
        "uneven": "halves a picture 1 times and enlarges a latent 2 times",
        "nan": "not finite numbers in",
        "lacking": "lacks decoder.layers.0.bias; the base is incomplete",
        "taesd_decoder.safetensors": "one half of TAESD in its authors' layout",
        "vae.pt": "is a pickle",
    }
    for name, message in refused.items():
        with pytest.raises(AdapterError, match=message) as raised:
            joined(tiny_base, tmp_path / name)
        assert "\n" not in str(raised.value), name
    with pytest.raises(
        AdapterError, match="is a UNet2DConditionModel, expected AutoencoderKL or AutoencoderTiny"
    ):
        joined(tiny_base, tiny_base / "unet")
    with pytest.raises(FileNotFoundError, match="no VAE at 'nowhere'"):
        joined(tiny_base, "nowhere")
