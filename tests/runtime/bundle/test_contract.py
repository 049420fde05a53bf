"""The contract: what it accepts, what it refuses and in which words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dreamcache.runtime.bundle.architecture import denoiser_inputs
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, FORMAT_VERSION, dump_contract, parse_contract
from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.errors import BundleError


@pytest.fixture
def raw(pristine: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((pristine / CONTRACT_NAME).read_text(encoding="utf-8"))
    return fields


def test_round_trip(pristine: Path) -> None:
    text = (pristine / CONTRACT_NAME).read_text(encoding="utf-8")
    contract = parse_contract(text)
    assert contract.format_version == 1 < FORMAT_VERSION
    assert dump_contract(contract) == text
    assert parse_contract(dump_contract(contract)) == contract


def test_denoiser_tensors_are_named_by_site(tiny: ModuleType) -> None:
    specs = denoiser_inputs(tiny.architecture(batch=3))
    assert [spec.name for spec in specs] == [
        "latent",
        "timestep",
        "text",
        "reference_strength",
        "mid_block.attentions.0.key",
        "mid_block.attentions.0.value",
        "up_blocks.1.attentions.1.key",
        "up_blocks.1.attentions.1.value",
    ]
    assert [spec.shape for spec in specs[:5]] == [(3, 4, 4, 4), (3,), (3, 8, 6), (3,), (1, 4, 8)]


def test_a_newer_format_says_so_whatever_else_it_holds() -> None:
    with pytest.raises(BundleError, match=r"bundle format 99 is newer than 2.*pip install --upgrade"):
        parse_contract('{"format_version": 99, "things": "unknown here"}')


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format_version": "1"}', '{"format_version": true}']
)
def test_what_is_no_contract_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"dreamcache\.json"):
        parse_contract(text)


def test_unknown_and_missing_fields_are_named(raw: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="surprise"):
        parse_contract(json.dumps({**raw, "surprise": 1}))
    del raw["vae"]
    with pytest.raises(BundleError, match="vae"):
        parse_contract(json.dumps(raw))


@pytest.mark.parametrize("kept", [None, 16])
def test_a_bundle_of_0_1_that_takes_all_reference_tokens_is_read(
    raw: dict[str, Any], kept: int | None
) -> None:
    current = parse_contract(json.dumps(raw))
    raw["architecture"]["sites"][1]["kept_tokens"] = kept
    assert parse_contract(json.dumps(raw)) == current
    assert "kept_tokens" not in dump_contract(current)


@pytest.mark.parametrize("kept", [8, 15, 17, 0, "all"])
def test_a_bundle_of_0_1_that_leaves_reference_tokens_out_is_refused(
    raw: dict[str, Any], kept: object
) -> None:
    raw["architecture"]["sites"][1]["kept_tokens"] = kept
    with pytest.raises(
        BundleError,
        match=rf"sites\.1: all tokens .* expected, received kept_tokens {kept}, [^\n]*; export the bundle again "
        r"without --reference-tokens$",
    ):
        parse_contract(json.dumps(raw))


@pytest.mark.parametrize(
    "path",
    ["../outside.onnx", "/etc/passwd", "unet\\model.onnx", "C:/model.onnx", "unet/../../x", "", "a//b"],
)
def test_paths_that_leave_are_refused(raw: dict[str, Any], path: str) -> None:
    raw["files"][path] = raw["files"]["unet/model.onnx"]
    with pytest.raises(BundleError, match="a path below the bundle is expected"):
        parse_contract(json.dumps(raw))
    del raw["files"][path]
    raw["graphs"]["denoiser"]["file"] = path
    with pytest.raises(BundleError, match="a path below the bundle is expected"):
        parse_contract(json.dumps(raw))


def test_tensors_that_contradict_the_architecture_are_refused(raw: dict[str, Any]) -> None:
    raw["graphs"]["denoiser"]["inputs"][4]["shape"] = [1, 4, 9]
    with pytest.raises(BundleError, match=r"mid_block.attentions.0.key \[1, 4, 8\] float32 is expected"):
        parse_contract(json.dumps(raw))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("graphs.denoiser.inputs.0.shape", [1 << 30, 4], "at most 268435456 elements are expected"),
        ("architecture.latent_height", 1 << 40, r"latent_height: .* less than or equal to 8192"),
        ("architecture.latent_height", 5, "as many times as high and wide"),
        ("architecture.batch", 65, r"batch: .* less than or equal to 64"),
        ("text.bos_id", 1 << 40, r"bos_id: .* less than 2147483648"),
        ("scheduler.num_train_timesteps", 10**9, r"num_train_timesteps: .* less than or equal to 10000"),
        ("scheduler.beta_end", 1.0, r"beta_end: .* less than 1"),
        ("scheduler.beta_start", 1e-9, "beta_start: .* greater than or equal to"),
        ("scheduler.beta_end", 0.9, "leave a signal of .* at the last one"),
        ("scheduler.steps_offset", 10**6, r"steps_offset: .* less than 10000"),
        ("guidance.guidance_scale", 1e300, r"guidance_scale: .* less than or equal to 10000"),
        ("graphs.text_encoder.outputs", [], r"outputs: .* at least 1 item"),
        (
            "graphs.text_encoder.outputs.0.shape",
            [1, 8, 7],
            r"text_encoder: one input \[1, 8\] and a float output",
        ),
        ("graphs.vae_decoder.inputs.0.shape", [1, 4, 8, 8], r"vae_decoder: one input \[1, 4, 4, 4\]"),
    ],
)
def test_numbers_out_of_bounds_are_refused(raw: dict[str, Any], place: str, value: Any, message: str) -> None:
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    holder = raw
    for part in path:
        holder = holder[part]
    assert holder[last] != value
    holder[last] = value
    with pytest.raises(BundleError, match=message) as caught:
        parse_contract(json.dumps(raw))
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused(raw: dict[str, Any]) -> None:
    text = json.dumps(raw)
    assert parse_contract(text).precision == "fp32"
    with pytest.raises(BundleError, match="the key 'precision' stands twice"):
        parse_contract(text[:-1] + ', "precision": "int8"}')


def test_a_file_that_is_a_pipe_is_not_waited_for(bundle: Path) -> None:
    (bundle / CONTRACT_NAME).unlink()
    os.mkfifo(bundle / CONTRACT_NAME)
    with pytest.raises(BundleError, match=r"dreamcache\.json: it is not a regular file"):
        open_contract(bundle)


def test_a_graph_fingerprint_that_does_not_follow_from_the_files_is_refused(raw: dict[str, Any]) -> None:
    raw["files"]["unet/weights.data"]["sha256"] = "0" * 64
    with pytest.raises(BundleError, match="graph fingerprint"):
        parse_contract(json.dumps(raw))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1.0"])
def test_numbers_that_are_none_are_refused(raw: dict[str, Any], number: str) -> None:
    text = json.dumps(raw).replace('"scaling_factor": 0.5', f'"scaling_factor": {number}')
    assert number in text
    with pytest.raises(BundleError, match="scaling_factor"):
        parse_contract(text)
