"""Plain HTTP at an address of HTTPS: whoever types the address without the s is led to the right one."""

from __future__ import annotations

import re
import socket
import ssl

_MOST_BYTES = 8192
_REQUEST = re.compile(rb"(?:GET|HEAD) (/[!-~]*) HTTP/1\.[01]\r\n")
_HOST = re.compile(rb"\r\nhost:[ \t]*([\w.:\[\]-]{1,255})[ \t]*\r\n", re.IGNORECASE | re.ASCII)
_SENTENCE = (
    b"This address begins with https:// - scan the code that `dreamcache web` shows in its terminal.\n"
)


def answer_plain_http(connection: ssl.SSLSocket) -> bool:
    """Answer a connection that speaks plain HTTP before any handshake; False for one that speaks TLS.

    Raises: OSError where nothing comes.
    """
    # SSLSocket refuses to look without taking; below it is a plain socket.
    first = socket.socket.recv(connection, 1, socket.MSG_PEEK)
    if not first.isalpha():
        return False
    socket.socket.sendall(connection, https_answer(socket.socket.recv(connection, _MOST_BYTES)))
    return True


def https_answer(request: bytes) -> bytes:
    """The same address with an s, or a sentence where the request names none."""
    path, host = _REQUEST.match(request), _HOST.search(request)
    status, place = b"400 Bad Request", b""
    if path and host:
        status, place = b"308 Permanent Redirect", b"Location: https://" + host[1] + path[1] + b"\r\n"
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: text/plain\r\nConnection: close\r\n" + place
    return head + b"Content-Length: " + str(len(_SENTENCE)).encode() + b"\r\n\r\n" + _SENTENCE
