"""The subcommand `dreamcache inspect`: a bundle's contract as tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dreamcache.runtime.cli import options, words
from dreamcache.runtime.cli.picture_text import read_drawn_with

if TYPE_CHECKING:
    from dreamcache.runtime.bundle.contract import Contract, Graphs
    from dreamcache.runtime.bundle.coreml import CoreMLPart
    from dreamcache.runtime.bundle.folder import Bundle


def inspect(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Bundle's folder, or a PNG that was drawn.")
    ],
    as_json: options.AsJson = False,
) -> None:
    """Show what a bundle holds, from its contract alone; or how a picture was drawn."""
    from rich.console import Console

    if bundle.is_file():
        drawn = read_drawn_with(bundle)
        facts = drawn.model_dump(mode="json")
        shown = {name: str(value) for name, value in facts.items() if value not in (None, "")}
        Console().print(_facts(bundle.name, shown)) if not as_json else options.print_result(facts, "", True)
        return
    from dreamcache.runtime.bundle.folder import open_contract

    opened = open_contract(bundle)
    if as_json:
        contract = opened.contract.model_dump(mode="json", by_alias=True)
        typer.echo(words.as_json(contract))
        return
    for table in bundle_tables(opened):
        Console().print(table)


def bundle_tables(bundle: Bundle) -> Iterator[Table]:
    """The model, its sites, its graphs and what was measured, as tables."""
    contract = bundle.contract
    yield _facts(f"{bundle.folder.name}: {contract.architecture.name}", _model(bundle))
    sites = Table("site", "width", "heads", "tokens", title="Tapped sites", title_justify="left")
    for site in contract.architecture.sites:
        _add_row(sites, site.name, str(site.width), str(site.heads), str(site.tokens))
    yield sites
    if contract.joined:
        added = Table(
            "kind", "name", "SHA-256", "weight or tokens", title="Joined to the base", title_justify="left"
        )
        for joined in contract.joined:
            how = " ".join(joined.tokens) if joined.weight is None else f"{joined.weight:g}"
            _add_row(added, joined.kind, joined.name, joined.sha256[:12], how)
        yield added
    if contract.onnx is not None:
        yield _graphs(contract, contract.onnx)
    if contract.coreml is not None:
        yield from _coreml(contract, contract.coreml)
    if contract.onnx is not None:
        yield _facts("Measured against PyTorch", _parity(contract))
    yield _facts("Made with", contract.versions)


def _graphs(contract: Contract, graphs: Graphs) -> Table:
    table = Table("graph", "file", "MB", "inputs", "outputs", title="Graphs", title_justify="left")
    for name, graph in graphs.by_name().items():
        size = sum(contract.files[path].size for path in (*graph.files, *graph.weights))
        counts = str(len(graph.inputs)), str(len(graph.outputs))
        _add_row(table, name, graph.file, f"{size / 1e6:.1f}", *counts)
    return table


def _coreml(contract: Contract, part: CoreMLPart) -> Iterator[Table]:
    packages = Table("package", "functions", "MB", title="Core ML", title_justify="left")
    for model in part.models.values():
        size = sum(
            record.size for path, record in contract.files.items() if path.startswith(f"{model.package}/")
        )
        _add_row(packages, model.package, ", ".join(model.functions), f"{size / 1e6:.1f}")
    yield packages
    facts = {
        "from": part.target,
        "attention": part.attention,
        "computed in": part.compute,
        "UNet's weights": part.weights,
    }
    facts |= {f"{name}, signal to noise": f"{value:.1f} dB" for name, value in part.psnr_db.items()}
    facts |= {f"{name}, condition kept": f"{value:.4f}" for name, value in part.condition.items()}
    if part.disk_ratio is not None:
        facts["UNet over its denoiser alone, on disk"] = f"{part.disk_ratio:.3f}"
    yield _facts("Core ML, saved programs run in PyTorch", facts)


def _facts(title: str, facts: dict[str, str]) -> Table:
    table = Table("", "", title=words.cell(title), title_justify="left", show_header=False)
    for name, value in facts.items():
        _add_row(table, name, value)
    return table


def _add_row(table: Table, *cells: str) -> None:
    """Names come out of the bundle: as text, so that none is read as markup or reaches the terminal as a command."""
    table.add_row(*map(words.cell, cells))


def _model(bundle: Bundle) -> dict[str, str]:
    contract = bundle.contract
    shape, guidance = contract.architecture, contract.guidance
    side = shape.reference_side
    return {
        "weights": contract.weights,
        "precision": contract.precision,
        "attention": contract.attention,
        "picture": f"{shape.image_width} x {shape.image_height} px",
        "reference": f"{side} x {side} px",
        "latent": " x ".join(str(size) for size in shape.latent_shape[1:]),
        "text": f"{shape.text_length} tokens of width {shape.text_width}"
        + ("" if shape.text_chunks == 1 else f", {shape.text_chunks} chunks of a prompt")
        + ("" if shape.pooled_width is None else f", two encoders, pooled {shape.pooled_width}"),
        "denoiser batch": str(shape.batch),
        "prediction": contract.scheduler.prediction_type,
        **_overrides(contract),
        "caching timestep": str(contract.cache_timestep),
        "guidance": (
            f"{guidance.mode}, text {guidance.guidance_scale:g}, "
            f"reference {guidance.reference_guidance_scale:g}, strength {guidance.strength:g}"
        ),
        "sampling": f"{guidance.scheduler}, {guidance.steps} steps",
        "size on disk": f"{bundle.total_bytes() / 1e6:.1f} MB in {len(contract.files)} files",
        "base": contract.fingerprints.base[:12],
        "adapters": contract.fingerprints.adapters[:12],
        "graphs": contract.fingerprints.graph[:12],
    }


def _overrides(contract: Contract) -> dict[str, str]:
    """What the export was told in the place of the base's files."""
    if contract.overrides is None:
        return {}
    said = contract.overrides.model_dump(exclude_defaults=True)
    words = (
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in said.items()
    )
    return {"told at the export": ", ".join(words)}


def _parity(contract: Contract) -> dict[str, str]:
    parity = contract.parity
    facts = {f"{name}, signal to noise": f"{value:.1f} dB" for name, value in parity.psnr_db.items()}
    facts |= {f"{name}, condition kept": f"{value:.4f}" for name, value in parity.condition.items()}
    if parity.trajectory_db:
        facts["final latent"] = f"{parity.trajectory_db[-1]:.1f} dB"
    if parity.disk_ratio is not None:
        facts["two graphs over one, on disk"] = f"{parity.disk_ratio:.3f}"
    return facts | {f"note {index}": note for index, note in enumerate(parity.notes, 1)}
