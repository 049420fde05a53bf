"""What a set of adapters was trained as: the choices of the paper's ablation tables (section 4.3).

The same record is written into the metadata of an adapters file and read back from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from dreamcache.models.errors import AdapterError

Fusion = Literal["spatial_concat", "spatial_sum", "textual_sum", "decoupled"]
SiteSet = Literal["middle+decoder", "middle", "decoder", "encoder", "all"]


@dataclass(frozen=True)
class AdapterConfig:
    """How the reference is cached and where and how it enters the UNet.

    Attributes:
        fusion: how the reference attention joins the block (paper, table of fusions).
        sites: which transformer blocks are tapped (paper, table of sites).
        cache_timestep: training timestep whose noise the cached reference carries; 1 is the paper's best.
        cache_prompt: text the caching pass sees; the paper's best is the empty one.
        further_timesteps: at which the reference is cached as well, its tokens appended; the paper leaves open
            whether that helps.
    """

    fusion: Fusion = "spatial_concat"
    sites: SiteSet = "middle+decoder"
    cache_timestep: int = 1
    cache_prompt: str = ""
    further_timesteps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.fusion not in get_args(Fusion):
            raise AdapterError(f"fusion is {self.fusion!r}; choose one of {', '.join(get_args(Fusion))}")
        if self.sites not in get_args(SiteSet):
            raise AdapterError(f"sites is {self.sites!r}; choose one of {', '.join(get_args(SiteSet))}")
        _check_timestep("cache_timestep", self.cache_timestep)
        if not isinstance(self.further_timesteps, tuple):
            raise AdapterError(f"further_timesteps is {self.further_timesteps!r}; give a list of timesteps")
        for timestep in self.further_timesteps:
            _check_timestep("a further timestep", timestep)
        if not isinstance(self.cache_prompt, str):
            raise AdapterError(f"cache_prompt is {self.cache_prompt!r}; give a text")

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Every timestep at which a reference is cached, in the order of its tokens."""
        return (self.cache_timestep, *self.further_timesteps)

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AdapterConfig:
        """The inverse of `to_json`.

        Raises:
            AdapterError: the text is no JSON object, or has unknown fields or values.
        """
        try:
            record: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise AdapterError(
                f"the adapter config is not JSON ({error}); save the adapters again"
            ) from error
        if not isinstance(record, dict):
            raise AdapterError(f"the adapter config is a {type(record).__name__}, expected an object")
        unknown = sorted(set(record) - {field.name for field in fields(cls)})
        if unknown:
            raise AdapterError(
                f"the adapter config has unknown fields {', '.join(unknown)}; "
                "it comes from a newer version: update this package"
            )
        further = record.get("further_timesteps", [])
        return cls(**record | {"further_timesteps": tuple(further) if isinstance(further, list) else further})


def _check_timestep(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise AdapterError(f"{name} is {value!r}; give a whole number")
    if value < 0:
        raise AdapterError(f"{name} is {value}; give 0 or more")
