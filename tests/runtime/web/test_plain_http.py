"""An address typed without the s: led to the right one; and the certificate's days, whatever a phone's clock says."""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from page_files import serving

from dreamcache.runtime.web.certificate import temporary_context
from dreamcache.runtime.web.plain_http import https_answer


def test_an_address_without_the_s_is_led_to_https_and_odd_bytes_are_not(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, {}, tmp_path / "records", temporary_context(["127.0.0.1"])) as (_, server):
        address = (str(server.server_address[0]), int(server.server_address[1]))
        plain = http.client.HTTPConnection(*address, timeout=20)
        plain.request("GET", f"/{server.token}/facts")
        answer = plain.getresponse()
        place = f"https://{address[0]}:{address[1]}/{server.token}/facts"
        assert (answer.status, answer.getheader("Location")) == (308, place)
        assert answer.read().startswith(b"This address begins with https://")
        with socket.create_connection(address, timeout=20) as odd:
            odd.sendall(b"\x80\x01\x02 no TLS and no HTTP")
            with suppress(ConnectionError):
                assert b"HTTP" not in odd.recv(100)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(socket.create_connection(address, timeout=20)) as secure:
            certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now, months = datetime.now(timezone.utc), timedelta(days=180)
    assert begin < now - months < now + months < end < begin + timedelta(days=825)


@pytest.mark.parametrize(
    ("request_head", "location"),
    [
        (
            b"GET /a/?b=c HTTP/1.1\r\nUser-Agent: x\r\nhOsT:  [::1]:8443 \r\n\r\n",
            b"https://[::1]:8443/a/?b=c",
        ),
        (b"GET /a HTTP/1.0\r\nHost: desk.test\r\n\r\n", b"https://desk.test/a"),
        (b"GET /a HTTP/1.1\r\n\r\n", None),
        (b"GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n", None),
        (b"GET /a\rSet-Cookie:x HTTP/1.1\r\nHost: x\r\n\r\n", None),
        (b"GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n", None),
        (b"POST /a HTTP/1.1\r\nHost: x\r\n\r\n", None),
        (b"HELO", None),
        (b"", None),
    ],
)
def test_what_names_an_address_alone_is_led_on(request_head: bytes, location: bytes | None) -> None:
    head, _, sentence = https_answer(request_head).partition(b"\r\n\r\n")
    assert sentence.startswith(b"This address begins with https://")
    places = [line for line in head.split(b"\r\n") if line.startswith(b"Location: ")]
    assert places == ([] if location is None else [b"Location: " + location])
    assert head.startswith(b"HTTP/1.1 400" if location is None else b"HTTP/1.1 308")
