"""One walk over a graph: what every tensor takes, what lies in memory at once, and what is made of constants alone.

ONNX Runtime computes the last while a session opens, so nothing may depend on it to say how large they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from dreamcache.runtime.bundle.graph_files.contents import GraphFile
from dreamcache.runtime.bundle.graph_files.nodes import Node
from dreamcache.runtime.bundle.graph_files.sizes import layout, shapes
from dreamcache.runtime.bundle.graph_files.sizes.call import Call, Known, Shape
from dreamcache.runtime.bundle.graph_files.sizes.layout import split_shapes
from dreamcache.runtime.bundle.graph_files.sizes.values import computed, stored_values

_RULES = shapes.RULES | layout.RULES
# Operators of which a further output is as large as the first.
_ALIKE = ("MaxPool", "SkipLayerNormalization")
_MOST_AXES = 32
MOST_ELEMENTS = 1 << 32
"""Of one tensor, whatever a contract says: the weights of SD 1.5's attention at 1024 px, of a batch of two."""


@dataclass
class MemoryNeeds:
    """What a graph needs, in elements. largest: of one tensor; its name. live: of all at once, in the file's order.

    constant: of all that are made of constants alone; constant_products: the multiplications for them.
    shapes, known: of every tensor, and of those whose values are known.
    """

    shapes: dict[str, Shape]
    known: dict[str, Known]
    largest: int = 0
    largest_name: str = ""
    live: int = 0
    constant: int = 0
    constant_products: int = 0


def memory_needs(graph: GraphFile, given: Mapping[str, Shape]) -> MemoryNeeds:
    """What a graph needs, of its inputs' shapes.

    Raises: ValueError for a tensor whose size cannot be known, or a node whose inputs do not fit.
    """
    walk = _Walk(graph, given)
    needs, last = MemoryNeeds(walk.shapes, walk.known), _last_reads(graph)
    alive, together = dict[str, int](), 0
    for place, node in enumerate(graph.nodes):
        if node.operator == "Constant" and node.tensors:
            continue
        inputs = [walk.shape(name) for name in node.inputs]
        made = walk.add(node, inputs)
        sizes = {name: prod(shape) for name, shape in made.items()}
        if made and walk.constant.issuperset(made):
            needs.constant += sum(sizes.values())
            needs.constant_products += shapes.multiplications(node, inputs, next(iter(made.values())))
            continue
        alive |= sizes
        together += sum(sizes.values())
        for name, size in sizes.items():
            if size > needs.largest:
                needs.largest, needs.largest_name = size, name
        needs.live = max(needs.live, together)
        for name in {*node.inputs, *made}:
            if last.get(name, place) <= place:
                together -= alive.pop(name, 0)
    return needs


class _Walk:
    """Shapes and values of the tensors so far, and which are made of constants alone."""

    def __init__(self, graph: GraphFile, given: Mapping[str, Shape]) -> None:
        self.shapes: dict[str, Shape] = {name: tensor.shape for name, tensor in graph.stored.items()}
        self.known: dict[str, Known] = {name: stored_values(tensor) for name, tensor in graph.stored.items()}
        for name in graph.inputs:  # one that is stored too may be given another value
            if name not in given:
                raise ValueError(f"input {name!r} is not declared")
            self.shapes[name] = given[name]
            self.known.pop(name, None)
        self.constant = set(graph.stored) - set(graph.inputs)

    def shape(self, name: str) -> Shape:
        """Of an input of a node; an absent one has none. Raises: ValueError for one that is not made yet."""
        if name and name not in self.shapes:
            raise ValueError(f"{name!r} is read before it is made")
        return self.shapes[name] if name else ()

    def add(self, node: Node, inputs: list[Shape]) -> dict[str, Shape]:
        """The shapes of a node's outputs by name. Raises: ValueError."""
        try:
            return self._add(Call(node, inputs, [self.known.get(name) for name in node.inputs]))
        except (IndexError, OverflowError, TypeError) as error:
            raise ValueError(f"{node.operator}: inputs that fit are expected") from error

    def _add(self, call: Call) -> dict[str, Shape]:
        node, made = call.node, _output_shapes(call)
        constant = all(name in self.constant for name in node.inputs if name)
        for place, (name, shape) in enumerate(made.items()):
            if name in self.shapes:
                raise ValueError(f"the tensor {name!r} stands twice")
            if len(shape) > _MOST_AXES or min(shape, default=0) < 0:
                raise ValueError(f"{node.operator}: a shape is expected, received {list(shape)[:_MOST_AXES]}")
            if prod(shape) > MOST_ELEMENTS:
                raise ValueError(f"{node.operator} asks for more than {MOST_ELEMENTS} elements")
            self.shapes[name] = shape
            if constant:
                self.constant.add(name)
            if not place:
                self.known[name] = computed(call, shape)
        return made


def _output_shapes(call: Call) -> dict[str, Shape]:
    """Of a node, by the names of the outputs that anybody can read."""
    node = call.node
    if node.operator == "Split":
        return {name: shape for name, shape in zip(node.outputs, split_shapes(call), strict=True) if name}
    first = _RULES[node.operator](call)
    made = {name: first for name in node.outputs[:1] if name}
    for name in filter(None, node.outputs[1:]):
        if node.operator == "DynamicQuantizeLinear":
            made[name] = ()
        elif node.operator in _ALIKE:
            made[name] = first
        else:
            raise ValueError(f"{node.operator}: one output is expected")
    return made


def _last_reads(graph: GraphFile) -> dict[str, int]:
    """The place of the last node that reads a tensor; outputs are read at the end."""
    last = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    return last | dict.fromkeys(graph.outputs, len(graph.nodes))
