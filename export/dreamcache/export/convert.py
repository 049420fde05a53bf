"""The subcommand `dreamcache convert`: the authors' released ``.pt`` adapters to a safetensors file.

This is the only place that opens a pickle, and it does so with PyTorch's restricted loader, which builds tensors
and plain containers and runs nothing else. Exporting and generating read safetensors alone.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamcache.export import command_options
from dreamcache.export.errors import ExportError
from dreamcache.runtime.cli.words import shown
from dreamcache.runtime.errors import OutputError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="Released adapters, cross_attention-*.pt.")],
    base: Annotated[str, typer.Option(help="Base that they were trained on, as in export.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="New adapters file (.safetensors).")],
    base_config: command_options.BaseConfig = None,
    variant: command_options.Variant = None,
    overwrite: command_options.Overwrite = False,
) -> None:
    """Convert the authors' released adapters (.pt) to the safetensors file that export reads."""
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another place or give --overwrite")
    if not out.parent.is_dir():
        raise OutputError(f"the folder {out.parent} does not exist; make it first")
    released = read_released(file)

    from dreamcache.export.source import loaded_base
    from dreamcache.models.bases.released import adapters_from_released
    from dreamcache.models.checkpoint import save_adapters
    from dreamcache.models.errors import AdapterError

    loaded = loaded_base(base, base_config=base_config, variant=variant)
    try:
        conditioned = adapters_from_released(released, loaded.unet, file.name)
    except AdapterError as error:
        raise ExportError(str(error)) from error
    save_adapters(out, conditioned, {"converted_from": file.name})
    parameters = sum(parameter.numel() for parameter in conditioned.adapter_parameters())
    typer.echo(shown(f"{out}: {parameters:,} parameters at {len(conditioned.sites)} sites"))


def read_released(path: Path) -> Mapping[str, object]:
    """The state dict of a ``.pt`` file, on the CPU.

    Raises:
        ExportError: no such file, no PyTorch file, no state dict, or a pickle that wants to run code.
    """
    import torch

    if not path.is_file():
        raise ExportError(f"no file at {path}; give a released cross_attention-*.pt")
    try:
        with warnings.catch_warnings():
            # The loader also warns of what it then refuses.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path} is refused: a plain state dict of tensors is expected ({_reason(error)}); nothing of it was run"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} is not a PyTorch file ({_reason(error)}); download it again") from error
    if not isinstance(state, dict):
        raise ExportError(f"{path} holds a {type(state).__name__}, expected a state dict of tensors")
    return state


def _reason(error: Exception) -> str:
    """What PyTorch objects to, without its advice on how to load the file all the same."""
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
    line = lines[0] if lines else first_line(error)
    found = line.find("Unsupported")
    sentence = line[found:] if found >= 0 else line
    return sentence.split(". ")[0][:200].rstrip(" .:")
