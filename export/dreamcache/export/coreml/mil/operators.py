"""What each MIL operation computes, in PyTorch.

Source: coremltools, the definitions in `converters/mil/mil/ops/defs`. Every function takes an operation's arguments by
MIL's parameter names, as tensors, and returns its outputs. What is missing is an error that names
it, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dreamcache.export.coreml.mil.arguments import Arguments
from dreamcache.export.errors import ExportError

Operator = Callable[[Arguments], Tensor | tuple[Tensor, ...]]

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function under the names of the operations that it computes."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "square": torch.square,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "identity": lambda x: x,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "greater_equal": torch.ge,
    "greater": torch.gt,
    "less_equal": torch.le,
    "less": torch.lt,
    "equal": torch.eq,
}


def _of_one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda given: function(given.tensor("x"))


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda given: function(given.tensor("x"), given.tensor("y"))


OPERATORS.update({name: _of_one(function) for name, function in _UNARY.items()})
OPERATORS.update({name: _of_two(function) for name, function in _BINARY.items()})


@operator("rsqrt")
def _rsqrt(given: Arguments) -> Tensor:
    return torch.rsqrt(given.tensor("x") + given.real("epsilon", 1e-12))


@operator("select")
def _select(given: Arguments) -> Tensor:
    return torch.where(given.tensor("cond").bool(), given.tensor("a"), given.tensor("b"))


@operator("clip")
def _clip(given: Arguments) -> Tensor:
    return torch.clip(given.tensor("x"), given.tensor("alpha"), given.tensor("beta"))


@operator("reduce_mean")
def _reduce_mean(given: Arguments) -> Tensor:
    return given.tensor("x").mean(given.numbers("axes"), keepdim=given.flag("keep_dims"))


@operator("reduce_sum")
def _reduce_sum(given: Arguments) -> Tensor:
    return given.tensor("x").sum(given.numbers("axes"), keepdim=given.flag("keep_dims"))


@operator("reduce_max")
def _reduce_max(given: Arguments) -> Tensor:
    return given.tensor("x").amax(given.numbers("axes"), keepdim=given.flag("keep_dims"))


@operator("reduce_argmax")
def _reduce_argmax(given: Arguments) -> Tensor:
    found = given.tensor("x").argmax(given.number("axis"), keepdim=given.flag("keep_dims"))
    return found.to(torch.int32)


@operator("reshape")
def _reshape(given: Arguments) -> Tensor:
    # 0 keeps an axis's size.
    asked = given.numbers("shape")
    return given.tensor("x").reshape(
        [given.tensor("x").shape[axis] if size == 0 else size for axis, size in enumerate(asked)]
    )


@operator("transpose")
def _transpose(given: Arguments) -> Tensor:
    return given.tensor("x").permute(given.numbers("perm"))


@operator("expand_dims")
def _expand_dims(given: Arguments) -> Tensor:
    x, axes = given.tensor("x"), given.numbers("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def _squeeze(given: Arguments) -> Tensor:
    x = given.tensor("x")
    return x.squeeze(tuple(given.numbers("axes"))) if "axes" in given else x.squeeze()


@operator("concat")
def _concat(given: Arguments) -> Tensor:
    if given.flag("interleave"):
        raise ExportError("concat with interleave is not known")
    return torch.cat(given.tensors("values"), given.number("axis"))


@operator("stack")
def _stack(given: Arguments) -> Tensor:
    return torch.stack(given.tensors("values"), given.number("axis"))


@operator("split")
def _split(given: Arguments) -> tuple[Tensor, ...]:
    axis = given.number("axis")
    if "split_sizes" in given:
        return torch.split(given.tensor("x"), given.numbers("split_sizes"), axis)
    return torch.chunk(given.tensor("x"), given.number("num_splits"), axis)


@operator("tile")
def _tile(given: Arguments) -> Tensor:
    return given.tensor("x").repeat(given.numbers("reps"))


@operator("slice_by_index")
def _slice(given: Arguments) -> Tensor:
    x = given.tensor("x")

    begins, ends = given.numbers("begin"), given.numbers("end")
    strides = given.numbers("stride", [1] * x.ndim)
    if min(strides) < 1:
        raise ExportError("slice_by_index with a negative stride is not known")
    masks = zip(
        given.flags("begin_mask", x.ndim),
        given.flags("end_mask", x.ndim),
        given.flags("squeeze_mask", x.ndim),
        strict=True,
    )
    index: list[int | slice] = []
    for begin, end, stride, (from_start, to_end, squeeze) in zip(begins, ends, strides, masks, strict=True):
        if squeeze:
            index.append(begin)
        else:
            index.append(slice(None if from_start else begin, None if to_end else end, stride))
    return x[tuple(index)]


@operator("gather")
def _gather(given: Arguments) -> Tensor:
    x, indices, axis = (
        given.tensor("x"),
        given.tensor("indices").long(),
        given.number("axis", 0) % given.tensor("x").ndim,
    )
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("gather_along_axis")
def _gather_along_axis(given: Arguments) -> Tensor:
    return torch.gather(given.tensor("x"), given.number("axis", 0), given.tensor("indices").long())


_CASTS = {
    "fp16": torch.float32,  # the interpreter rounds, where it emulates
    "fp32": torch.float32,
    "int32": torch.int32,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


@operator("cast")
def _cast(given: Arguments) -> Tensor:
    return given.tensor("x").to(_CASTS[given.text("dtype", "")])


@operator("gather_nd")
def _gather_nd(given: Arguments) -> Tensor:
    x, indices = given.tensor("x"), given.tensor("indices").long()
    if given.number("batch_dims", 0):
        raise ExportError(
            "gather_nd: batch_dims of 0 is expected, received another; this is a fault of the exporter"
        )
    return x[tuple(indices.unbind(-1))]
