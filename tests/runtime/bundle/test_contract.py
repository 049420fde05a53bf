"""The contract: what it accepts, what it refuses and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dreamcache.runtime.bundle.architecture import denoiser_inputs
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, FORMAT_VERSION, dump_contract, parse_contract
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


def test_a_latent_of_terabytes_is_refused(raw: dict[str, Any]) -> None:
    raw["architecture"]["latent_height"] = 1 << 40
    with pytest.raises(BundleError, match="elements are expected") as caught:
        parse_contract(json.dumps(raw))
    assert "\n" not in str(caught.value)


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
