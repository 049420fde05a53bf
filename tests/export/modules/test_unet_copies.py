"""Twins of a UNet: the same function from the same memory, with other modules."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime
import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from tiny_models import MINI_SHAPED, SD15_SHAPED, TEXT_WIDTH, tiny_unet
from torch import nn

from dreamcache.export.graphs.trace import export_graph
from dreamcache.export.modules.unet_copies import (
    Constant,
    Pointwise,
    PointwisePicture,
    SplitGeglu,
    copy_at_timestep,
    copy_with_products,
    gelu,
)
from dreamcache.runtime.bundle.tensors import TensorSpec

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


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_geglu_in_halves_computes_the_same(bias: bool) -> None:
    layer = GEGLU(16, 48, bias=bias)
    tokens, split = torch.randn(2, 40, 16), SplitGeglu(layer)
    # float32: products of another width sum in another order.
    torch.testing.assert_close(split(tokens), layer(tokens), atol=1e-5, rtol=1e-4)
    split.value, split.gate = split.gate, split.value
    assert (split(tokens) - layer(tokens)).abs().max() > 0.1


def test_gelu_is_pytorchs_to_the_last_bits() -> None:
    x = torch.linspace(-8, 8, 4001)
    torch.testing.assert_close(gelu(x), torch.nn.functional.gelu(x), atol=1e-6, rtol=1e-6)


def test_onnx_runtime_sees_gelu_and_copies_no_half(tmp_path: Path) -> None:
    block = FeedForward(16, activation_fn="geglu")
    block.net[0] = SplitGeglu(block.net[0])
    tokens = TensorSpec(name="tokens", shape=(1, 40, 16), dtype="float32")
    model = export_graph(block, [tokens], [tokens.model_copy(update={"name": "result"})])
    ir.save(model, tmp_path / "block.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "block.onnx", options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in ir.load(tmp_path / "optimised.onnx").graph]
    assert operators.count("Gelu") == 1
    assert not {"Split", "Erf"} & set(operators)


def test_a_twin_takes_no_memory() -> None:
    unet = tiny_unet(**MINI_SHAPED)
    own = {tensor.untyped_storage().data_ptr() for tensor in unet.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in copy_with_products(unet).parameters()} <= own
    text = torch.randn(1, 5, TEXT_WIDTH)
    new = [
        tensor
        for tensor in copy_at_timestep(unet, 7, text, None).parameters()
        if tensor.untyped_storage().data_ptr() not in own
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
