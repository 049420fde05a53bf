"""Checkpoints of other tools: what they say of themselves, their layouts, scaled weights; and what is refused."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from edited_files import edit
from ldm_layout import write_ldm_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import MINI_SHAPED, save_scheduler, write_tiny_base
from torch import Tensor

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.original.single_file import recognise
from dreamcache.models.bases.original.statements import Statement, joined, read_statement
from dreamcache.models.errors import AdapterError

TEXT_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
TEXT = "cond_stage_model.transformer."


@pytest.fixture(scope="module", name="checkpoint")
def _checkpoint(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ldm_checkpoint(tmp_path_factory.mktemp("ldm") / "model.safetensors", tiny_base)


def assert_same_weights(ours: Base, theirs: Base) -> None:
    for part in ("unet", "vae", "text_encoder"):
        expected, received = getattr(theirs, part).state_dict(), getattr(ours, part).state_dict()
        assert all(torch.equal(received[name], expected[name]) for name in expected), part


def test_a_statement_is_read_and_a_contradiction_is_one_line(
    checkpoint: Path, tiny_base: Path, tmp_path: Path
) -> None:
    tensors = load_file(checkpoint) | {"v_pred": torch.tensor([])}
    path = tmp_path / "v.safetensors"
    save_file(tensors, path)
    with pytest.raises(AdapterError, match=r"predicts v_prediction, and --base-config .* epsilon") as raised:
        load_base(path, config=tiny_base)
    assert "\n" not in str(raised.value)
    velocity = shutil.copytree(tiny_base, tmp_path / "velocity")
    edit(velocity / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert load_base(path, config=velocity).scheduler.config.prediction_type == "v_prediction"
    save_file(load_file(checkpoint), path, metadata={"modelspec.prediction_type": "epsilon"})
    with pytest.raises(AdapterError, match="predicts epsilon, and --base-config"):
        load_base(path, config=velocity)
    assert load_base(path, config=tiny_base).scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize(
    ("keys", "metadata", "expected"),
    [
        ([], {}, Statement()),
        (["v_pred"], {}, Statement("v_prediction")),
        (["v_pred", "ztsnr"], {"modelspec.prediction_type": "v"}, Statement("v_prediction", True)),
        ([], {"modelspec.prediction_type": "epsilon"}, Statement("epsilon")),
        ([], {"modelspec.architecture": "stable-diffusion-v2-768-v"}, Statement("v_prediction")),
        ([], {"modelspec.architecture": "stable-diffusion-v2-512"}, Statement("epsilon")),
        ([], {"ss_base_model_version": "sd_v2_v"}, Statement("v_prediction")),
        ([], {"ss_base_model_version": "sd_v2"}, Statement()),
        ([], {"ss_v_parameterization": "True"}, Statement("v_prediction")),
        ([], {"ss_zero_terminal_snr": "True"}, Statement(zero_snr=True)),
        ([], {"ss_zero_terminal_snr": "False"}, Statement()),
        (["v_pred"], {"modelspec.prediction_type": "epsilon"}, "contradicts itself"),
        ([], {"modelspec.prediction_type": "x0"}, "expected epsilon or v"),
    ],
)
def test_statements(keys: list[str], metadata: dict[str, str], expected: Statement | str) -> None:
    if isinstance(expected, Statement):
        assert read_statement("m", keys, metadata) == expected
        return
    with pytest.raises(AdapterError, match=expected):
        read_statement("m", keys, metadata)


def test_a_statement_settles_what_the_keys_leave_open() -> None:
    shapes = {TEXT_KEY: [320, 1024]}
    assert recognise(Path("m"), shapes, Statement("v_prediction")) == "sd21"
    assert recognise(Path("m"), shapes, Statement("epsilon")) == "sd21-base"
    with pytest.raises(AdapterError, match="does not say whether"):
        recognise(Path("m"), shapes)
    lcm = {TEXT_KEY: [320, 768], "model.diffusion_model.time_embed.cond_proj.weight": [320, 256]}
    assert recognise(Path("m"), lcm) == "lcm"
    schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": False}
    assert joined("m", Statement(zero_snr=True), schedule, None)["rescale_betas_zero_snr"] is True
    with pytest.raises(AdapterError, match="key ztsnr"):
        joined("m", Statement(zero_snr=True), schedule, "folder")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TEXT, "cond_stage_model.clip_l.transformer."),
        (f"{TEXT}text_model.", TEXT),
        (f"{TEXT}text_model.", "cond_stage_model.clip_l.transformer."),
        (TEXT, "text_encoders.clip_l.transformer."),
    ],
)
def test_text_encoders_of_other_layouts_are_the_same(
    checkpoint: Path, tiny_base: Path, tmp_path: Path, old: str, new: str
) -> None:
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(checkpoint).items()}
    assert any(name.startswith(new) for name in tensors)
    save_file(tensors, tmp_path / "m.safetensors")
    assert_same_weights(load_base(tmp_path / "m.safetensors", config=tiny_base), load_base(tiny_base))


def test_an_lcm_checkpoint_keeps_its_guidance_scale(tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / "lcm", unet={**MINI_SHAPED, "time_cond_proj_dim": 20})
    save_scheduler(folder, LCMScheduler())
    weight = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")[
        "time_embedding.cond_proj.weight"
    ]
    folded = shutil.copytree(folder, tmp_path / "folded")
    load_base(folder).unet.save_pretrained(folded / "unet")
    original = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    checkpoint = write_ldm_checkpoint(
        tmp_path / "m.safetensors",
        folded,
        **{
            "model.diffusion_model.time_embed.cond_proj.weight": weight,
            "model.diffusion_model.time_embed.0.bias": original["time_embedding.linear_1.bias"],
        },
    )
    ours = load_base(checkpoint, config=folder)
    assert ours.sampling == "lcm"
    assert_same_weights(ours, load_base(folder))
    with pytest.raises(AdapterError, match=r"nothing reads: .*time_embed.cond_proj.weight"):
        load_base(checkpoint, config=folded)


@pytest.mark.parametrize("ending", [".scale_weight", ".weight_scale"])
def test_scaled_weights_are_multiplied(
    checkpoint: Path, tiny_base: Path, tmp_path: Path, ending: str
) -> None:
    tensors, key = load_file(checkpoint), TEXT_KEY.removesuffix(".weight")
    tensors[TEXT_KEY] = tensors[TEXT_KEY] / 4
    tensors |= {f"{key}{ending}": torch.tensor(4.0), "scaled_fp8": torch.tensor([])}
    save_file(tensors, tmp_path / "m.safetensors")
    ours = load_base(tmp_path / "m.safetensors", config=tiny_base)
    assert_same_weights(ours, load_base(tiny_base))
    del tensors[f"{key}{ending}"]
    save_file(tensors, tmp_path / "m.safetensors")
    other = load_base(tmp_path / "m.safetensors", config=tiny_base)
    with pytest.raises(AssertionError):
        assert_same_weights(other, ours)
    tensors[TEXT_KEY] = (tensors[TEXT_KEY] * 100).to(torch.uint8)
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(AdapterError, match=r"stores .*to_k.weight as U8, packed by a quantiser"):
        load_base(tmp_path / "m.safetensors", config=tiny_base)


def poison(path: Path, key: str, change: Any) -> None:
    tensors: dict[str, Tensor] = load_file(path)
    change(tensors, key)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet"),
        ("vae/diffusion_pytorch_model.safetensors", "vae"),
        ("text_encoder/model.safetensors", "text encoder"),
    ],
)
def test_a_value_that_is_not_finite_is_named_with_its_tensor(
    tiny_base: Path, tmp_path: Path, file: str, part: str, value: float
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    key = sorted(load_file(folder / file))[-1]

    def spoil(tensors: dict[str, Tensor], key: str) -> None:
        tensors[key].view(-1)[0] = value

    poison(folder / file, key, spoil)
    with pytest.raises(AdapterError, match=rf"the {part} of .* not finite numbers in {re.escape(key)}"):
        load_base(folder)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "vae",
            {"_class_name": "AutoencoderTiny"},
            r"vae is a AutoencoderTiny by its config.json and a AutoencoderKL by model_index.json",
        ),
        ("vae", {"_class_name": "AsymmetricAutoencoderKL"}, "is a AsymmetricAutoencoderKL"),
        ("unet", {"_class_name": "UNetMotionModel"}, "a UNet of videos"),
        ("unet", {"quantization_config": {"quant_method": "bitsandbytes"}}, "unet was packed .*bitsandbytes"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "is a T5EncoderModel"),
        ("text_encoder", {"quantization_config": {}}, "of an unknown method"),
    ],
)
def test_parts_of_other_classes_are_named(
    tiny_base: Path, tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    edit(folder / part / "config.json", **changes)
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(folder)
    assert "\n" not in str(raised.value)


def test_weights_of_a_folder_that_nothing_reads_are_named(tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    poison(path, "spare.weight", lambda tensors, key: tensors.update({key: torch.zeros(2)}))
    with pytest.raises(AdapterError, match=r"unet has weights that nothing reads: spare.weight"):
        load_base(folder)
    poison(path, "conv_in.scale_weight", lambda tensors, key: tensors.update({key: torch.zeros(1)}))
    with pytest.raises(AdapterError, match=r"scaled weights \(conv_in.scale_weight\)"):
        load_base(folder)


@pytest.mark.parametrize("nested", [True, False])
def test_the_printed_command_converts_every_form_of_pickle(
    checkpoint: Path, tiny_base: Path, tmp_path: Path, nested: bool
) -> None:
    tensors = load_file(checkpoint)
    torch.save({"state_dict": tensors, "epoch": 3} if nested else tensors, tmp_path / "FILE")
    torch.save({}, tmp_path / "m.ckpt")
    with pytest.raises(AdapterError, match="convert it: python -c") as raised:
        load_base(tmp_path / "m.ckpt")
    command = shlex.split(str(raised.value).split("convert it: ")[1])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert_same_weights(load_base(tmp_path / "model.safetensors", config=tiny_base), load_base(tiny_base))


def test_ema_copies_are_left_without_advice(
    checkpoint: Path, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = load_file(checkpoint)
    tensors |= {f"model_ema.x{i}": torch.zeros(1) for i in range(101)}
    save_file(tensors, tmp_path / "m.safetensors")
    assert_same_weights(load_base(tmp_path / "m.safetensors", config=tiny_base), load_base(tiny_base))
    assert "extract_ema" not in caplog.text
