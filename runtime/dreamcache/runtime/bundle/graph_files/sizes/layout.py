"""Shapes of operators that arrange, cut, repeat and enlarge tensors: their sizes stand in the file or follow from it.

Source: the ONNX operator specification (onnx.ai/onnx/operators). A size that is computed of a picture or a latent is
refused: nothing bounds it.
"""

from __future__ import annotations

from math import prod

import numpy as np

from dreamcache.runtime.bundle.graph_files.sizes.call import Call, Rule, Shape, axis_of, broadcast, slice_of


def _reshape(call: Call) -> Shape:
    asked, given = call.needed(call.numbers(1, "shape"), -1), call.first
    if not call.node.whole("allowzero", 0):
        if any(side == 0 and place >= len(given) for place, side in enumerate(asked)):
            raise ValueError(f"Reshape: {asked} does not fit to {list(given)}")
        asked = [given[place] if side == 0 else side for place, side in enumerate(asked)]
    rest = prod(side for side in asked if side != -1)
    if asked.count(-1) == 1 and rest and prod(given) % rest == 0:
        asked = [prod(given) // rest if side == -1 else side for side in asked]
    if -1 in asked or prod(asked) != prod(given):
        raise ValueError(f"Reshape: {asked} does not fit to {list(given)}")
    return tuple(asked)


def _flatten(call: Call) -> Shape:
    axis = call.node.whole("axis", 1)
    axis = axis_of(axis, len(call.first)) if axis < 0 else axis
    return (prod(call.first[:axis]), prod(call.first[axis:]))


def _squeeze(call: Call) -> Shape:
    axes = call.numbers(1, "axes")
    rank = len(call.first)
    gone = {axis for axis in range(rank) if call.first[axis] == 1}
    if axes is not None:
        if not axes:  # all that can go or none, as ONNX Runtime's optimizer happens to decide
            raise ValueError("Squeeze: at least one axis is expected")
        chosen = {axis_of(axis, rank) for axis in axes}
        if chosen - gone:
            raise ValueError(f"Squeeze: axes of length 1 are expected, received {list(call.first)}")
        gone = chosen
    return tuple(side for axis, side in enumerate(call.first) if axis not in gone)


def _unsqueeze(call: Call) -> Shape:
    axes = call.needed(call.numbers(1, "axes"), -64)
    rank = len(call.first) + len(axes)
    new, sides = {axis_of(axis, rank) for axis in axes}, iter(call.first)
    if len(new) != len(axes):
        raise ValueError("Unsqueeze: every axis once is expected")
    return tuple(1 if axis in new else next(sides) for axis in range(rank))


def _transpose(call: Call) -> Shape:
    order = call.node.wholes("perm") or list(reversed(range(len(call.first))))
    if sorted(order) != list(range(len(call.first))):
        raise ValueError("Transpose: every axis once is expected")
    return tuple(call.first[axis] for axis in order)


def _slice(call: Call) -> Shape:
    starts, ends = (call.numbers(place, name) for place, name in ((1, "starts"), (2, "ends")))
    starts, ends = call.needed(starts, -(1 << 63)), call.needed(ends, -(1 << 63))
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    steps = call.numbers(4) or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ValueError("Slice: as many beginnings as ends are expected")
    made = list(call.first)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis_of(axis, len(made))
        if step < 0 and not made[place]:  # on which ONNX Runtime ends the process
            raise ValueError("Slice: an axis that is not empty is expected")
        made[place] = len(slice_of(made[place], start, end, step))
    return tuple(made)


def split_shapes(call: Call) -> list[Shape]:
    """Of every output of `Split`."""
    axis = axis_of(call.node.whole("axis", 0), len(call.first))
    side, count = call.first[axis], len(call.node.outputs)
    parts = call.numbers(1, "split")
    if parts is None:
        most = -(-side // count)
        parts = [min(most, max(0, side - place * most)) for place in range(count)]
    if len(parts) != count or min(parts) < 0 or sum(parts) != side:
        raise ValueError(f"Split: {count} parts of {side} are expected, received {parts}")
    return [(*call.first[:axis], part, *call.first[axis + 1 :]) for part in parts]


def _concat(call: Call) -> Shape:
    axis = axis_of(call.node.whole("axis", 0), len(call.first))
    if (
        len({(*shape[:axis], *shape[axis + 1 :]) for shape in call.shapes}) > 1
        or len({*map(len, call.shapes)}) > 1
    ):
        raise ValueError(f"Concat: {[list(shape) for shape in call.shapes[:4]]} do not fit to each other")
    return (*call.first[:axis], sum(shape[axis] for shape in call.shapes), *call.first[axis + 1 :])


def _expand(call: Call) -> Shape:
    return broadcast([call.first, tuple(call.needed(call.numbers(1)))])


def _tile(call: Call) -> Shape:
    times = call.needed(call.numbers(1))
    if len(times) != len(call.first):
        raise ValueError("Tile: a number for every axis is expected")
    return tuple(side * number for side, number in zip(call.first, times, strict=True))


def _pad(call: Call) -> Shape:
    pads = call.needed(call.numbers(1, "pads"), -(1 << 63))
    axes = call.numbers(3) or list(range(len(call.first)))
    if len(pads) != 2 * len(axes):
        raise ValueError("Pad: two numbers for every axis are expected")
    made = list(call.first)
    for place, axis in enumerate(axes):
        made[axis_of(axis, len(made))] += pads[place] + pads[place + len(axes)]
    return tuple(made)


def _resize(call: Call) -> Shape:
    given = call.first
    axes = call.node.wholes("axes") or list(range(len(given)))
    if call.node.word("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("Resize: sizes that stretch are expected")
    if call.node.word("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise ValueError("Resize: a whole picture is expected, no part of one")
    sizes = call.numbers(3)
    if sizes is None:
        place = 1 if len(call.node.inputs) == 2 else 2
        scales = call.known[place] if place < len(call.known) else None
        if scales is None or scales.ndim != 1 or not np.isfinite(scales).all():
            raise ValueError("Resize asks for an unknown number of elements")
        enlarged = zip(axes, scales.astype(np.float32), strict=True)
        sizes = [int(np.float32(given[axis]) * scale) for axis, scale in enlarged]
    if len(sizes) != len(axes) or min(sizes) < 0:
        raise ValueError("Resize: a size for every axis is expected")
    made = list(given)
    for axis, size in zip(axes, sizes, strict=True):
        made[axis_of(axis, len(made))] = size
    return tuple(made)


def _gather(call: Call) -> Shape:
    axis = axis_of(call.node.whole("axis", 0), len(call.first))
    return (*call.first[:axis], *call.shapes[1], *call.first[axis + 1 :])


def _gather_elements(call: Call) -> Shape:
    return call.shapes[1]


def _gather_nd(call: Call) -> Shape:
    batch = call.node.whole("batch_dims", 0)
    if (
        not call.shapes[1]
        or not 0 <= batch < len(call.shapes[1])
        or batch + call.shapes[1][-1] > len(call.first)
    ):
        raise ValueError("GatherND: indices for the tensor's axes are expected")
    return (*call.shapes[1][:-1], *call.first[batch + call.shapes[1][-1] :])


def _depth(call: Call) -> Shape:
    block = call.node.whole("blocksize", 0)
    if block < 1 or len(call.first) != 4:
        raise ValueError(f"{call.node.operator}: a picture and a block of at least 1 are expected")
    b, c, h, w = call.first
    if call.node.operator == "DepthToSpace":
        return (b, c // block**2, h * block, w * block)
    return (b, c * block**2, h // block, w // block)


def _filled(call: Call) -> Shape:
    return tuple(call.needed(call.numbers(0)))


def _shape(call: Call) -> Shape:
    end = call.node.whole("end", len(call.first))
    return (len(range(*slice(call.node.whole("start", 0), end).indices(len(call.first)))),)


def _constant(call: Call) -> Shape:
    for name, value in call.node.attributes.items():
        if name in ("value_ints", "value_floats") and isinstance(value, list):
            return (len(value),)
        if name in ("value_int", "value_float"):
            return ()
    raise ValueError("Constant: a tensor or numbers are expected")


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _depth,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
