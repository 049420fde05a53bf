"""The console script `dreamcache`.

Subcommands are entry points of the group "dreamcache.commands": any room, or another package, adds one
by declaring it. Only the command that runs is imported; the help of the others is the first line of
their docstring, read from the source without running it. The extras an entry point names in brackets
are what the user is told to install when a module is missing.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from dreamcache.runtime.cli.words import forgiving_words
from dreamcache.runtime.errors import DreamCacheError, printable
from dreamcache.runtime.sessions.system import ending_by_exception

GROUP = "dreamcache.commands"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: status 0; 1 after a one-line error; 2 for wrong usage.

    `--debug` anywhere lets the traceback through.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    with forgiving_words(), ending_by_exception(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            app = _build(commands, wanted)
            _refuse_spellings(arguments, commands.get(wanted or ""))
            typer.main.get_command(app).main(arguments, prog_name="dreamcache")
        except Exception as error:
            if debug:
                raise
            sys.stderr.write(f"dreamcache: {_one_line(error, commands.get(wanted or ''))}\n")
            sys.exit(1)
        except KeyboardInterrupt:
            sys.stderr.write("dreamcache: stopped\n")
            sys.exit(130)


def _build(commands: dict[str, EntryPoint], wanted: str | None) -> typer.Typer:
    """An app with every command's name and help, of which only the wanted one is imported."""
    app = typer.Typer(
        name="dreamcache",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(_root)
    for name, entry in sorted(commands.items()):
        if name == wanted:
            command = entry.load()
            if isinstance(command, typer.Typer):  # a command with subcommands of its own
                app.add_typer(command, name=name)
            else:
                app.command(name)(command)
        else:
            app.command(name, help=_summary(entry))(_never_run)
    return app


def _refuse_spellings(arguments: Sequence[str], entry: EntryPoint | None) -> None:
    """Leave with 2 and one line for an old spelling or an option given twice, of which click would take the last.

    A module's `RENAMED` maps each old spelling to its answer; its `ONCE` names what can be given once.
    """
    module = None if entry is None else sys.modules.get(entry.module)
    renamed, once = getattr(module, "RENAMED", {}), getattr(module, "ONCE", ())
    seen: set[str] = set()
    for argument in arguments:
        spelling = argument.partition("=")[0]
        line = renamed.get(spelling)
        if spelling in once and spelling in seen:
            line = "is given twice, expected once; a bundle holds one"
        if line is not None:
            sys.stderr.write(f"dreamcache: {spelling} {line}\n")
            sys.exit(2)
        seen.add(spelling)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("dreamcache"))
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Personalised image generation from one reference picture, on the device."""


def _never_run() -> None:
    raise AssertionError("a command that was not asked for cannot run")


def _summary(entry: EntryPoint) -> str:
    """First line of the command's docstring, or of its module's for a group; without importing it."""
    try:
        spec = find_spec(entry.module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return ""
    module = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    return (ast.get_docstring(functions.get(entry.attr, module)) or "").partition("\n")[0]


def _one_line(error: Exception, entry: EntryPoint | None) -> str:
    """What is wrong and what would mend it; our own errors say so themselves."""
    if isinstance(error, ModuleNotFoundError) and entry is not None:
        missing = (error.name or "a module").partition(".")[0]
        if missing == "dreamcache":
            return f"the command {entry.name} is not part of this installation ({error})"
        extras = f"[{','.join(entry.extras)}]" if entry.extras else ""
        return (
            f"{entry.name} needs {missing}, which is not installed; "
            f'install it with: pip install "dreamcache{extras}"'
        )
    text = " ".join(str(error).split())
    if isinstance(error, DreamCacheError):
        return text
    if isinstance(error, FileNotFoundError) and error.errno is None:  # the models' own words
        return printable(text)
    if (
        isinstance(error, OSError) and error.strerror
    ):  # the system's own word: a name too long, no permission, a full disk
        return printable(
            ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
        )
    return f"{type(error).__name__}: {printable(text)}; run again with --debug to see where"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line on stderr instead of a path, a line number and a line of our source."""
    if issubclass(category, UserWarning):
        sys.stderr.write(f"dreamcache: warning: {printable(' '.join(str(message).split()))}\n")


if __name__ == "__main__":
    main()
