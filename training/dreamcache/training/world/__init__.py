"""A procedural world of toys: seeded pictures with exact masks, captions and identities.

`identity` says who a toy is, `toys` of which parts it is built, `raycast` draws the parts, `scenes` paints
the places, `render` puts one into the other, `styles` redraws the whole, `captions` says it in words and `samples`
deals all of it out.
"""

from dreamcache.training.world.identity import COLOURS, KINDS, PATTERNS, Identity, is_held_out
from dreamcache.training.world.render import Pose, Rendering, render, render_reference
from dreamcache.training.world.scenes import SCENES

__all__ = [
    "COLOURS",
    "KINDS",
    "PATTERNS",
    "SCENES",
    "Identity",
    "Pose",
    "Rendering",
    "is_held_out",
    "render",
    "render_reference",
]
