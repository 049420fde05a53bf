"""LoRAs: the fused pipeline of diffusers and the arithmetic of the method, and every refusal by name."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from joined_files import CONVOLUTIONS, TEXT_LAYERS, UNET_LAYERS, as_kohya, as_peft, lora_matrices
from safetensors.torch import save_file
from stock_pictures import EQUAL_DB, decibels_from_diffusers
from tiny_models import tiny_unet

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.joined.additions import split_weight
from dreamcache.models.bases.joined.lora import join_lora
from dreamcache.models.errors import AdapterError, BaseWarning


@pytest.fixture(name="base")
def _base(tiny_base: Path) -> Base:
    return load_base(tiny_base)


@pytest.mark.parametrize("form", [as_kohya, as_peft])
def test_pictures_are_those_of_diffusers_fused_pipeline(
    form: type, base: Base, tiny_base: Path, tmp_path: Path
) -> None:
    layers = (*UNET_LAYERS, *CONVOLUTIONS)
    unet, text = lora_matrices(base.unet, UNET_LAYERS), lora_matrices(base.text_encoder, TEXT_LAYERS, 1)
    # A LoCon's convolutions have a rank and an alpha of their own, which diffusers knows with kohya's keys alone.
    unet |= lora_matrices(base.unet, CONVOLUTIONS, 2, rank=2 if form is as_kohya else 4)
    file = tmp_path / "style.safetensors"
    save_file(form(unet, text), file)
    before = {name: base.unet.get_submodule(name).weight.clone() for name in layers}
    record = join_lora(base.parts, f"{file}:0.7")
    assert (record.kind, record.name, record.weight) == ("lora", "style.safetensors", 0.7)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    assert decibels_from_diffusers(base, pipeline) < 40
    pipeline.load_lora_weights(str(file))
    pipeline.fuse_lora(lora_scale=0.7)
    assert decibels_from_diffusers(base, pipeline) >= EQUAL_DB
    for name, (down, up, alpha) in unet.items():
        scale = 0.7 * (alpha / len(down) if form is as_kohya else 1.0)
        change = scale * (up.flatten(1) @ down.flatten(1)).reshape(before[name].shape)
        torch.testing.assert_close(base.unet.get_submodule(name).weight, before[name] + change)
    assert not [name for name, _ in base.unet.named_parameters() if "lora" in name]


def test_two_after_each_other_add_up(base: Base, tmp_path: Path) -> None:
    unet = lora_matrices(base.unet, UNET_LAYERS[:1])
    save_file(as_peft(unet, {}), tmp_path / "a.safetensors")
    layer = base.unet.get_submodule(UNET_LAYERS[0])
    before = layer.weight.clone()
    for weight in ("2", "-0.5"):
        join_lora(base.parts, f"{tmp_path / 'a.safetensors'}:{weight}")
    down, up, _ = unet[UNET_LAYERS[0]]
    torch.testing.assert_close(base.unet.get_submodule(UNET_LAYERS[0]).weight, before + 1.5 * up @ down)


def test_a_scale_that_diffusers_reads_otherwise_than_the_file_is_refused(base: Base, tmp_path: Path) -> None:
    """diffusers loses kohya's alphas of attentions where they differ by layer."""
    layers = {"UNet": (base.unet, UNET_LAYERS), "text encoder": (base.text_encoder, TEXT_LAYERS)}
    even = {part: lora_matrices(model, names) for part, (model, names) in layers.items()}
    uneven = {
        part: {name: (down, up, 1.0 + i) for i, (name, (down, up, _)) in enumerate(found.items())}
        for part, found in even.items()
    }
    lone = as_kohya(even["UNet"], {})
    del lone["lora_unet_" + UNET_LAYERS[1].replace(".", "_") + ".alpha"]
    before = {name: parameter.clone() for name, parameter in base.unet.named_parameters()}
    for name, tensors, layer in (
        ("unet", as_kohya(uneven["UNet"], {}), "attn2.to_out.0 of the unet"),
        ("text", as_kohya({}, uneven["text encoder"]), "q_proj of the text encoder at 0.5"),
        # Without an alpha it is the rank.
        ("lone", lone, "attn2.to_out.0 of the unet at 0.5 times, and the file says 1 "),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(AdapterError, match=rf"diffusers would join .*{layer}") as raised:
            join_lora(base.parts, str(tmp_path / f"{name}.safetensors"))
        assert "\n" not in str(raised.value)
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.unet.named_parameters())
    # One alpha for all attentions is kept, whatever convolutions have.
    save_file(as_kohya(even["UNet"], even["text encoder"]), tmp_path / "even.safetensors")
    join_lora(base.parts, str(tmp_path / "even.safetensors"))


def test_what_cannot_be_joined_whole_is_refused_by_name(base: Base, tmp_path: Path) -> None:
    unet, text = lora_matrices(base.unet, UNET_LAYERS), lora_matrices(base.text_encoder, TEXT_LAYERS)
    kohya, peft = as_kohya(unet, text), as_peft(unet, text)
    wide = tiny_unet(block_out_channels=(32, 64, 64, 64))
    first = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    nan = {key: value.clone() for key, value in kohya.items()}
    nan[f"{first}.lora_up.weight"][0, 0] = torch.nan
    refused = {
        "wide": (as_kohya(lora_matrices(wide, UNET_LAYERS[:1]), {}), "made for another architecture: .*16 channels"),
        "deep": ({"unet.down_blocks.3.attentions.0.proj_in.lora_A.weight": torch.zeros(2, 2)}, "nothing reads: do"),
        "sdxl": ({**kohya, "lora_te2_text_model_x.lora_down.weight": torch.zeros(1)}, "a LoRA of SDXL"),
        "flux": ({"transformer.x.lora_A.weight": torch.zeros(1)}, "a transformer"),
        "dora": ({**kohya, f"{first}.dora_scale": torch.ones(1)}, r"a DoRA \(lora_unet"),
        "loha": ({f"{first}.hada_w1_a": torch.zeros(1)}, "a LoHa"),
        "lokr": ({f"{first}.lokr_w1": torch.zeros(1)}, "a LoKr"),
        "cp": ({**kohya, f"{first}.lora_mid.weight": torch.zeros(1)}, "third matrix"),
        "spare": ({**peft, "unet.spare.lora_A.weight": torch.zeros(1, 1)}, "nothing reads: spare.lora_A.weight"),
        "bare": ({"down_blocks.0.lora_A.weight": torch.zeros(1)}, "nothing reads: down_blocks.0"),
        "half": ({key: peft[key] for key in peft if "attn1.to_q.lora_B" not in key}, "lacks .*lora_B.weight"),
        "ranks": (as_peft(unet | lora_matrices(base.unet, CONVOLUTIONS, rank=8), {}), "at 0.5 times, .* file says 1 "),
        "nan": (nan, "not finite in lora_unet"),
        "packed": ({**kohya, f"{first}.lora_up.weight": torch.zeros(16, 2, dtype=torch.int8)}, "packed by a quantiser"),
        "none": ({}, "nothing reads"),
        "flat": ({key: value.flatten(1) for key, value in peft.items()}, r"\[4, 32\], .* kernel \[1, 1\] after"),
        "rank": ({key: value[:0] if "_A" in key else value[:, :0] for key, value in peft.items()}, "expected a rank"),
        "inside": ({**kohya, "bundle_emb.toy.string_to_param.*": torch.zeros(1)}, "with textual inversions inside"),
        "norm": ({**kohya, f"{first}.w_norm": torch.zeros(1)}, "cannot place .*to_q.w_norm"),
    }  # fmt: skip
    before = {name: parameter.clone() for name, parameter in base.unet.named_parameters()}
    for name, (tensors, message) in refused.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(AdapterError, match=message) as raised:
            join_lora(base.parts, str(tmp_path / f"{name}.safetensors"))
        assert "\n" not in str(raised.value), name
        assert f"--lora {tmp_path}" in str(raised.value), name
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.unet.named_parameters())
    (tmp_path / "a.pt").touch()
    with pytest.raises(AdapterError, match="is a pickle"):
        join_lora(base.parts, str(tmp_path / "a.pt"))
    with pytest.raises(FileNotFoundError, match="no file at"):
        join_lora(base.parts, f"{tmp_path / 'absent.safetensors'}:0.5")


@pytest.mark.parametrize(
    ("metadata", "warned"),
    [
        ({"ss_v_parameterization": "True"}, "trained on v_prediction, and the base predicts epsilon"),
        ({"modelspec.prediction_type": "v"}, "trained on v_prediction, and the base predicts epsilon"),
        ({"modelspec.prediction_type": "epsilon"}, None),
        ({"ss_v_parameterization": "False", "ss_v2": "False"}, None),
    ],
)
def test_a_lora_of_another_prediction_is_warned_of(
    base: Base, tmp_path: Path, metadata: dict[str, str], warned: str | None
) -> None:
    tensors = as_kohya(lora_matrices(base.unet, UNET_LAYERS[:1]), {})
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        join_lora(base.parts, str(tmp_path / "a.safetensors"))
    texts = [str(one.message) for one in said if one.category is BaseWarning]
    assert len(texts) == (warned is not None)
    assert warned is None or warned in texts[0]


def test_weights_are_read_off_the_end() -> None:
    assert split_weight("a/b.safetensors:0.25") == (Path("a/b.safetensors"), 0.25)
    assert split_weight("a/b.safetensors") == (Path("a/b.safetensors"), 1.0)
    assert split_weight("C:/b.safetensors") == (Path("C:/b.safetensors"), 1.0)
    with pytest.raises(AdapterError, match="a finite weight"):
        split_weight("a.safetensors:nan")
