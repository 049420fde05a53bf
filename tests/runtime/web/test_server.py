"""What the server hands out and takes: its table and nothing else, in pieces, to several at once."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from page_files import serving
from PIL import Image

from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.web.certificate import temporary_context
from dreamcache.runtime.web.server import PageServer, wanted_range

WEIGHTS = "bundle/unet/weights.data"


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[PageServer]:
    with serving(bundle, {}, tmp_path / "records") as (_, server):
        yield server


def ask(
    server: PageServer, address: str, method: str = "GET", token: str | None = None, **kwargs: object
) -> tuple[int, bytes, dict[str, str]]:
    """One request on a connection of its own; the address goes out as it is."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)  # type: ignore[arg-type]
    connection.request(method, f"/{server.token if token is None else token}/{address}", **kwargs)  # type: ignore[arg-type]
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def test_the_page_and_the_listed_files_are_served_as_they_are(server: PageServer, bundle: Path) -> None:
    status, body, headers = ask(server, "")
    assert status == 200
    assert b'src="page/app.mjs"' in body
    # without these a browser gives no shared memory, and so no threads
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    contract = json.loads((bundle / "dreamcache.json").read_text())
    for name in contract["files"]:
        assert ask(server, f"bundle/{name}")[1] == (bundle / name).read_bytes(), name
    status, body, headers = ask(server, WEIGHTS, "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == (bundle / "unet/weights.data").stat().st_size


@pytest.mark.parametrize(
    "address",
    [
        "bundle/../../../../../../../../etc/passwd",
        "bundle/%2e%2e/%2e%2e/dreamcache.json",
        "bundle/..%2f..%2fsecret.txt",
        "bundle/unet/../../secret.txt",
        "page/../server.py",
        "page/..\\server.py",
        "/etc/passwd",
        "bundle//etc/passwd",
        "bundle/unet/weights.data%00.png",
        "bundle/unet",
        "bundle/secret.txt",
        "bundle/dreamcache.json",
        "page/app.mjs/",
        "records",
        "runtime/ort.wasm.min.mjs",
    ],
)
def test_nothing_else_is_served(server: PageServer, bundle: Path, address: str) -> None:
    (bundle / "secret.txt").write_text("mine")
    (bundle.parent / "secret.txt").write_text("mine")
    status, body, _ = ask(server, address)
    assert status == 404
    assert json.loads(body) == {"error": "there is no such file here"}


@pytest.mark.parametrize("token", ["", "x", "TOKEN" * 10, "ключ"])
def test_without_the_token_there_is_one_sentence(server: PageServer, token: str) -> None:
    from urllib.parse import quote

    for given in (quote(token), server.token[:-1], server.token.swapcase()):
        for method in ("GET", "POST"):
            status, body, headers = ask(server, WEIGHTS, method, given)
            assert status == 404
            assert "scan the code" in json.loads(body)["error"]
    status, body, headers = ask(server, "", token="x", headers={"Accept": "text/html,*/*"})
    assert headers["Content-Type"].startswith("text/plain")
    assert body.startswith(b"This address is not valid any more")
    assert ask(server, WEIGHTS)[0] == 200


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 10, (0, 10)),
        ("bytes=3-", 10, (3, 10)),
        ("bytes=3-5", 10, (3, 6)),
        ("bytes=3-99", 10, (3, 10)),
        ("bytes=-4", 10, (6, 10)),
        ("bytes=-40", 10, (0, 10)),
        ("bytes=0-0", 1, (0, 1)),
        ("bytes=10-", 10, None),
        ("bytes=5-3", 10, None),
        ("bytes=-0", 10, None),
        # several, another unit, nonsense: the whole file
        ("bytes=0-1,3-4", 10, (0, 10)),
        ("lines=3-", 10, (0, 10)),
        ("bytes=-", 10, (0, 10)),
        ("bytes=٣-", 10, (0, 10)),
        (f"bytes={'9' * 5000}-", 10, (0, 10)),
        (f"bytes=-{'9' * 5000}", 10, (0, 10)),
    ],
)
def test_a_range_is_read_as_the_standard_says(
    header: str | None, size: int, expected: tuple[int, int] | None
) -> None:
    assert wanted_range(header, size) == expected


def test_an_interrupted_transfer_goes_on_where_it_stopped(server: PageServer, bundle: Path) -> None:
    whole = (bundle / "unet/weights.data").read_bytes()
    with socket.create_connection(server.server_address[:2], timeout=20) as half:  # type: ignore[arg-type]
        half.sendall(f"GET /{server.token}/{WEIGHTS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        half.recv(64)  # and gone
    status, body, headers = ask(server, WEIGHTS, headers={"Range": "bytes=100-"})
    assert (status, body) == (206, whole[100:])
    assert headers["Content-Range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    status, _, headers = ask(server, WEIGHTS, headers={"Range": f"bytes={len(whole)}-"})
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")


def test_a_stalled_client_holds_up_nobody(bundle: Path, tmp_path: Path) -> None:
    context = temporary_context(["127.0.0.1"])
    with serving(bundle, {}, tmp_path / "records", context) as (_, server):
        address = server.server_address[:2]
        # one that never begins its handshake, one that never ends its request
        with socket.create_connection(address), socket.create_connection(address) as slow:  # type: ignore[arg-type]
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            with trusting.wrap_socket(slow) as begun:
                begun.sendall(b"GET /")
                found: list[int] = []

                def fetch() -> None:
                    connection = http.client.HTTPSConnection(*address, timeout=20, context=trusting)  # type: ignore[arg-type]
                    connection.request("GET", f"/{server.token}/facts")
                    found.append(connection.getresponse().status)
                    connection.close()

                clients = [threading.Thread(target=fetch) for _ in range(2)]
                for client in clients:
                    client.start()
                for client in clients:
                    client.join(30)
                assert found == [200, 200]


def test_what_is_posted_has_limits(server: PageServer) -> None:
    # refused by the announced length, before a byte of it is read
    status, body, headers = ask(server, "reference", "POST", headers={"Content-Length": str(1 << 40)})
    assert status == 413
    assert "at most 32 MiB" in json.loads(body)["error"]
    assert headers["Connection"] == "close"
    status, _, _ = ask(server, "records", "POST", headers={"Content-Length": str((4 << 20) + 1)})
    assert status == 413
    for length in ("-1", "1e3", "٣", "9" * 5000):
        odd = {"Content-Length": length.encode("utf-8").decode("latin-1")}
        assert ask(server, "records", "POST", headers=odd)[0] == 411
    assert ask(server, "page/app.mjs", "POST", body=b"{}")[0] == 404
    assert ask(server, "facts")[0] == 200


def test_what_is_no_request_gets_one_sentence_and_no_page(server: PageServer) -> None:
    for line in (
        "GET http://[x/ HTTP/1.1",
        "PUT / HTTP/1.1",
        "get / HTTP/1.1",
        "GET / HTTP/9.9",
        "GET /" + 70000 * "a",
        "x",
    ):
        with socket.create_connection(server.server_address[:2], timeout=20) as odd:  # type: ignore[arg-type]
            odd.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
            with suppress(ConnectionError):
                answer = b"".join(iter(lambda: odd.recv(1 << 16), b""))
        assert b"<html" not in answer, line[:30]
        assert len(json.loads(answer[answer.rindex(b"{") :])["error"]) > 5, line[:30]
    assert ask(server, "facts")[0] == 200


def test_one_neighbour_does_not_shut_out_the_others(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamcache.runtime.web.server._MOST_OF_ONE", 4)
    address: tuple[str, int] = server.server_address[:2]  # type: ignore[assignment]
    idle = [socket.create_connection(address, timeout=20) for _ in range(5)]
    assert idle[4].recv(1) == b""
    with socket.create_connection(address, timeout=20, source_address=("127.0.0.2", 0)) as other:
        other.sendall(f"GET /{server.token}/facts HTTP/1.0\r\n\r\n".encode())
        assert other.recv(64).startswith(b"HTTP/1.1 200")
    for one in idle:
        one.close()
    for _ in range(200):
        if server.clients() == 0:
            break
        sleep(0.02)
    assert server.clients() == 0
    assert ask(server, "facts")[0] == 200


def test_an_address_of_version_6_and_every_address(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, {}, tmp_path) as (_, server):
        pass
    with PageServer(("::1", 0), server.offers, server.desk) as six:
        assert six.address_family == socket.AF_INET6
        assert six.server_address[0] == "::1"


def test_a_photograph_is_prepared_as_python_does(server: PageServer, toy: Path) -> None:
    status, body, _ = ask(server, "reference", "POST", body=toy.read_bytes())
    answer = json.loads(body)
    assert status == 200
    expected = prepare_reference(toy, None, size=16)
    pixels = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(pixels, np.asarray(expected.image.convert("RGB")))
    assert (answer["side"], answer["background"]) == (16, expected.how)
    assert Image.open(io.BytesIO(base64.b64decode(answer["thumbnail"]))).size == (16, 16)
    status, body, _ = ask(server, "reference", "POST", body=b"no picture")
    assert status == 422
    assert "received" in json.loads(body)["error"]


def test_records_are_kept_and_nothing_else_is(server: PageServer, tmp_path: Path) -> None:
    wrong = [b"", b"{", b"[]", b'{"schema_version": "1"}', b'{"schema_version": 1, "schema_version": 1}']
    wrong += [
        b'{"schema_version": %s}' % value for value in (b"true", b"1e999", b"NaN", b"9" * 5000, b"[" * 90000)
    ]
    wrong += [b'{"schema_version": 1, "a": NaN}', b'{"schema_version": 1, "a": "\xff"}']
    for text in wrong:
        assert ask(server, "records", "POST", body=text)[0] == 422
    assert not (tmp_path / "records").exists()
    names = [
        json.loads(ask(server, "records", "POST", body=b'{"schema_version": 1, "n": %d}' % n)[1])["kept"]
        for n in range(2)
    ]
    kept = [json.loads((tmp_path / "records" / name).read_text()) for name in names]
    assert kept == [{"schema_version": 1, "n": n} for n in range(2)]
    # another run of the command counts from the beginning, and the folder may be none
    server.desk._kept = 0
    assert ask(server, "records", "POST", body=b'{"schema_version": 1}')[0] == 200
    assert len(list((tmp_path / "records").iterdir())) == 3
    server.desk._records = tmp_path / "records" / names[0]
    status, body, _ = ask(server, "records", "POST", body=b'{"schema_version": 1}')
    assert status == 507
    assert json.loads(body)["error"].startswith("the desk cannot keep a record in ")


def test_a_bundle_that_changes_is_not_served_any_more(server: PageServer, bundle: Path) -> None:
    weights = bundle / "unet/weights.data"
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    status, body, _ = ask(server, WEIGHTS)
    assert status == 409
    assert "start it again" in json.loads(body)["error"]
    weights.unlink()
    assert ask(server, WEIGHTS)[0] == 409


def test_the_page_is_told_the_whole_contract(server: PageServer, bundle: Path) -> None:
    facts = json.loads(ask(server, "facts")[1])
    contract = Pipeline.load(bundle).contract
    assert facts["fingerprint"] == contract.fingerprints.subject()
    # defaults that the file leaves out
    assert facts["contract"]["scheduler"]["eta"] == 0.3
    assert facts["contract"]["scheduler"]["sigma_spacing"] == "timesteps"
    assert facts["contract"]["graphs"]["denoiser"]["file"] == "unet/model.onnx"
    assert [spec["name"] for spec in facts["cache_tensors"]] == [
        spec.name for spec in contract.graphs.cache.outputs
    ]
    assert json.loads(ask(server, "tokenizer")[1])["model"]["type"] == "BPE"
