"""How a picture was drawn, inside its PNG: `parameters` as common viewers show it, and `dreamcache` as JSON.

No path and nothing of the reference picture is written; `--no-metadata` leaves the texts out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.picture_sources import reason_of
from dreamcache.runtime.sessions.providers import Math
from dreamcache.runtime.untrusted import is_regular_file, parse_json

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

    from dreamcache.runtime.bundle.contract import Contract
    from dreamcache.runtime.settings import Settings

_VIEWERS, _OURS = "parameters", "dreamcache"


class DrawnWith(BaseModel):
    """Everything that repeats a picture, but for its subject. bundle: the fingerprint that subjects of it carry."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    prompt: str
    negative_prompt: str = ""
    seed: int
    steps: int
    scheduler: str
    sigma_spacing: str | None = None
    guidance_mode: str
    guidance_scale: float
    reference_guidance_scale: float
    strength: float
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    step_cache: int = 1
    prompt_weights: bool = False
    math: Math = "exact"
    width: int
    height: int
    bundle: str
    version: str = ""

    def options(self) -> dict[str, Any]:
        """As `Pipeline.generate` takes them."""
        left_out = {"prompt", "math", "width", "height", "bundle", "version"}
        return self.model_dump(exclude=left_out)

    def as_text(self) -> str:
        """The lines that common viewers read."""
        facts = {
            "Steps": self.steps,
            "Sampler": self.scheduler,
            "CFG scale": f"{self.guidance_scale:g}",
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
            "Model hash": self.bundle[:10],
            "Version": f"dreamcache {self.version}".strip(),
        }
        negative = [f"Negative prompt: {self.negative_prompt}"] if self.negative_prompt else []
        return "\n".join(
            [self.prompt, *negative, ", ".join(f"{name}: {fact}" for name, fact in facts.items())]
        )

    def as_png(self) -> PngInfo:
        """The texts for Pillow's `save`."""
        from PIL.PngImagePlugin import PngInfo

        texts = PngInfo()
        texts.add_text(_VIEWERS, self.as_text())
        texts.add_text(_OURS, self.model_dump_json())
        return texts


def drawn_with(contract: Contract, prompt: str, settings: Settings, math: Math, seed: int) -> DrawnWith:
    """The record of one picture."""
    from importlib.metadata import version

    guidance, shape = settings.guidance, contract.architecture
    return DrawnWith(
        prompt=prompt,
        negative_prompt=settings.negative_prompt,
        seed=seed,
        steps=settings.steps,
        scheduler=settings.scheduler,
        sigma_spacing=settings.sigma_spacing,
        guidance_mode=guidance.mode,
        guidance_scale=guidance.guidance_scale,
        reference_guidance_scale=guidance.reference_guidance_scale,
        strength=guidance.strength,
        guidance_interval=guidance.interval,
        step_cache=settings.step_cache,
        prompt_weights=settings.prompt_weights,
        math=math,
        width=shape.image_width,
        height=shape.image_height,
        bundle=contract.fingerprints.subject(),
        version=version("dreamcache"),
    )


def read_drawn_with(path: Path) -> DrawnWith:
    """The record inside a PNG. Raises: ImageError in one line for a file without one, or a damaged one."""
    from PIL import Image

    if not is_regular_file(path):
        raise ImageError(
            f"{path}: a PNG of `dreamcache generate` is expected, received no file; check the path"
        )
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(_OURS)
    except Exception as error:  # decoders raise nearly anything on a broken file
        raise ImageError(
            f"{path}: a PNG of `dreamcache generate` is expected, received another file or a broken one "
            f"({reason_of(error)})"
        ) from error
    if not isinstance(text, str):
        raise ImageError(
            f"{path}: a PNG of `dreamcache generate` is expected, received one without its settings (--no-metadata?)"
        )
    try:
        return DrawnWith.model_validate(parse_json(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ImageError(f"{path}: the settings in it are damaged: {place} {first['msg'].lower()}") from error
    except ValueError as error:
        raise ImageError(f"{path}: the settings in it are damaged: {reason_of(error)}") from error
