"""The subcommand `dreamcache web`: a bundle in a phone's browser, with nothing installed on the phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.progress import progress_bar

if TYPE_CHECKING:
    from dreamcache.runtime.web.address import Way

_DEFAULT_PORT = 8443
_EVERY_ADDRESS = ("0.0.0.0", "::")
_WARNING = "the browser warns of the certificate, which is this run's own: tap Advanced, then Continue"
_PLAIN = "plain http: one thread, no GPU, nothing kept on the phone; without --http the page is several times faster"


def web(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="Folder made by `dreamcache export`, owner/name on the Hub, or mini."
        ),
    ],
    usb: Annotated[bool, typer.Option("--usb", help="Android phone at a USB cable, by adb.")] = False,
    http: Annotated[bool, typer.Option("--http", help="Plain HTTP: slower, but no warning.")] = False,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address to serve at; default: this machine's on the network."),
    ] = None,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to serve at; 0 = any free one.")
    ] = _DEFAULT_PORT,
    reference: Annotated[
        Path | None, typer.Option(help="Picture that the page begins with; default: a drawn toy.")
    ] = None,
    records: Annotated[
        Path, typer.Option("--records", metavar="FOLDER", help="Folder for the records that browsers send.")
    ] = Path("dreamcache-records"),
    runtime: Annotated[
        Path | None,
        typer.Option("--runtime", metavar="FOLDER", help="JavaScript runtime; default: fetched once by npm."),
    ] = None,
) -> None:
    """Draw and measure with a bundle in a phone's browser: scan the code, nothing is installed on the phone."""
    if usb and http:
        raise SettingsError(
            "--usb and --http: one of them is expected, received both; a cable needs no --http"
        )
    if usb and host is not None:
        raise SettingsError("--usb and --host: a cable has no address; leave --host out")
    way: Way = "usb" if usb else "http" if http else "https"
    serve(bundle, way, host, port, reference, records, runtime)


def serve(
    bundle: Path,
    way: Way,
    host: str | None,
    port: int,
    reference: Path | None,
    records: Path,
    runtime: Path | None,
) -> None:
    """Serve until Ctrl+C. Raises: BundleError, ImageError, SettingsError or OutputError before anything is served."""
    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.web.address import LOOPBACK, local_address, reverse_port, terminal_code
    from dreamcache.runtime.web.certificate import temporary_context
    from dreamcache.runtime.web.delivery import runtime_files
    from dreamcache.runtime.web.desk import Desk
    from dreamcache.runtime.web.offers import make_offers
    from dreamcache.runtime.web.server import PageServer

    def say(line: str) -> None:
        typer.echo(f"dreamcache: {line}", err=True)

    with progress_bar("checking the bundle") as advance:
        pipeline = Pipeline.load(bundle, progress=advance)
    desk = Desk(pipeline, records, reference)
    offers = make_offers(pipeline.bundle, bundle.name, runtime_files(runtime, say))
    address = LOOPBACK if way == "usb" else host or local_address()
    known = local_address() if address in _EVERY_ADDRESS else address
    context = temporary_context([known, "localhost"]) if way == "https" else None
    try:
        server = PageServer((address, port), offers, desk, context)
    except OSError as error:
        raise SettingsError(
            f"{address}:{port} cannot be served at ({error.strerror}); choose another --port or --host"
        ) from error
    with server:
        port = server.server_address[1]
        if way == "usb":
            reverse_port(port)
        shown = "localhost" if way == "usb" else f"[{known}]" if ":" in known else known
        where = f"{'https' if way == 'https' else 'http'}://{shown}:{port}/{server.token}/"
        if (code := terminal_code(where)) is not None and way != "usb":
            typer.echo(code)
        typer.echo(where)
        say({"https": _WARNING, "http": _PLAIN, "usb": "open the address in the phone's browser"}[way])
        say(f"records come to {records}; Ctrl+C ends")
        server.serve_forever()
