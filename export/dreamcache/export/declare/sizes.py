"""Width and height of pictures, as people write them: 768x512, or one number for a square."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dreamcache.export.errors import ExportError
from dreamcache.models.bases.base import Base

_WRITTEN = re.compile(r"(\d{1,6})(?:[x×](\d{1,6}))?", re.IGNORECASE)


@dataclass(frozen=True)
class PictureSize:
    """In pixels."""

    width: int
    height: int

    @classmethod
    def parse(cls, written: str | int, option: str = "--resolution") -> PictureSize:
        """A size as it is written: WIDTHxHEIGHT, or the side of a square.

        Raises:
            ExportError: neither; names the option.
        """
        found = _WRITTEN.fullmatch(str(written).strip())
        if found is None:
            raise ExportError(
                f"{option}: pixels as WIDTHxHEIGHT or one number are expected, such as 768x512, received {written!r}"
            )
        return cls(int(found[1]), int(found[2] or found[1]))

    @classmethod
    def of_base(cls, base: Base) -> PictureSize:
        """The base's own."""
        side = int(base.unet.config.sample_size) * base.vae_factor
        return cls(side, side)

    @property
    def rows_first(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def side(self) -> int:
        """The shorter one, and so the side of the reference's square."""
        return min(self.width, self.height)

    @property
    def is_square(self) -> bool:
        """Whether the picture itself can be a reference."""
        return self.width == self.height

    def check_halves(self, base: Base) -> None:
        """Raises: ExportError where the base's VAE and UNet cannot halve both sides as often as they do."""
        unit = base.vae_factor * 2**base.unet.num_upsamplers
        if self.side < unit or self.width % unit or self.height % unit:
            raise ExportError(
                f"resolution is {self} px; this base takes multiples of {unit}"
                + ("" if self.is_square else " in width and height")
            )

    def __str__(self) -> str:
        return str(self.width) if self.is_square else f"{self.width}x{self.height}"
