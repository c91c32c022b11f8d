"""What the checks of one preflight share: whom it is about, the way that was found, and what has been seen on it so far."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from unisono.errors import UnisonoError
from unisono.network.agent.text import plain
from unisono.network.preflight.target import Target
from unisono.network.preflight.way import Answer, Proxy

HEARTBEAT_S = 15.0
"""Between two signs of life of an agent, if the coordinator says nothing else."""


@dataclass(frozen=True)
class Seen:
    """What answered TLS. certificate: None if it cannot be read; alpn: what both would speak, empty if nothing was agreed on."""

    certificate: x509.Certificate | None
    version: str
    alpn: str


@dataclass(frozen=True)
class Greeting:
    """What the coordinator said of itself over mutual TLS. measures: whether it takes part in measurements."""

    role: str
    name: str
    software: str
    heartbeat_s: float
    measures: bool


@dataclass
class Trip:
    """One preflight on its way. told: a proxy from --proxy; proxy: the one that is used; proxy_answer, seen and greeting: None
    until they are known. reached: whether TCP to the coordinator works, directly or through the proxy.
    stranger: who answered TLS, if that was not the coordinator; empty if it was, or nobody can know."""

    target: Target
    idle_s: float
    home: Path
    clock: Callable[[], datetime]
    environment: Mapping[str, str] = field(repr=False)
    told: str | None = field(default=None, repr=False)
    proxy: Proxy | None = None
    proxy_answer: Answer | None = None
    reached: bool = False
    seen: Seen | None = None
    trusted: bool = False
    stranger: str = ""
    greeting: Greeting | None = None


def why(error: Exception) -> str:
    """A connection's trouble in a few words."""
    if isinstance(error, UnisonoError):
        return error.what
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) == errno.ETIMEDOUT:
        return "no answer came in time, as when a firewall drops packets"
    if isinstance(error, ConnectionRefusedError):
        return "refused: nothing listens there, or a firewall rejects it"
    if isinstance(error, ConnectionError):
        return "the connection was cut"
    if isinstance(error, socket.gaierror):
        return "the name is unknown here"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {plain((error.reason or 'ended early').replace('_', ' ').lower(), 80)}"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "no route leads there"
    return plain(getattr(error, "strerror", None) or type(error).__name__, 80)
