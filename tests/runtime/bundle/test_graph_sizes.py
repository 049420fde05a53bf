"""Graphs that ask for too much memory are refused before a session opens, and the real ones have room."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dreamcache.runtime.bundle.folder import MINI_FOLDER, open_bundle, open_contract
from dreamcache.runtime.bundle.graph_files.contents import read_graph
from dreamcache.runtime.bundle.graph_files.sizes.limits import (
    SizeLimits,
    bundle_limits,
    check_sizes,
    longest_shapes,
    picture_limits,
)
from dreamcache.runtime.bundle.graph_files.sizes.memory import memory_needs
from dreamcache.runtime.errors import BundleError

FLOAT = TensorProto.FLOAT


def _f(*shape: int) -> NDArray[np.float32]:
    return np.linspace(0.1, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def _i(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _stored(model: ModelProto, name: str, array: NDArray[Any]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _nodes(*lines: tuple[str, list[str], str], **stored: Any) -> Callable[[ModelProto], None]:
    """Nodes with their stored inputs; `latent` is the graph's own."""

    def change(model: ModelProto) -> None:
        for name, values in stored.items():
            _stored(model, name, np.asarray(values))
        for operator, inputs, output in lines:
            attributes: dict[str, Any] = {"axis": 0} if operator == "Concat" else {}
            model.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))

    return change


def _doubled(source: str, times: int) -> list[tuple[str, list[str], str]]:
    names = [source, *(f"{source}_{place}" for place in range(times))]
    return [("Concat", [one, one], two) for one, two in pairwise(names)]


def _flat(*rest: tuple[str, list[str], str]) -> list[tuple[str, list[str], str]]:
    """The latent as a row and as a column, and more."""
    return [("Reshape", ["latent", "to_row"], "a"), ("Reshape", ["latent", "to_column"], "b"), *rest]


FLAT = {"to_row": _i(1, -1), "to_column": _i(-1, 1)}
NUMBERS = np.ones(1 << 14, np.float32)

MADE, TOO_MANY = "elements are made of constants, at most", "elements, at most 4194304 are expected"
MANY = [f"e{place}" for place in range(40)]
LIKE = [f"c{place}" for place in range(400)]
AGAIN = np.zeros(1 << 14, np.int64)

BOMBS: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "a shape in the file": (
        _nodes(("ConstantOfShape", ["n"], "y"), n=_i(1 << 20, 5000)),
        "ConstantOfShape asks for more than",
    ),
    "Expand": (
        _nodes(("Expand", ["latent", "n"], "y"), n=_i(1 << 30, 1, 1, 1, 1)),
        "Expand asks for more than",
    ),
    "Tile": (_nodes(("Tile", ["latent", "n"], "y"), n=_i(1, 1, 1 << 14, 1 << 14)), "Tile asks for more than"),
    "Pad": (
        _nodes(("Pad", ["latent", "n"], "y"), n=_i(0, 0, 0, 0, 0, 0, 1 << 20, 1 << 20)),
        "Pad asks for more than",
    ),
    "Resize by scales": (
        _nodes(("Resize", ["latent", "", "n"], "y"), n=np.array([1, 1, 1e4, 1e4], np.float32)),
        "Resize asks for more than",
    ),
    "Resize to sizes": (
        _nodes(("Resize", ["latent", "", "", "n"], "y"), n=_i(1, 4, 1 << 13, 1 << 13)),
        "tensor 'y' has 268435456 elements",
    ),
    "an unknown number": (
        _nodes(
            ("ArgMax", ["latent"], "c"),
            ("Reshape", ["c", "one"], "d"),
            ("Expand", ["latent", "d"], "y"),
            one=_i(-1),
        ),
        "Expand asks for an unknown number",
    ),
    "numbers multiplied": (
        _nodes(
            ("Mul", ["n", "n"], "m"),
            ("Concat", ["m", "m"], "s"),
            ("ConstantOfShape", ["s"], "y"),
            n=_i(1 << 14),
        ),
        "ConstantOfShape asks for more than",
    ),
    "a number taken often": (
        _nodes(
            ("Gather", ["n", "often"], "s"), ("ConstantOfShape", ["s"], "y"), n=_i(1 << 14), often=_i(0, 0, 0)
        ),
        "ConstantOfShape asks for more than",
    ),
    "constants side by side": (_nodes(*_doubled("c", 12), c=NUMBERS), MADE),
    "a large constant again and again": (
        _nodes(*(("Add", ["c", "one"], name) for name in LIKE), c=NUMBERS, one=np.float32(1)),
        MADE,
    ),
    "a product of constants": (
        _nodes(("MatMul", ["a", "b"], "y"), a=NUMBERS[:, None], b=NUMBERS[None]),
        MADE,
    ),
    "a sum of constants": (_nodes(("Add", ["a", "b"], "y"), a=NUMBERS[:, None], b=NUMBERS[None]), MADE),
    "Where of constants": (
        _nodes(("Where", ["t", "a", "b"], "y"), t=np.ones(1, bool), a=NUMBERS[:, None], b=NUMBERS[None]),
        MADE,
    ),
    "rows taken often": (
        _nodes(("Gather", ["c", "often"], "y"), c=NUMBERS.reshape(4, -1), often=AGAIN),
        MADE,
    ),
    "a latent side by side": (_nodes(*_doubled("latent", 20)), TOO_MANY),
    "a latent times itself": (
        _nodes(
            *_flat(
                ("MatMul", ["b", "a"], "c"),
                ("Reshape", ["c", "to_row"], "d"),
                ("Reshape", ["c", "to_column"], "e"),
                ("MatMul", ["e", "d"], "f"),
                ("Reshape", ["f", "to_row"], "g"),
                ("Add", ["g", "b"], "h"),
            ),
            **FLAT,
        ),
        TOO_MANY,
    ),
    "many at once": (
        _nodes(
            *(("Expand", ["latent", "n"], name) for name in MANY), ("Sum", MANY, "y"), n=_i(1 << 16, 1, 1, 1)
        ),
        "elements at once, at most",
    ),
    "a transposed convolution": (
        lambda model: model.graph.node.append(
            helper.make_node(
                "ConvTranspose", ["latent", _stored(model, "w", _f(4, 1, 1, 1))], ["y"], strides=[999, 999]
            )
        ),
        TOO_MANY,
    ),
    "one tensor twice": (
        _nodes(("Neg", ["latent"], "y"), ("Neg", ["latent"], "y")),
        "the tensor 'y' stands twice",
    ),
    "an undeclared input": (
        lambda model: model.graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1])),
        "input 'more' is not declared",
    ),
    "a node before its input": (
        _nodes(("Neg", ["later"], "y"), ("Neg", ["latent"], "later")),
        "'later' is read before it is made",
    ),
    "a mask of attention": (
        lambda model: model.graph.node.append(
            helper.make_node("MultiHeadAttention", ["latent"] * 4, ["y"], domain="com.microsoft", num_heads=1)
        ),
        "MultiHeadAttention: a query, a key and a value",
    ),
}


@pytest.mark.parametrize(("change", "message"), BOMBS.values(), ids=BOMBS)
def test_graphs_that_ask_for_too_much_are_refused_in_one_line(
    bundle: Path, tiny: ModuleType, change: Callable[[ModelProto], None], message: str
) -> None:
    _change(bundle, tiny, change)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("unet/model.onnx is not a graph that a bundle may hold (")


def _change(bundle: Path, tiny: ModuleType, change: Callable[[ModelProto], None]) -> None:
    path = bundle / "unet/model.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    tiny.seal(bundle)


SIZES = [
    ("Shape", ["latent"], "all"),
    ("Slice", ["all", "n0", "n2"], "batch_and_channels"),
    ("Slice", ["all", "n2", "n3"], "rows"),
]


@pytest.mark.parametrize(
    "change",
    [
        _nodes(("ConstantOfShape", ["n"], "y"), n=_i(1, 512, 512)),
        _nodes(("Resize", ["latent", "", "n"], "y"), n=np.array([1, 1, 2, 2], np.float32)),
        _nodes(
            *SIZES,  # as exporters write a size that is another tensor's
            ("Concat", ["batch_and_channels", "rows", "rows"], "sizes"),
            ("Resize", ["latent", "", "", "sizes"], "y"),
            n0=_i(0),
            n2=_i(2),
            n3=_i(3),
        ),
        _nodes(("Pad", ["latent", "n"], "y"), n=_i(0, 0, 0, 0, 0, 0, 1, 1)),
        _nodes(*_doubled("c", 3), c=NUMBERS),
        _nodes(*_doubled("latent", 3)),
        _nodes(*_flat(("MatMul", ["a", "b"], "c")), **FLAT),
    ],
)
def test_what_exporters_write_is_taken(
    bundle: Path, tiny: ModuleType, change: Callable[[ModelProto], None]
) -> None:
    _change(bundle, tiny, change)
    open_bundle(bundle)


def test_the_shipped_bundle_has_room() -> None:
    """Half of the limits at most, in every graph; and a picture of a quarter of the pixels would be refused."""
    bundle = open_contract(MINI_FOLDER)
    limits = bundle_limits(bundle.contract.architecture)
    assert limits == SizeLimits(8_388_608, 35_127_296)
    for graph in bundle.contract.graphs.by_name().values():
        for file in graph.files:
            form, shapes = read_graph(bundle.path(file)), longest_shapes(graph.inputs)
            needs = memory_needs(form, shapes)
            assert needs.largest <= limits.tensor / 2
            assert needs.live <= limits.together / 2
            held = sum(bundle.contract.files[name].size for name in (file, *graph.weights))
            check_sizes(form, shapes, limits, held)
            if file == "vae_decoder/model.onnx":
                with pytest.raises(ValueError, match="at most 100000 are expected"):
                    check_sizes(form, shapes, SizeLimits(100_000, limits.together), held)


def test_stable_diffusion_at_1024_pixels_has_room() -> None:
    """The decoder's features, four at once, and SD 1.5's eight heads between all positions: its portable form."""
    mini = open_contract(MINI_FOLDER).contract.architecture
    eight = [site.model_copy(update={"heads": 8}) for site in mini.sites]
    sizes = {"latent_height": 128, "latent_width": 128, "image_height": 1024, "image_width": 1024}
    limits = bundle_limits(mini.model_copy(update={**sizes, "sites": tuple(eight)}))
    features, attention = 256 * 1024**2, 8 * (128 * 128) ** 2
    assert limits.tensor == attention >= features
    assert limits.together >= 2 * attention + 4 * features
    # what a contract says is believed so far alone
    huge = {name: 8192 for name in sizes}
    assert bundle_limits(mini.model_copy(update=huge)).tensor == 1 << 32
    assert picture_limits(320 * 320).tensor == 512 * 320 * 320
