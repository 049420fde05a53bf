"""Every operation that the interpreter knows, saved by coremltools, against PyTorch or numpy on its own."""

# ruff: noqa: ARG005 (every case takes the same three inputs)
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402, N813

from dreamcache.export.coreml.mil.interpreter import Interpreter  # noqa: E402
from dreamcache.export.coreml.mil.operators import OPERATORS  # noqa: E402
from dreamcache.export.coreml.mil.package import open_package  # noqa: E402
from dreamcache.export.coreml.mil.program import read_program  # noqa: E402
from dreamcache.export.errors import ExportError  # noqa: E402

RANDOM = np.random.default_rng(0)
MAP = RANDOM.standard_normal((1, 4, 6, 8)).astype(np.float32)
OTHER = RANDOM.standard_normal((1, 4, 6, 8)).astype(np.float32)
ROWS = RANDOM.standard_normal((2, 5, 8)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((3, 8)).astype(np.float32)
BIAS = RANDOM.standard_normal(3).astype(np.float32)
KERNEL = RANDOM.standard_normal((6, 2, 3, 3)).astype(np.float32)
GAMMA, BETA, MEAN = (RANDOM.standard_normal(4).astype(np.float32) for _ in range(3))
VARIANCE = RANDOM.uniform(0.5, 2, 4).astype(np.float32)
GAIN, SHIFT = (RANDOM.standard_normal(8).astype(np.float32) for _ in range(2))
PLACES = np.array([2, 0, 3], np.int32)

Build = Callable[[Any, Any, Any], Any]
Expected = Callable[[Tensor, Tensor, Tensor], Tensor]

CASES: dict[str, tuple[Build, Expected]] = {
    "add": (lambda m, o, r: mb.add(x=m, y=o), lambda m, o, r: m + o),
    "sub": (lambda m, o, r: mb.sub(x=m, y=o), lambda m, o, r: m - o),
    "mul": (lambda m, o, r: mb.mul(x=m, y=o), lambda m, o, r: m * o),
    "real_div": (lambda m, o, r: mb.real_div(x=m, y=o), lambda m, o, r: m / o),
    "maximum": (lambda m, o, r: mb.maximum(x=m, y=o), lambda m, o, r: torch.maximum(m, o)),
    "minimum": (lambda m, o, r: mb.minimum(x=m, y=o), lambda m, o, r: torch.minimum(m, o)),
    "pow": (lambda m, o, r: mb.pow(x=m, y=3.0), lambda m, o, r: m**3),
    "greater_equal": (
        lambda m, o, r: mb.cast(x=mb.greater_equal(x=m, y=o), dtype="fp32"),
        lambda m, o, r: (m >= o).float(),
    ),
    "greater": (lambda m, o, r: mb.cast(x=mb.greater(x=m, y=m), dtype="fp32"), lambda m, o, r: 0 * m),
    "less_equal": (
        lambda m, o, r: mb.cast(x=mb.less_equal(x=m, y=m), dtype="fp32"),
        lambda m, o, r: 0 * m + 1,
    ),
    "less": (lambda m, o, r: mb.cast(x=mb.less(x=m, y=o), dtype="fp32"), lambda m, o, r: (m < o).float()),
    "equal": (lambda m, o, r: mb.cast(x=mb.equal(x=m, y=o), dtype="fp32"), lambda m, o, r: 0 * m),
    "select": (
        lambda m, o, r: mb.select(cond=mb.greater(x=m, y=o), a=m, b=o),
        lambda m, o, r: torch.maximum(m, o),
    ),
    "relu": (lambda m, o, r: mb.relu(x=m), lambda m, o, r: m.clamp(min=0)),
    "silu": (lambda m, o, r: mb.silu(x=m), lambda m, o, r: m * torch.sigmoid(m)),
    "square": (lambda m, o, r: mb.square(x=m), lambda m, o, r: m * m),
    "sqrt": (lambda m, o, r: mb.sqrt(x=mb.abs(x=m)), lambda m, o, r: m.abs().sqrt()),
    "rsqrt": (
        lambda m, o, r: mb.rsqrt(x=mb.abs(x=m), epsilon=0.1),
        lambda m, o, r: 1 / (m.abs() + 0.1).sqrt(),
    ),
    "abs": (lambda m, o, r: mb.abs(x=m), lambda m, o, r: m.abs()),
    "sin": (lambda m, o, r: mb.sin(x=m), lambda m, o, r: m.sin()),
    "cos": (lambda m, o, r: mb.cos(x=m), lambda m, o, r: m.cos()),
    "exp": (lambda m, o, r: mb.exp(x=m), lambda m, o, r: m.exp()),
    "sigmoid": (lambda m, o, r: mb.sigmoid(x=m), lambda m, o, r: 1 / (1 + (-m).exp())),
    "tanh": (lambda m, o, r: mb.tanh(x=m), lambda m, o, r: m.tanh()),
    "erf": (lambda m, o, r: mb.erf(x=m), lambda m, o, r: m.erf()),
    "clip": (lambda m, o, r: mb.clip(x=m, alpha=-0.5, beta=0.25), lambda m, o, r: m.clip(-0.5, 0.25)),
    "gelu": (lambda m, o, r: mb.gelu(x=m, mode="EXACT"), lambda m, o, r: m * (1 + (m / 2**0.5).erf()) / 2),
    "gelu tanh": (
        lambda m, o, r: mb.gelu(x=m, mode="TANH_APPROXIMATION"),
        lambda m, o, r: functional.gelu(m, approximate="tanh"),
    ),
    "gelu sigmoid": (
        lambda m, o, r: mb.gelu(x=m, mode="SIGMOID_APPROXIMATION"),
        lambda m, o, r: m / (1 + (-1.702 * m).exp()),
    ),
    "softmax": (
        lambda m, o, r: mb.softmax(x=m, axis=1),
        lambda m, o, r: m.exp() / m.exp().sum(1, keepdim=True),
    ),
    "linear": (
        lambda m, o, r: mb.linear(x=r, weight=WEIGHT, bias=BIAS),
        lambda m, o, r: r @ torch.from_numpy(WEIGHT).T + torch.from_numpy(BIAS),
    ),
    "matmul": (lambda m, o, r: mb.matmul(x=r, y=r, transpose_y=True), lambda m, o, r: r @ r.transpose(1, 2)),
    "matmul transposed": (
        lambda m, o, r: mb.matmul(x=r, y=r, transpose_x=True),
        lambda m, o, r: r.transpose(1, 2) @ r,
    ),
    "einsum": (
        lambda m, o, r: mb.einsum(
            values=(m, mb.transpose(x=o, perm=(0, 3, 2, 1))), equation="nchw,nwhu->nchu"
        ),
        lambda m, o, r: torch.einsum("nchw,nwhu->nchu", m, o.permute(0, 3, 2, 1)),
    ),
    "scaled_dot_product_attention": (
        lambda m, o, r: mb.scaled_dot_product_attention(query=m, key=o, value=o),
        lambda m, o, r: torch.softmax(m @ o.transpose(2, 3) / 8**0.5, -1) @ o,
    ),
    "conv": (
        lambda m, o, r: mb.conv(
            x=m, weight=KERNEL, strides=[2, 1], pad_type="custom", pad=[1, 0, 2, 1], groups=2
        ),
        lambda m, o, r: functional.conv2d(
            functional.pad(m, (2, 1, 1, 0)), torch.from_numpy(KERNEL), stride=(2, 1), groups=2
        ),
    ),
    "conv same": (
        lambda m, o, r: mb.conv(x=m, weight=KERNEL, pad_type="same", groups=2, dilations=[1, 2]),
        lambda m, o, r: functional.conv2d(
            m, torch.from_numpy(KERNEL), padding=(1, 2), dilation=(1, 2), groups=2
        ),
    ),
    "pad": (
        lambda m, o, r: mb.pad(x=m, pad=[0, 1, 2, 0], mode="constant", constant_val=0.5),
        lambda m, o, r: functional.pad(m, (2, 0, 0, 1), value=0.5),
    ),
    "batch_norm": (
        lambda m, o, r: mb.batch_norm(
            x=m, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=1e-3
        ),
        lambda m, o, r: (
            (m - _channel(MEAN)) / (_channel(VARIANCE) + 1e-3).sqrt() * _channel(GAMMA) + _channel(BETA)
        ),
    ),
    "layer_norm": (
        lambda m, o, r: mb.layer_norm(x=r, axes=[-1], gamma=GAIN, beta=SHIFT, epsilon=1e-3),
        lambda m, o, r: (
            (r - r.mean(-1, keepdim=True))
            / (r.var(-1, keepdim=True, correction=0) + 1e-3).sqrt()
            * torch.from_numpy(GAIN)
            + torch.from_numpy(SHIFT)
        ),
    ),
    "reduce_mean": (
        lambda m, o, r: mb.reduce_mean(x=m, axes=[2, 3], keep_dims=True),
        lambda m, o, r: m.mean((2, 3), keepdim=True),
    ),
    "reduce_sum": (lambda m, o, r: mb.reduce_sum(x=m, axes=[1], keep_dims=False), lambda m, o, r: m.sum(1)),
    "reduce_max": (lambda m, o, r: mb.reduce_max(x=m, axes=[1], keep_dims=False), lambda m, o, r: m.amax(1)),
    "reduce_argmax": (
        lambda m, o, r: mb.reduce_argmax(x=m, axis=1, keep_dims=False),
        lambda m, o, r: m.argmax(1),
    ),
    "reshape": (lambda m, o, r: mb.reshape(x=m, shape=(1, 8, -1)), lambda m, o, r: m.reshape(1, 8, 24)),
    "transpose": (
        lambda m, o, r: mb.transpose(x=m, perm=(0, 2, 3, 1)),
        lambda m, o, r: m.permute(0, 2, 3, 1),
    ),
    "expand_dims": (lambda m, o, r: mb.expand_dims(x=r, axes=[0, -1]), lambda m, o, r: r[None, ..., None]),
    "squeeze": (lambda m, o, r: mb.squeeze(x=m, axes=[0]), lambda m, o, r: m[0]),
    "concat": (lambda m, o, r: mb.concat(values=(m, o), axis=1), lambda m, o, r: torch.cat([m, o], 1)),
    "stack": (lambda m, o, r: mb.stack(values=(m, o), axis=2), lambda m, o, r: torch.stack([m, o], 2)),
    "split": (
        lambda m, o, r: mb.split(x=m, split_sizes=[1, 3], axis=1)[1],
        lambda m, o, r: m[:, 1:],
    ),
    "split evenly": (lambda m, o, r: mb.split(x=m, num_splits=2, axis=3)[0], lambda m, o, r: m[..., :4]),
    "tile": (lambda m, o, r: mb.tile(x=r, reps=[1, 2, 3]), lambda m, o, r: r.repeat(1, 2, 3)),
    "slice_by_index": (
        lambda m, o, r: mb.slice_by_index(
            x=m,
            begin=[0, 1, 0, 2],
            end=[1, 2, 0, 8],
            stride=[1, 1, 1, 3],
            begin_mask=[False, False, True, False],
            end_mask=[False, False, True, False],
            squeeze_mask=[False, True, False, False],
        ),
        lambda m, o, r: m[:, 1, :, 2:8:3],
    ),
    "gather": (lambda m, o, r: mb.gather(x=m, indices=PLACES, axis=1), lambda m, o, r: m[:, [2, 0, 3]]),
    "gather_along_axis": (
        lambda m, o, r: mb.gather_along_axis(x=r, indices=np.zeros((2, 1, 8), np.int32), axis=1),
        lambda m, o, r: r[:, :1],
    ),
    "gather_nd": (
        lambda m, o, r: mb.gather_nd(x=m, indices=np.array([[0, 1], [0, 3]], np.int32), batch_dims=0),
        lambda m, o, r: m[:, [1, 3]].flatten(0, 1),
    ),
    "upsample_nearest_neighbor": (
        lambda m, o, r: mb.upsample_nearest_neighbor(x=m, scale_factor_height=2.0, scale_factor_width=3.0),
        lambda m, o, r: m.repeat_interleave(2, 2).repeat_interleave(3, 3),
    ),
    "avg_pool": (
        lambda m, o, r: mb.avg_pool(x=m, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"),
        lambda m, o, r: m.reshape(1, 4, 3, 2, 4, 2).mean((3, 5)),
    ),
    "cast": (lambda m, o, r: mb.cast(x=mb.cast(x=m, dtype="int32"), dtype="fp32"), lambda m, o, r: m.trunc()),
    "identity": (lambda m, o, r: mb.identity(x=m), lambda m, o, r: m),
}
TOLERANCE = 1e-5


def _channel(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values)[:, None, None]


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float32]]:
    """What the interpreter makes of one program that holds every case."""
    specs = [mb.TensorSpec(shape=value.shape) for value in (MAP, OTHER, ROWS)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)  # type: ignore[untyped-decorator]
    def program(m: Any, o: Any, r: Any) -> Any:
        # An operation whose result is an output by name keeps it through coremltools' passes.
        return tuple(
            mb.identity(x=build(m, o, r), name=f"out_{index}")
            for index, (build, _) in enumerate(CASES.values())
        )

    folder = tmp_path_factory.mktemp("operators") / "All.mlpackage"
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(folder))
    (function,) = read_program(open_package(folder)).values()
    found = Interpreter(function).run({"m": MAP, "o": OTHER, "r": ROWS})
    return {name: found[f"out_{index}"] for index, name in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_pytorch_does(case: str, computed: dict[str, NDArray[np.float32]]) -> None:
    expected = CASES[case][1](*(torch.from_numpy(value) for value in (MAP, OTHER, ROWS))).numpy()
    assert computed[case].shape == expected.shape
    assert np.abs(computed[case] - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(("case", "other"), [("gelu", "gelu tanh"), ("add", "sub"), ("conv", "conv same")])
def test_one_is_not_another(case: str, other: str, computed: dict[str, NDArray[np.float32]]) -> None:
    """The closest pair, two forms of gelu, lie further apart than the tolerance."""
    found = computed[other]
    same = found.shape == computed[case].shape and np.abs(found - computed[case]).max() <= TOLERANCE
    assert not same


def test_no_operation_goes_untested() -> None:
    tested = {case.split()[0] for case in CASES}
    assert {name for name in OPERATORS if not name.startswith("constexpr_")} == tested


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS18)  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        return mb.cumsum(x=x, axis=0)

    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True
    )
    model.save(str(tmp_path / "Odd.mlpackage"))
    (function,) = read_program(open_package(tmp_path / "Odd.mlpackage")).values()
    with pytest.raises(ExportError, match="operations cumsum are not implemented"):
        Interpreter(function)
