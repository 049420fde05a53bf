"""Shapes that operators make of shapes: arithmetic, products, convolutions, pooling and reductions.

Source: the ONNX operator specification (onnx.ai/onnx/operators) and ONNX Runtime's contrib operators. Where a form of
an operator is not covered it is refused: no bundle of ours holds it.
"""

from __future__ import annotations

from math import prod

from dreamcache.runtime.bundle.graph_files.nodes import Node
from dreamcache.runtime.bundle.graph_files.sizes.call import Call, Rule, Shape, axis_of, broadcast


def like_first(call: Call) -> Shape:
    """Of operators that change values alone."""
    return call.first


def _broadcast_all(call: Call) -> Shape:
    return broadcast([shape for shape, name in zip(call.shapes, call.node.inputs, strict=True) if name])


def _of(*places: int) -> Rule:
    """Of quantised sums and products, which have scales between their operands."""
    return lambda call: broadcast([call.shapes[place] for place in places])


def product(one: Shape, two: Shape) -> Shape:
    """numpy's matmul. Raises: ValueError where the shapes do not fit."""
    if not one or not two:
        raise ValueError("MatMul: tensors of at least one axis are expected")
    left, right = (one if len(one) > 1 else (1, *one)), (two if len(two) > 1 else (*two, 1))
    if left[-1] != right[-2]:
        raise ValueError(f"MatMul: {list(one)} and {list(two)} do not fit to each other")
    rows, columns = left[-2:-1] * (len(one) > 1), right[-1:] * (len(two) > 1)
    return (*broadcast([left[:-2], right[:-2]]), *rows, *columns)


def _product(one: int, two: int) -> Rule:
    return lambda call: product(call.shapes[one], call.shapes[two])


def _turned(shape: Shape, turn: int) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if turn and len(shape) > 1 else shape


def _fused_product(call: Call) -> Shape:
    if call.node.whole("transBatchA", 0) or call.node.whole("transBatchB", 0):
        raise ValueError("FusedMatMul: batches in their order are expected")
    return product(
        *(
            _turned(shape, call.node.whole(f"trans{side}", 0))
            for shape, side in zip(call.shapes, "AB", strict=False)
        )
    )


def _gemm(call: Call) -> Shape:
    one, two = (
        _turned(shape, call.node.whole(f"trans{side}", 0))
        for shape, side in zip(call.shapes, "AB", strict=False)
    )
    if len(one) != 2 or len(two) != 2:
        raise ValueError("Gemm: two matrices are expected")
    return product(one, two)


def _packed_product(call: Call) -> Shape:
    return (*call.first[:-1], call.node.whole("N", 0))


def _attention(call: Call) -> Shape:
    """Query, key and value alone: with a mask or a bias ONNX Runtime writes every weight out."""
    if len(call.shapes) != 3 or any(len(shape) != 3 for shape in call.shapes):
        raise ValueError("MultiHeadAttention: a query, a key and a value [b, n, d] are expected")
    if call.node.whole("unidirectional", 0):
        raise ValueError("MultiHeadAttention: attention in both directions is expected")
    query, key, value = call.shapes
    if query[0] != key[0] or query[2] != key[2] or key[:2] != value[:2]:
        raise ValueError(
            f"MultiHeadAttention: {[list(shape) for shape in call.shapes]} do not fit to each other"
        )
    return (*query[:2], value[2])


def _window(node: Node, shape: Shape, kernel: Shape) -> tuple[list[int], list[int], list[int], str]:
    """Steps, dilations, paddings and the word of automatic padding of a convolution or a pooling."""
    sides = len(shape) - 2
    if sides < 1 or len(kernel) != sides:
        raise ValueError(f"{node.operator}: a picture [b, c, …] and a kernel for it are expected")
    steps = node.wholes("strides") or [1] * sides
    spread = node.wholes("dilations") or [1] * sides
    pads = node.wholes("pads") or [0] * 2 * sides
    if (len(steps), len(spread), len(pads)) != (sides, sides, 2 * sides):
        raise ValueError(f"{node.operator}: as many steps as sides are expected")
    if min(*steps, *spread, *kernel) < 1 or min(pads) < 0:
        raise ValueError(f"{node.operator}: steps and kernels of at least 1 are expected")
    return steps, spread, pads, node.word("auto_pad", "NOTSET")


def _slid(node: Node, shape: Shape, kernel: Shape, ceiling: bool = False) -> Shape:
    """How often a kernel fits into each side."""
    steps, spread, pads, automatic = _window(node, shape, kernel)
    made, sides = [], len(kernel)
    for place, side in enumerate(shape[2:]):
        step, reach = steps[place], (kernel[place] - 1) * spread[place] + 1
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            made.append(-(-side // step))
            continue
        free = side - reach + (0 if automatic == "VALID" else pads[place] + pads[place + sides])
        if free < 0:
            raise ValueError(f"{node.operator}: a kernel that fits into {list(shape)} is expected")
        count = (-(-free // step) if ceiling else free // step) + 1
        # a window that would begin in the padding behind the picture does not count
        made.append(count - (ceiling and (count - 1) * step >= side + pads[place]))
    return tuple(made)


def _convolution(picture: int, weight: int) -> Rule:
    def rule(call: Call) -> Shape:
        shape, weights = call.shapes[picture], call.shapes[weight]
        return (*shape[:1], *weights[:1], *_slid(call.node, shape, weights[2:]))

    return rule


def _transposed(call: Call) -> Shape:
    shape, weights = call.first, call.shapes[1]
    steps, spread, pads, automatic = _window(call.node, shape, weights[2:])
    asked, more = call.node.wholes("output_shape"), call.node.wholes("output_padding") or [0] * len(steps)
    if len(more) != len(steps) or (asked is not None and len(asked) != len(steps)):
        raise ValueError("ConvTranspose: as many sizes as sides are expected")
    if automatic not in ("NOTSET", "VALID") and asked is None:
        raise ValueError("ConvTranspose: paddings in numbers are expected, which versions do not differ in")
    made = []
    for place, side in enumerate(shape[2:]):
        grown = steps[place] * (side - 1) + more[place] + (weights[place + 2] - 1) * spread[place] + 1
        if automatic == "NOTSET":
            grown -= pads[place] + pads[place + len(steps)]
        made.append(grown if asked is None else asked[place])
    if min(made) < 1:
        raise ValueError("ConvTranspose: a picture of at least one pixel is expected")
    return (*shape[:1], weights[1] * call.node.whole("group", 1), *made)


def _pooled(call: Call) -> Shape:
    kernel = tuple(call.node.wholes("kernel_shape") or ())
    return (*call.first[:2], *_slid(call.node, call.first, kernel, bool(call.node.whole("ceil_mode", 0))))


def _global(call: Call) -> Shape:
    return (*call.first[:2], *(1 for _ in call.first[2:]))


def _reduced(call: Call) -> Shape:
    axes = call.numbers(1, "axes")
    if not axes and call.node.whole("noop_with_empty_axes", 0):
        return call.first
    gone = {axis_of(axis, len(call.first)) for axis in axes} if axes else set(range(len(call.first)))
    return _without(call.first, gone, call.node.whole("keepdims", 1))


def _largest_place(call: Call) -> Shape:
    return _without(
        call.first, {axis_of(call.node.whole("axis", 0), len(call.first))}, call.node.whole("keepdims", 1)
    )


def _without(shape: Shape, gone: set[int], keep: int) -> Shape:
    return tuple(1 if axis in gone else side for axis, side in enumerate(shape) if keep or axis not in gone)


def multiplications(node: Node, shapes: list[Shape], made: Shape) -> int:
    """How many an operator that takes products needs; 0 of others."""
    if "MatMul" in node.operator or node.operator == "Gemm":
        inner = shapes[0][-2] if node.attributes.get("transA") and len(shapes[0]) > 1 else shapes[0][-1]
        return prod(made) * inner
    if node.operator in ("Conv", "ConvTranspose"):
        return prod(made if node.operator == "Conv" else shapes[0]) * prod(shapes[1][1:])
    if node.operator == "QLinearConv":
        return prod(made) * prod(shapes[3][1:])
    return prod(made) * shapes[1][1] if node.operator == "MultiHeadAttention" else 0


_LIKE_FIRST = (
    "Abs BatchNormalization BiasGelu Cast Ceil Clip Cos DequantizeLinear DynamicQuantizeLinear Erf Exp FastGelu Floor "
    "Gelu GroupNorm GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Log Mish Neg Not PRelu QuantizeLinear QuickGelu Reciprocal Relu Round ScatterND Sigmoid Sign Sin "
    "SkipLayerNormalization Softmax Softplus Sqrt Tanh"
)
_BROADCAST = "Add And Div Equal Greater Less Max Min Mod Mul Or Pow Sub Sum Where"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_LIKE_FIRST.split(), like_first),
    **dict.fromkeys(_BROADCAST.split(), _broadcast_all),
    "QLinearAdd": _of(0, 3),
    "QLinearMul": _of(0, 3),
    "MatMul": _product(0, 1),
    "MatMulInteger": _product(0, 1),
    "MatMulIntegerToFloat": _product(0, 1),
    "DynamicQuantizeMatMul": _product(0, 1),
    "QLinearMatMul": _product(0, 3),
    "FusedMatMul": _fused_product,
    "Gemm": _gemm,
    "MatMulNBits": _packed_product,
    "MultiHeadAttention": _attention,
    "Conv": _convolution(0, 1),
    "QLinearConv": _convolution(0, 3),
    "ConvTranspose": _transposed,
    "AveragePool": _pooled,
    "MaxPool": _pooled,
    "GlobalAveragePool": _global,
    "ReduceMax": _reduced,
    "ReduceMean": _reduced,
    "ReduceSum": _reduced,
    "ArgMax": _largest_place,
}
