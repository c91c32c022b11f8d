"""Where monitoring may be listened on: an address of loopback, written as host:port, and no other."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from unisono.errors import NetworkError

_FORM = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9.-]{1,253}))(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class Loopback:
    """host: in 127.0.0.0/8, or ::1. port: 0 for any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def loopback(text: str) -> Loopback:
    """The address of ``127.0.0.1:9464``, ``[::1]:9464`` or ``localhost:9464``. `NetworkError` for any other."""
    found = _FORM.fullmatch(text)
    if found is None or found[3] is None or int(found[3]) > 65535:
        raise NetworkError(
            f"{text[:80]!r} is no address for monitoring.",
            rule="metrics-address",
            remedy="Write host and port: 127.0.0.1:9464.",
        )
    host = found[1] or found[2]
    if not is_loopback(host):
        raise NetworkError(
            f"Metrics and health are shown on loopback only, and {host} is not.",
            rule="metrics-loopback",
            remedy="Write 127.0.0.1 and a port. To read them from another machine, put the institution's own reverse proxy before "
            "it, with TLS and a password, or run the monitoring's agent on this machine (docs/operations.md).",
        )
    return Loopback("127.0.0.1" if host.lower() == "localhost" else host, int(found[3]))


def chosen(given: str, setting: str) -> Loopback | None:
    """What was given with the command, else the setting; None for nowhere."""
    text = given or setting
    return loopback(text) if text else None


def names_loopback(host: str) -> bool:
    """Whether a Host header names loopback, with any port or none. Another name is a web page's, whose DNS leads here."""
    found = _FORM.fullmatch(host)
    return found is not None and is_loopback(found[1] or found[2])


def is_loopback(host: str) -> bool:
    """Of an address without a port, or ``localhost``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
