"""Pages of the documentation's site that are made of the code: every command, and the public names' docstrings.

A hook of mkdocs (mkdocs.yml): `mkdocs build` calls the functions below.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

ROOTS = ("runtime", "export", "models", "training", "benchmarks")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./){2,}([^)]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder."""
    for name, page in (("commands", commands_page()), ("python", names_page())):
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A file of the repository that is no page of the site is named instead of linked."""
    return OUTSIDE.sub(lambda found: f"{found[1]} (`{found[2]}`)", markdown)


def commands_page() -> str:
    """Every command and option as typer describes them."""
    app = typer.Typer(name="dreamcache", add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    for entry in sorted(entry_points(group="dreamcache.commands"), key=lambda entry: entry.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="dreamcache")
    return get_docs_for_click(obj=group, ctx=context, name="dreamcache", title="Commands")


def names_page() -> str:
    """The docstrings of the public names, by the modules that define them."""
    lines = ["# Docstrings of the public names"]
    for root in ROOTS:
        face = import_module(f"dreamcache.{root}")
        lines.append(f"\n## `dreamcache.{root}`\n")
        for name in face.__all__:
            found = getattr(face, name)
            lines.append(f"::: {found.__module__}.{found.__qualname__}\n")
    return "\n".join(lines)
