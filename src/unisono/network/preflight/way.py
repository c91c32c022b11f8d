"""The way out of the hospital: directly, or through an HTTP CONNECT proxy (RFC 9110, section 9.3.6), and who decides which.

gRPC, which carries the agent's stream, has its own rule for this, and preflight follows it: ``grpc_proxy``, ``https_proxy``,
``http_proxy`` in small letters, unless ``no_grpc_proxy`` or ``no_proxy`` ends like the host. It reads no capitals and no system
setting: a proxy that is only there is found here, used here, and said to be given to the agent with --proxy.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import platform
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from unisono.errors import NetworkError
from unisono.network.agent.folder import proxy_of
from unisono.network.agent.text import plain

CONNECT_S = 8.0
_HEAD_BYTES = 16 * 1024
_MOST_ADDRESSES = 8
_READ = ("grpc_proxy", "https_proxy", "http_proxy")
_NOT_READ = ("HTTPS_PROXY", "HTTP_PROXY")


@dataclass(frozen=True)
class Proxy:
    """An HTTP CONNECT proxy. url: with the password, if it has one, and so never shown; source: who said so; by_agent: whether the
    agent would use it by itself."""

    url: str = field(repr=False)
    source: str
    by_agent: bool

    @property
    def name(self) -> str:
        """``host:port``, without name and password."""
        return f"{urlsplit(self.url).hostname}:{urlsplit(self.url).port}"

    @property
    def has_password(self) -> bool:
        """Whether a user name came with it."""
        return urlsplit(self.url).username is not None


@dataclass(frozen=True)
class Answer:
    """A proxy's answer to CONNECT. schemes: what it wants of whoever asks (407), in its own order and in capitals as usual; date:
    its clock, if it said."""

    status: int
    reason: str
    schemes: tuple[str, ...]
    date: datetime | None


def choose(host: str, environment: Mapping[str, str], told: str | None = None) -> Proxy | None:
    """The proxy to this host, if any. told: by --proxy, or when the site joined. `NetworkError` if it is none that can be used."""
    if told is not None:
        return Proxy(proxy_of(told), "--proxy, or what the site was told when it joined", by_agent=True)
    read = next((name for name in _READ if environment.get(name)), None)
    if read is not None and not excluded(host, environment):
        return Proxy(proxy_of(environment[read]), f"the environment ({read})", by_agent=True)
    if read is not None:
        return None
    capital = next((name for name in _NOT_READ if environment.get(name)), None)
    if capital is not None and not _ends_like(host, environment.get("NO_PROXY", "")):
        return Proxy(proxy_of(environment[capital]), f"the environment ({capital})", by_agent=False)
    return None


def system_proxy(host: str) -> Proxy | None:
    """What macOS or Windows is set to, for every program that asks; None on other systems. `NetworkError` if it is none that can be
    used."""
    if platform.system() not in ("Darwin", "Windows") or proxy_bypass(host):
        return None
    found = getproxies().get("https")
    return Proxy(proxy_of(found), "the system's settings", by_agent=False) if found else None


def excluded(host: str, environment: Mapping[str, str]) -> bool:
    """Whether gRPC goes to this host directly although a proxy is set. The first of the two variables that is set counts."""
    return _ends_like(host, environment.get("no_grpc_proxy") or environment.get("no_proxy", ""))


def _ends_like(host: str, entries: str) -> bool:
    for entry in (part.strip().lower() for part in entries.split(",")):
        if entry and (host.lower().endswith(entry) or _in_network(host, entry)):
            return True
    return False


def _in_network(host: str, entry: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


async def addresses(host: str, port: int) -> list[tuple[int, str]]:
    """(family, address) of everything that the name stands for, each once. `OSError` if it stands for nothing; `TimeoutError`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # "a..b" and the like: no name at all
        raise socket.gaierror(socket.EAI_NONAME, "not a name") from error
    return list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))[:_MOST_ADDRESSES]


async def reach(family: int, address: str, port: int, seconds: float = CONNECT_S) -> socket.socket:
    """A TCP connection to one address, not blocking. `OSError` or `TimeoutError` if there is none."""
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(opened, (address, port))
    except BaseException:
        opened.close()
        raise
    return opened


async def dial(host: str, port: int, proxy: Proxy | None = None) -> socket.socket:
    """A TCP connection to a host, through the proxy if there is one. `OSError` or `TimeoutError` if there is none, `NetworkError` if
    the proxy refuses."""
    if proxy is not None:
        opened, answer = await tunnel(proxy, host, port)
        if opened is None:
            raise NetworkError(
                f"The proxy {proxy.name} answered {answer.status}.",
                rule="proxy-refused",
                remedy="Ask the IT desk to allow HTTP CONNECT to this host and port.",
            )
        return opened
    trouble: Exception = OSError("the name stands for no address")
    for family, address in await addresses(host, port):
        try:
            return await reach(family, address, port)
        except (OSError, TimeoutError) as error:
            trouble = error
    raise trouble


async def tunnel(proxy: Proxy, host: str, port: int) -> tuple[socket.socket | None, Answer]:
    """Ask a proxy for a connection: the connection (None if it refuses) and its answer. `OSError` or `TimeoutError` if the proxy
    itself cannot be reached or says nothing; `NetworkError` if what it says is no HTTP."""
    parts = urlsplit(proxy.url)
    opened = await dial(parts.hostname or "", parts.port or 0)
    try:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if proxy.has_password:
            secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(secret).decode('ascii')}")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            await loop.sock_sendall(opened, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            head = b""
            while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
                got = await loop.sock_recv(opened, 4096)
                if not got:
                    break
                head += got
        answer = answer_of(head)
    except BaseException:
        opened.close()
        raise
    if 200 <= answer.status < 300:
        return opened, answer
    opened.close()
    return None, answer


def answer_of(head: bytes) -> Answer:
    """What the head of an HTTP answer says. `NetworkError` if it is none."""
    lines = head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    status = re.fullmatch(r"HTTP/1\.[01] ([1-5][0-9][0-9])(?: (.*))?", lines[0])
    if status is None:
        raise NetworkError(
            "What answers there is no HTTP proxy.",
            rule="proxy-answer",
            remedy="Check the proxy's address and port; a SOCKS proxy cannot be used.",
        )
    fields = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    asked = [value for name, value in fields if name == "proxy-authenticate"]
    words = [challenge.split()[0] for value in asked for challenge in value.split(",") if challenge.strip()]
    schemes = tuple(dict.fromkeys(plain(word, 20) for word in words if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", word)))
    date = next((value for name, value in fields if name == "date"), "")
    return Answer(int(status[1]), plain(status[2] or "", 60), schemes, _date(date))


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
