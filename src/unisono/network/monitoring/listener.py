"""A small HTTP server on loopback: GET /metrics, /healthz and /readyz, one request a connection, everything bounded.

Not for the network: it has no TLS and asks nobody who they are. It therefore binds to loopback only, answers only requests
whose Host is loopback (a web page in a browser on this machine cannot read it by DNS rebinding), takes no body, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from unisono.errors import NetworkError
from unisono.network.log import Log
from unisono.network.monitoring.address import Loopback, names_loopback
from unisono.network.monitoring.exposition import CONTENT_TYPE, Family, render

HEADER_BYTES = 8192
"""Of a request, all of it."""
CONNECTIONS = 16
"""At a time; who comes then is told to come later."""
_PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"


@dataclass(frozen=True)
class Shown:
    """What a service shows. families: its numbers, as they are now. checks: of being ready, by name: what is wrong, or
    nothing ("")."""

    families: Callable[[], Awaitable[list[Family]]]
    checks: Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True)
class _Page:
    status: HTTPStatus
    body: bytes
    kind: str = _PLAIN


class Listener:
    """The server, from `start` to `stop`. request_s: within which a request must have come, and its answer gone."""

    def __init__(self, shown: Shown, log: Log, request_s: float = 5.0) -> None:
        self._shown = shown
        self._log = log
        self._request_s = request_s
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self, address: Loopback) -> Loopback:
        """Listen. The address with the port that it is. `NetworkError` (``metrics-address``) if it cannot be listened on."""
        try:
            self._server = await asyncio.start_server(self._come, address.host, address.port, limit=HEADER_BYTES)
        except OSError as error:
            raise NetworkError(
                f"Metrics cannot be shown on {address}: {error.strerror or type(error).__name__}.",
                rule="metrics-address",
                remedy="Another program listens there, such as another service of Unisono: give each a port of its own.",
            ) from error
        found = Loopback(address.host, int(self._server.sockets[0].getsockname()[1]))
        self._log.write("monitoring", address=str(found))
        return found

    async def stop(self) -> None:
        """Listen no more; what is being answered is cut off."""
        if self._server is not None:
            self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(self._request_s):
                    page = _later() if len(self._talks) > CONNECTIONS else await self._answer(reader)
                    writer.write(_response(page))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()  # whoever does not read does not hold us up
            self._talks.discard(talk)

    async def _answer(self, reader: asyncio.StreamReader) -> _Page:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _Page(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"too long\n")
        except asyncio.IncompleteReadError:
            return _Page(HTTPStatus.BAD_REQUEST, b"no request\n")
        path, refused = _asked(head)
        if refused is not None:
            return refused
        try:
            return await self._page(path)
        except Exception as error:  # noqa: BLE001  (a fault of ours ends the request, not the service)
            self._log.write("fault", call="monitoring", by="", kind=type(error).__name__)
            return _Page(HTTPStatus.INTERNAL_SERVER_ERROR, b"fault\n")

    async def _page(self, path: str) -> _Page:
        if path == "/metrics":
            return _Page(HTTPStatus.OK, render(await self._shown.families()), CONTENT_TYPE)
        if path == "/healthz":
            return _Page(HTTPStatus.OK, b"ok\n")
        if path == "/readyz":
            checks = {name: wrong or "ok" for name, wrong in (await self._shown.checks()).items()}
            ready = all(said == "ok" for said in checks.values())
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return _Page(status, (json.dumps({"ready": ready, "checks": checks}) + "\n").encode(), _JSON)
        return _Page(HTTPStatus.NOT_FOUND, b"/metrics, /healthz or /readyz\n")


def _asked(head: bytes) -> tuple[str, _Page | None]:
    """The path that a request's head asks for; or why it gets none."""
    first, *rest = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        return "", _Page(HTTPStatus.BAD_REQUEST, b"not HTTP/1.1\n")
    hosts = [line.split(":", 1)[1].strip() for line in rest if line.lower().startswith("host:")]
    if len(hosts) != 1 or not names_loopback(hosts[0]):
        return "", _Page(HTTPStatus.MISDIRECTED_REQUEST, b"for loopback only\n")
    if words[0] != "GET":
        return "", _Page(HTTPStatus.METHOD_NOT_ALLOWED, b"GET only\n")
    return words[1].split("?", 1)[0], None


def _later() -> _Page:
    return _Page(HTTPStatus.SERVICE_UNAVAILABLE, b"too many at a time\n")


def _response(page: _Page) -> bytes:
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.kind}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if page.status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET")
    return "\r\n".join((*lines, "", "")).encode("ascii") + page.body
