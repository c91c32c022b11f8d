"""Checks of the way: the name, TCP to each of its addresses, and the proxy."""

from __future__ import annotations

import asyncio
import time

from unisono.errors import NetworkError
from unisono.network.preflight.report import Detail, Found
from unisono.network.preflight.trip import Trip, why
from unisono.network.preflight.way import Answer, Proxy, addresses, choose, reach, system_proxy, tunnel

RELAY_PAGE = 'docs/preflight.md, "A proxy that asks for NTLM or Kerberos"'
_ROUTE_S = 5.0
_FAMILIES = {2: "A", 10: "AAAA", 23: "AAAA", 30: "AAAA"}
"""AF_INET; AF_INET6 of Linux, Windows and macOS."""
_HOP = {"ntlm", "negotiate", "kerberos"}


async def proxy(trip: Trip) -> Found:
    """Which proxy, if any, and what kind: asked for the very connection that the agent needs."""
    try:
        trip.proxy = choose(trip.target.host, trip.environment, trip.told or trip.target.proxy)
        if trip.proxy is None and trip.told is None and not any("proxy" in name.lower() for name in trip.environment):
            trip.proxy = system_proxy(trip.target.host)
    except NetworkError as error:
        return Found(status="fail", found=error.what, todo=error.remedy)
    if trip.proxy is None:
        return Found(status="ok", found="none is set: the connection is direct", details={"kind": "none"})
    try:
        opened, answer = await tunnel(trip.proxy, trip.target.host, trip.target.port)
    except (OSError, TimeoutError, NetworkError) as error:
        return Found(
            status="fail",
            found=f"{trip.proxy.name}, from {trip.proxy.source}: {why(error)}",
            todo="Check the proxy's address and port. It must speak HTTP CONNECT.",
            ask=f"The proxy {trip.proxy.name} does not answer this machine: {why(error)}. Which proxy should it use?",
            details=_details(trip.proxy, None, "unreachable"),
        )
    if opened is not None:
        opened.close()
    trip.proxy_answer, trip.reached = answer, opened is not None
    return _kind(trip.proxy, answer, trip.target.address)


def _kind(proxy: Proxy, answer: Answer, address: str) -> Found:
    """A proxy by its answer to CONNECT."""
    where = f"{proxy.name}, from {proxy.source}"
    if 200 <= answer.status < 300:
        if proxy.by_agent:
            return Found(status="ok", found=f"{where}: open", details=_details(proxy, answer, "open"))
        return Found(
            status="warn",
            found=f"{where}: open, but the agent does not read this setting",
            todo=f"Give it to the agent: unisono site join TOKEN --proxy http://{proxy.name} (or set https_proxy, in small "
            "letters, for its service).",
            details=_details(proxy, answer, "open"),
        )
    if answer.status != 407:
        return Found(
            status="fail",
            found=f"{where}: it answered {answer.status} {answer.reason}".rstrip(),
            todo="Send the text below to the IT desk: the proxy must let this host and port through.",
            ask=f"Let the proxy {proxy.name} open a tunnel (HTTP CONNECT) to {address}; it answered {answer.status}.",
            details=_details(proxy, answer, "refuses"),
        )
    return _authenticated(proxy, answer, where, address)


def _authenticated(proxy: Proxy, answer: Answer, where: str, address: str) -> Found:
    schemes = " and ".join(answer.schemes) or "a password, of a kind that it does not say"
    asked = {scheme.lower() for scheme in answer.schemes}
    if "basic" in asked:
        said = (
            "it does not accept the name and password that it was given" if proxy.has_password else "it asks for Basic"
        )
        return Found(
            status="fail",
            found=f"{where}: {said}",
            todo="Give the proxy's name and password: --proxy http://user:password@host:port. They are never printed.",
            ask=f"Give this machine an account at the proxy {proxy.name} (Basic), or let it reach {address} without one.",
            details=_details(proxy, answer, "basic"),
        )
    kind = "relay" if asked & _HOP else "unknown"
    return Found(
        status="fail",
        found=f"{where}: it asks for {schemes}, which gRPC cannot answer",
        todo=f"Either the IT desk lets this one address through without a password, or a small relay on this machine answers for "
        f"it. See {RELAY_PAGE}.",
        ask=f"Let this machine through the proxy {proxy.name} to {address} without {schemes}; or tell us the service account "
        "that a local relay (such as cntlm or px) may use.",
        details=_details(proxy, answer, kind),
    )


def _details(proxy: Proxy, answer: Answer | None, kind: str) -> dict[str, Detail]:
    found: dict[str, Detail] = {
        "kind": kind,
        "proxy": proxy.name,
        "source": proxy.source,
        "read_by_agent": proxy.by_agent,
    }
    return found if answer is None else {**found, "status": answer.status, "schemes": list(answer.schemes)}


async def names(trip: Trip) -> Found:
    """What the coordinator's name stands for here."""
    if trip.target.is_literal:
        return Found(status="ok", found=f"{trip.target.host} is an address; no name is needed")
    try:
        found = await addresses(trip.target.host, trip.target.port)
    except (OSError, TimeoutError) as error:
        if trip.reached:
            return Found(
                status="skipped", found=f"{trip.target.host} is unknown here; the proxy knows it, which is enough"
            )
        return Found(
            status="fail",
            found=f"{trip.target.host}: {why(error)}",
            todo="Check the spelling. If it is right, the IT desk must let this machine look the name up, or name a proxy.",
            ask=f"Let this machine look up the name {trip.target.host} (DNS, A and AAAA).",
        )
    said = [f"{_FAMILIES.get(family, '?')} {address}" for family, address in found]
    return Found(status="ok", found=", ".join(said), details={"addresses": [address for _, address in found]})


async def route(trip: Trip) -> Found:
    """TCP to every address of the coordinator, side by side."""
    try:
        found = await addresses(trip.target.host, trip.target.port)
    except (OSError, TimeoutError):
        way = "the way is through the proxy" if trip.reached else "without an address there is nowhere to go"
        return Found(status="skipped", found=way)
    tried = await asyncio.gather(*(_tried(family, address, trip.target.port) for family, address in found))
    said = "; ".join(
        f"{address}: {f'{result:.0f} ms' if isinstance(result, float) else result}" for address, result in tried
    )
    details: dict[str, Detail] = {
        "open": [a for a, r in tried if isinstance(r, float)],
        "closed": [a for a, r in tried if isinstance(r, str)],
    }
    times = [result for _, result in tried if isinstance(result, float)]
    if trip.proxy is not None:
        if times and not trip.reached:
            todo = f"The proxy may not be needed for this address: leave it out with no_proxy={trip.target.host}, and try again."
            return Found(status="warn", found=f"open directly: {said}", todo=todo, details=details)
        direct = "also open directly" if times else "not open directly; the way is through the proxy"
        return Found(status="ok" if trip.reached else "skipped", found=direct, details=details)
    trip.reached = bool(times)
    if len(times) == len(tried):
        return Found(status="ok", found=said, details={**details, "milliseconds": round(min(times), 3)})
    if times:
        return Found(
            status="warn",
            found=said,
            todo="Some addresses do not answer. It works, but connecting may be slow: tell the IT desk (often IPv6).",
            ask=f"Open outbound TCP to every address of {trip.target.address}; some are closed ({said}).",
            details={**details, "milliseconds": round(min(times), 3)},
        )
    return Found(
        status="fail",
        found=said,
        todo="Check the port with the coordinator's operator. If it is right, send the text below to the IT desk; if the hospital "
        "has a proxy, name it with --proxy.",
        ask=f"Open one outbound TCP connection from this machine to {trip.target.address} (now: {said}), or name the proxy to use.",
        details=details,
    )


async def _tried(family: int, address: str, port: int) -> tuple[str, float | str]:
    """An address, and in how many milliseconds it answered or why it did not."""
    began = time.perf_counter()
    try:
        (await reach(family, address, port, _ROUTE_S)).close()
    except (OSError, TimeoutError) as error:
        return address, why(error)
    return address, (time.perf_counter() - began) * 1000
