"""Twins of a UNet: the same function from the same memory, with other modules."""

from __future__ import annotations

import pytest
import torch
from tiny_models import MINI_SHAPED, SD15_SHAPED, TEXT_WIDTH, tiny_unet
from torch import nn

from dreamcache.export.modules.unet_copies import (
    Constant,
    Pointwise,
    PointwisePicture,
    copy_at_timestep,
    copy_with_products,
)

# Its blocks take tokens already, so the copy runs as it is; others run through `dreamcache.models.walk.unet`, as
# graphs.
LINEAR = {**MINI_SHAPED, "use_linear_projection": True}


@torch.no_grad()
def test_shortcuts_as_products_compute_what_convolutions_do() -> None:
    unet = tiny_unet(**LINEAR)
    torch.manual_seed(0)
    latent, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, TEXT_WIDTH)
    before = unet(latent, 300, text).sample
    copied = copy_with_products(unet)
    shortcuts = [name for name, _ in unet.named_modules() if name.endswith("conv_shortcut")]
    assert sum(type(m) is PointwisePicture for m in copied.modules()) == len(shortcuts) > 0
    # float32: the sums run in another order.
    torch.testing.assert_close(copied(latent, 300, text).sample, before, atol=1e-5, rtol=1e-4)
    assert torch.equal(unet(latent, 300, text).sample, before)


@torch.no_grad()
def test_projections_take_tokens() -> None:
    unet = tiny_unet(**SD15_SHAPED)
    copied = copy_with_products(unet)
    place = "down_blocks.1.attentions.0.proj_in"
    convolution, product = unet.get_submodule(place), copied.get_submodule(place)
    assert type(convolution) is nn.Conv2d
    assert type(product) is Pointwise
    picture = torch.randn(2, 32, 4, 6)
    tokens = picture.flatten(2).transpose(1, 2)
    expected = convolution(picture).flatten(2).transpose(1, 2)
    torch.testing.assert_close(product(tokens), expected, atol=1e-6, rtol=1e-5)
    assert (product(tokens.flip(1)) - expected).abs().max() > 0.1
    assert not [m for m in copied.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    with pytest.raises(AssertionError):
        Pointwise(unet.conv_in)


def test_a_twin_takes_no_memory() -> None:
    unet = tiny_unet(**MINI_SHAPED)
    own = {tensor.data_ptr() for tensor in unet.parameters()}
    assert {tensor.data_ptr() for tensor in copy_with_products(unet).parameters()} <= own
    text = torch.randn(1, 5, TEXT_WIDTH)
    new = [
        tensor
        for tensor in copy_at_timestep(unet, 7, text, None).parameters()
        if tensor.data_ptr() not in own
    ]
    # One result of the time projection for each residual block, and nothing else.
    constants = [m for m in copy_at_timestep(unet, 7, text, None).modules() if isinstance(m, Constant)]
    assert len(new) == len(constants) == 12


@torch.no_grad()
def test_a_timestep_is_built_in() -> None:
    unet = tiny_unet(**LINEAR)
    torch.manual_seed(0)
    latent, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, TEXT_WIDTH)
    fixed = copy_at_timestep(unet, 7, text, None)
    for asked in (7, 900):
        torch.testing.assert_close(
            fixed(latent, asked, text).sample, unet(latent, 7, text).sample, atol=1e-5, rtol=1e-4
        )
    assert (fixed(latent, 900, text).sample - unet(latent, 900, text).sample).abs().max() > 1e-2
