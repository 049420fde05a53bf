"""The authors' adapters layout: every released key has one place in ours, and other layouts are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from released_layout import RELEASED_SITES, as_released
from tiny_models import MINI_SHAPED, randomise_adapters, tiny_unet
from torch import Tensor

from dreamcache.models.bases.released import adapters_from_released, released_name
from dreamcache.models.checkpoint import adapter_state
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.errors import AdapterError

QUERY = "diffusion_model.output_blocks.4.1.transformer_blocks.0.attn_mem.to_q.weight"


@pytest.mark.parametrize(("block", "site"), RELEASED_SITES.items())
def test_blocks_of_stable_diffusion(block: str, site: str) -> None:
    key = f"diffusion_model.{block}.transformer_blocks.0.linear_cat.bias"
    assert released_name(key, 2) == f"{site}.fuse.bias"
    assert released_name(f"model.{key}", 2) == f"{site}.fuse.bias"


def test_the_released_sites_are_the_papers() -> None:
    assert [site.name for site in ConditionedUNet(tiny_unet()).sites] == list(RELEASED_SITES.values())


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_every_parameter_arrives(prefix: str) -> None:
    model = randomise_adapters(ConditionedUNet(tiny_unet()))
    converted = adapters_from_released(as_released(model, prefix), tiny_unet())
    received = adapter_state(converted)
    assert len(received) == 45
    assert all(torch.equal(received[name], value) for name, value in adapter_state(model).items())
    start = adapter_state(ConditionedUNet(tiny_unet()))
    assert not any(torch.equal(received[name], start[name]) for name in start)


def test_half_precision_is_read_into_float32() -> None:
    released = {key: value.half() for key, value in as_released(ConditionedUNet(tiny_unet())).items()}
    received = adapter_state(adapters_from_released(released, tiny_unet()))
    assert {value.dtype for value in received.values()} == {torch.float32}


def drop(released: dict[str, Tensor]) -> None:
    del released[QUERY]


def other_name(released: dict[str, Tensor]) -> None:
    released[QUERY.replace("attn_mem", "attn9")] = released.pop(QUERY)


def other_block(released: dict[str, Tensor]) -> None:
    released[QUERY.replace("blocks.4", "blocks.5")] = released.pop(QUERY)


def cut(released: dict[str, Tensor]) -> None:
    released[QUERY] = released[QUERY][:-1]


def put_nan(released: dict[str, Tensor]) -> None:
    released[QUERY] = torch.full_like(released[QUERY], torch.nan)


def put_text(released: dict[str, Tensor]) -> None:
    released[QUERY] = "words"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"missing are 1 keys \(up_blocks.1.attentions.1.to_q.weight\)"),
        (other_name, r"1 keys \(diffusion_model.output_blocks.4.1.*attn9.*\) of another layout"),
        (other_block, r"without a place are 1 keys \(diffusion_model.output_blocks.5.* missing are 1 keys"),
        (cut, r"to_q.weight is \[47, 48\], expected \[48, 48\]"),
        (put_nan, "not finite"),
        (put_text, "is not a tensor of numbers"),
    ],
)
def test_other_layouts_are_listed(damage: Callable[[dict[str, Tensor]], None], message: str) -> None:
    released = as_released(ConditionedUNet(tiny_unet()))
    damage(released)
    with pytest.raises(AdapterError, match=message) as raised:
        adapters_from_released(released, tiny_unet(), "a.pt")
    assert str(raised.value).startswith("a.pt")
    assert "\n" not in str(raised.value)


def test_another_base_is_noticed() -> None:
    released = as_released(ConditionedUNet(tiny_unet()))
    with pytest.raises(AdapterError, match=r"without a place are \d+ keys .* and \d+ more"):
        adapters_from_released(released, tiny_unet(**MINI_SHAPED))
    with pytest.raises(AdapterError, match="levels of different lengths"):
        adapters_from_released(released, tiny_unet(layers_per_block=(2, 1, 1, 2)))
