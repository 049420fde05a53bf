"""The server behind `dreamcache web`: a few files under a secret address, photographs and records taken by POST.

HTTP/1.1 with ranges (RFC 9110, section 14), for downloads that go on where they stopped. Whoever does not know the
token gets one sentence; nothing is served that is not in the table of offers.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from dreamcache.runtime.errors import DreamCacheError, OutputError, first_line
from dreamcache.runtime.web.desk import MAX_PHOTOGRAPH_BYTES, MAX_RECORD_BYTES, Desk
from dreamcache.runtime.web.offers import Offer, Offers
from dreamcache.runtime.web.plain_http import answer_plain_http

_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_QUIET_S = 120
_STRANGER_QUIET_S = 20
_MOST_CONNECTIONS, _MOST_OF_ONE = 256, 32
_HEADERS = {
    # Shared memory, and so threads, needs the first two.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_WRONG_TOKEN = (
    "This address is not valid any more: scan the code that `dreamcache web` shows in its terminal now."
)


class PageServer(ThreadingHTTPServer):
    """Serves one bundle to any number of browsers at once, each connection in a thread of its own."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], offers: Offers, desk: Desk, context: ssl.SSLContext | None = None
    ) -> None:
        """context: None is plain HTTP. Raises: OSError when the address cannot be taken."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, PageHandler)
        self._open: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.offers = offers
        self.desk = desk
        self.token = secrets.token_urlsafe(16)
        if context is not None:
            # The handshake is made by the connection's own thread: one that stalls holds up nobody.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def server_bind(self) -> None:
        """Without the name of the address, for which a network would be asked."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, while there are not too many, so that one neighbour does not shut out the others."""
        client = client_address[0]
        with self._counting:
            room = self._open[client] < _MOST_OF_ONE and self._open.total() < _MOST_CONNECTIONS
            self._open[client] += room
        if room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """And make room when it has gone."""
        try:
            request.settimeout(_STRANGER_QUIET_S)
            if isinstance(request, ssl.SSLSocket) and _spoke_plainly(request):
                self.shutdown_request(request)
            else:
                super().process_request_thread(request, client_address)
        finally:
            with self._counting:
                self._open[client_address[0]] -= 1
                self._open += Counter()  # without those that have none left

    def clients(self) -> int:
        """Connections that are open."""
        with self._counting:
            return self._open.total()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A phone that goes away in the middle is nothing to report."""


class PageHandler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    protocol_version = "HTTP/1.1"
    timeout = _STRANGER_QUIET_S
    server: PageServer

    def do_GET(self) -> None:
        """A file that is offered, or what the page is told: `facts`, `tokenizer`, `reference`."""
        if (name := self._name()) is None:
            return
        offers = self.server.offers
        told = {"facts": offers.facts, "tokenizer": offers.tokenizer, "reference": self.server.desk.reference}
        if name in told:
            self._answer(HTTPStatus.OK, told[name])
        elif (offer := offers.files.get(name)) is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such file here")
        elif offer.changed():
            self._refuse(
                HTTPStatus.CONFLICT,
                "the bundle was changed after `dreamcache web` began; stop it and start it again",
            )
        else:
            self._send_file(offer)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_POST(self) -> None:
        """A photograph to prepare, or a record to keep."""
        if (name := self._name()) is None:
            return
        desk = self.server.desk
        routes: dict[str, tuple[int, Callable[[bytes], dict[str, Any]]]] = {
            "reference": (MAX_PHOTOGRAPH_BYTES, desk.prepared),
            "records": (MAX_RECORD_BYTES, lambda text: {"kept": desk.keep_record(text).name}),
        }
        if name not in routes:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is taken at this address")
            return
        most, answer = routes[name]
        if (body := self._body(most)) is None:
            return
        try:
            self._answer(HTTPStatus.OK, json.dumps(answer(body)).encode())
        except OutputError as error:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, first_line(error))
        except DreamCacheError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, first_line(error))

    def _name(self) -> str | None:
        """The address below the token; None where the answer was given already."""
        try:
            parts = unquote(urlsplit(self.path).path).split("/", 2)
        except ValueError:  # as http://[x/
            parts = []
        given = parts[1] if len(parts) > 1 else ""
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, _WRONG_TOKEN)
            return None
        self.connection.settimeout(_QUIET_S)
        if len(parts) == 2:
            self._begin(HTTPStatus.PERMANENT_REDIRECT, "text/plain", 0, {"Location": f"/{given}/"})
            return None
        return parts[2]

    def _body(self, most: int) -> bytes | None:
        """What was posted; None where it was refused, before any of it is read."""
        length = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the length of what is sent is expected first")
        elif int(length) > most:
            limit = f"at most {most >> 20} MiB are expected, received {int(length) / (1 << 20):.0f}"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{limit}; send something smaller")
        elif len(body := self.rfile.read(int(length))) == int(length):
            return body
        self.close_connection = True
        return None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself: no page of its own, and our headers."""
        if not hasattr(self, "headers"):
            self.headers = Message()
        self._refuse(HTTPStatus(code), message or explain or HTTPStatus(code).phrase)

    def _send_file(self, offer: Offer) -> None:
        with offer.path.open("rb") as stream:
            size = stream.seek(0, 2)
            asked = wanted_range(self.headers.get("Range"), size)
            if asked is None:
                self._refuse(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                    "the file is shorter than what is asked of it",
                    {"Content-Range": f"bytes */{size}"},
                )
                return
            begin, end = asked
            partial = (begin, end) != (0, size)
            headers = {"Accept-Ranges": "bytes"}
            if partial:
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            status = HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK
            self._begin(status, offer.kind, end - begin, headers)
            if self.command == "HEAD":
                return
            stream.seek(begin)
            while begin < end and (piece := stream.read(min(_PIECE, end - begin))):
                self.wfile.write(piece)
                begin += len(piece)
            # A file that was cut meanwhile leaves the answer too short: the browser must notice.
            self.close_connection = self.close_connection or begin < end

    def _refuse(self, status: HTTPStatus, why: str, headers: dict[str, str] | None = None) -> None:
        self.close_connection = True
        person = "text/html" in self.headers.get("Accept", "")
        text = why if person else json.dumps({"error": why}, ensure_ascii=False)
        kind = "text/plain; charset=utf-8" if person else "application/json"
        self._answer(status, text.encode(), headers, kind)

    def _answer(
        self,
        status: HTTPStatus,
        body: bytes,
        headers: dict[str, str] | None = None,
        kind: str = "application/json",
    ) -> None:
        self._begin(status, kind, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        named = {"Content-Type": kind, "Content-Length": str(length), **_HEADERS, **headers}
        if self.close_connection:
            named["Connection"] = "close"
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        """Nothing about the machine."""
        return "dreamcache"

    def log_message(self, format: str, *args: Any) -> None:
        """Addresses hold the token, so none is written anywhere."""


def _spoke_plainly(connection: ssl.SSLSocket) -> bool:
    """Whether it was answered already; also where nothing came."""
    try:
        return answer_plain_http(connection)
    except OSError:
        return True


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of `bytes=a-b`, `a-` or `-n`; the whole file for anything else.

    None for a range that begins after the end.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or found.groups() == ("", ""):
        return 0, size
    first, last = found.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) and size else None
    if int(first) >= size or (last and int(last) < int(first)):
        return None
    return int(first), min(size, int(last) + 1 if last else size)
