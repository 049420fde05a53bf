"""How large the tensors of a graph may be: twice what Stable Diffusion needs for pictures of the contract's size.

The largest are a decoder's features (256 channels in the picture's size, four of them at once) and the weights of
attention between all positions of a latent, which the portable form of a graph writes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.graph_files.contents import GraphFile
from dreamcache.runtime.bundle.graph_files.sizes.call import Shape
from dreamcache.runtime.bundle.graph_files.sizes.memory import MOST_ELEMENTS, memory_needs
from dreamcache.runtime.bundle.tensors import TensorSpec

_CHANNELS, _AT_ONCE = 512, 4
_SMALLEST = 1 << 22
_MOST_HEADS = 64
_CONSTANTS_PER_BYTE = 4
"""Weights in 4 bits are two a byte, and are seldom rewritten more than twice."""
_CONSTANT_PRODUCTS = 1 << 34


@dataclass(frozen=True)
class SizeLimits:
    """In elements, of tensors that depend on a graph's inputs. tensor: of one. together: of all that live at once."""

    tensor: int
    together: int


def picture_limits(pixels: int, attention: int = 0) -> SizeLimits:
    """For a network on a picture. attention: elements of the largest attention's weights."""
    features = max(_SMALLEST, _CHANNELS * pixels)
    tensor, together = max(features, attention), _AT_ONCE * features + 3 * attention
    return SizeLimits(min(MOST_ELEMENTS, tensor), min(_AT_ONCE * MOST_ELEMENTS, together))


def bundle_limits(architecture: Architecture) -> SizeLimits:
    """For the graphs of a bundle but its segmenter."""
    a = architecture
    reference = a.reference_latent_shape
    positions = max(a.latent_height * a.latent_width, reference[2] * reference[3])
    heads = min(_MOST_HEADS, max(site.heads for site in a.sites))
    pixels = max(a.image_height * a.image_width, a.reference_side**2)
    return picture_limits(a.batch * pixels, a.batch * heads * a.max_references * positions**2)


def check_sizes(graph: GraphFile, given: Mapping[str, Shape], limits: SizeLimits, held: int) -> None:
    """Hold a graph to limits.

    given: shapes of its inputs. held: bytes of its files, which bound what it makes of constants alone.
    Raises: ValueError, in one line.
    """
    needs = memory_needs(graph, given)
    if needs.largest > limits.tensor:
        raise ValueError(
            f"tensor {needs.largest_name!r} has {needs.largest} elements, at most {limits.tensor} are expected"
        )
    if needs.live > limits.together:
        raise ValueError(
            f"its tensors have {needs.live} elements at once, at most {limits.together} are expected"
        )
    most = _SMALLEST + _CONSTANTS_PER_BYTE * held
    if needs.constant > most:
        raise ValueError(f"{needs.constant} elements are made of constants, at most {most} are expected")
    if needs.constant_products > _CONSTANT_PRODUCTS:
        raise ValueError(
            f"constants are multiplied {needs.constant_products} times, at most {_CONSTANT_PRODUCTS} are expected"
        )


def longest_shapes(specs: Sequence[TensorSpec]) -> dict[str, Shape]:
    """Shapes of a graph's declared inputs by name, of the most references."""
    found = {}
    for spec in specs:
        batch, *others = spec.shape
        found[spec.name] = (batch, *(side * spec.multiples for side in others[:1]), *others[1:])
    return found
