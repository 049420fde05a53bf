"""Where a phone finds this machine: its address on the local network, or a cable (`adb reverse`)."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import Literal

from dreamcache.runtime.errors import SettingsError

Way = Literal["https", "http", "usb"]
LOOPBACK = "127.0.0.1"


def local_address() -> str:
    """This machine's address on the network that it reaches others by; the loopback one without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the system only says by which address it would be. 192.0.2.0/24 is nobody's (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return LOOPBACK
        return str(probe.getsockname()[0])


def reverse_port(port: int) -> None:
    """Make localhost:port of the phone at the cable this machine's.

    Raises: SettingsError without adb, or when it finds no phone.
    """
    if (adb := shutil.which("adb")) is None:
        raise SettingsError(
            "--usb: adb is expected, received none; install Android's platform tools, or leave --usb out"
        )
    rule = f"tcp:{port}"
    done = subprocess.run(
        [adb, "reverse", rule, rule], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode != 0:
        why = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise SettingsError(
            f"--usb: a phone with USB debugging is expected, adb says: {why[-1]}; allow this machine on the phone"
        )


def terminal_code(address: str) -> str | None:
    """The address as a QR code in characters; None without segno (extra `[web]`)."""
    try:
        import segno
    except ModuleNotFoundError:
        return None
    import io

    drawn = io.StringIO()
    segno.make(address, error="l").terminal(drawn, compact=True, border=2)
    return drawn.getvalue()
