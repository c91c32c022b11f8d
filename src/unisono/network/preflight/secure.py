"""Checks of TLS: whose certificate answers, whether somebody opens the traffic in between, which version, and HTTP/2."""

from __future__ import annotations

import asyncio
import ssl

from cryptography import x509

from unisono.errors import NetworkError
from unisono.network import pki
from unisono.network.agent.text import plain
from unisono.network.preflight.report import Detail, Found
from unisono.network.preflight.trip import Seen, Trip, why
from unisono.network.preflight.way import dial

_HANDSHAKE_S = 10.0
_UNREADABLE = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion)


def context() -> ssl.SSLContext:
    """TLS 1.2 or later and HTTP/2. Nothing is verified here: whoever answers is to be seen, and nothing is sent to them."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["h2"])
    return made


async def open_tls(trip: Trip) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TLS connection to whoever answers, without a certificate of ours. `OSError`, `TimeoutError` or `NetworkError`."""
    opened = await dial(trip.target.host, trip.target.port, trip.proxy)
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            return await asyncio.open_connection(sock=opened, ssl=context(), server_hostname=trip.target.host)
    except BaseException:
        opened.close()
        raise


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close without waiting for the other end's good-bye, which may never come."""
    writer.transport.abort()
    await asyncio.sleep(0)


async def certificate(trip: Trip) -> Found:
    """Whose certificate answered; compared with the authority of the token."""
    if not trip.reached:
        return Found(status="skipped", found="there is no connection to look at")
    try:
        _, writer = await open_tls(trip)
    except (OSError, TimeoutError, NetworkError) as error:
        return Found(
            status="fail",
            found=f"no TLS: {why(error)}",
            todo="Check address and port with the coordinator's operator. If they are right, something between cuts TLS: send the "
            "text below to the IT desk.",
            ask=f"Let TLS 1.3 through to {trip.target.address}: the TCP connection opens, and the TLS handshake is cut.",
        )
    spoken = writer.get_extra_info("ssl_object")
    raw = spoken.getpeercert(binary_form=True) or b""
    trip.seen = Seen(_read(raw), spoken.version() or "", spoken.selected_alpn_protocol() or "")
    await hang_up(writer)
    return _judged(trip, trip.seen.certificate)


async def certificate_shown(trip: Trip) -> str:
    """Whose certificate answers, and who issued it, in words; empty if it cannot be read. `OSError`, `TimeoutError` or
    `NetworkError` if no TLS answers."""
    _, writer = await open_tls(trip)
    found = _read(writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b"")
    await hang_up(writer)
    return "" if found is None else f"a certificate of {_name(found.subject)}, issued by {_name(found.issuer)}"


def _judged(trip: Trip, found: x509.Certificate | None) -> Found:
    if found is None:
        return Found(
            status="fail",
            found="a certificate answered that cannot be read",
            todo="This is not the coordinator: compare the address with its operator.",
        )
    details: dict[str, Detail] = {
        "subject": _name(found.subject),
        "issuer": _name(found.issuer),
        "fingerprint": pki.fingerprint(found),
        "authority": trip.target.authority or None,
        "not_before": f"{found.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{found.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }
    coordinator = _coordinator(found)
    if trip.target.credentials is None:
        return _unpinned(found, coordinator, details)
    try:
        pki.verify_issued(found, pki.certificate_of(trip.target.credentials.ca_pem))
    except NetworkError:
        return _another(trip, found, coordinator, details)
    if not coordinator:
        said = f"a certificate of this federation answered that is no coordinator's ({_name(found.subject)})"
        return Found(
            status="fail", found=said, todo="Tell the coordinator's operator at once; do not join.", details=details
        )
    return _own(trip, found, coordinator, details)


def _another(trip: Trip, found: x509.Certificate, coordinator: str, details: dict[str, Detail]) -> Found:
    """The certificate is not the authority's: another federation's, or an interceptor's."""
    trip.stranger = "another federation" if coordinator else "the interceptor"
    if coordinator:
        return Found(
            status="fail",
            found=f"another federation answered: {coordinator!r}, issued by {_name(found.issuer)}",
            todo="Compare address and fingerprint with the coordinator's operator by telephone; the token may be an old one. Do not "
            "join before they agree.",
            details={**details, "intercepted": False},
        )
    return Found(
        status="fail",
        found=f"TLS is opened on the way: a certificate of {_name(found.subject)} answered, issued by {_name(found.issuer)}",
        todo="Send the text below to the IT desk. Nothing was sent to whoever answered, and nothing will be: Unisono refuses such a "
        "connection.",
        ask=f"Exempt {trip.target.address} from TLS inspection: a certificate issued by {_name(found.issuer)} answers in its place.",
        details={**details, "intercepted": True},
    )


def _unpinned(found: x509.Certificate, coordinator: str, details: dict[str, Detail]) -> Found:
    """Without a token there is nothing to compare with but what a coordinator's certificate always says."""
    if coordinator:
        return Found(
            status="warn",
            found=f"it says that it is the coordinator {coordinator!r}, issued by {_name(found.issuer)}; this cannot be verified "
            "without a token",
            todo="Run preflight again with the operator's token.",
            details={**details, "intercepted": None},
        )
    return Found(
        status="fail",
        found=f"not a Unisono coordinator: a certificate of {_name(found.subject)} answered, issued by {_name(found.issuer)}",
        todo="Check the address with the operator. If it is right, TLS is opened on the way: send the text below to the IT desk.",
        ask=f"If {_name(found.issuer)} is the hospital's own inspection of TLS: exempt this host and port from it.",
        details={**details, "intercepted": True},
    )


def _own(trip: Trip, found: x509.Certificate, coordinator: str, details: dict[str, Detail]) -> Found:
    """The authority made it: is it for this name, and this time?"""
    trip.trusted, now = True, trip.clock()
    details = {**details, "intercepted": False}
    if not found.not_valid_before_utc <= now < found.not_valid_after_utc:
        over = now >= found.not_valid_after_utc
        when = found.not_valid_after_utc if over else found.not_valid_before_utc
        return Found(
            status="fail",
            found=f"the coordinator's certificate {'expired on' if over else 'is valid only from'} {when:%Y-%m-%d %H:%M} UTC; it is "
            f"{now:%Y-%m-%d %H:%M} here",
            todo="If this machine's clock is right, tell the coordinator's operator.",
            details=details,
        )
    names = _names(found)
    if trip.target.host not in names:
        return Found(
            status="fail",
            found=f"the coordinator's certificate is for {', '.join(names) or 'no name'}, not for {trip.target.host}",
            todo="Use one of these names, or ask the operator to add this one to the coordinator's hosts.",
            details=details,
        )
    until = f"{found.not_valid_after_utc:%Y-%m-%d}"
    return Found(
        status="ok",
        found=f"the coordinator {coordinator!r}, certified by {_name(found.issuer)} until {until}",
        details=details,
    )


async def http2(trip: Trip) -> Found:
    """The version of TLS, and HTTP/2 by ALPN (RFC 7301): without it gRPC does not speak."""
    if trip.seen is None:
        return Found(status="skipped", found="there is no TLS to look at")
    details: dict[str, Detail] = {"tls": trip.seen.version, "alpn": trip.seen.alpn or None}
    if trip.seen.alpn != "h2":
        return Found(
            status="fail",
            found=f"{trip.seen.version}, without HTTP/2",
            todo="The agent needs HTTP/2. If the address is right, a gateway between speaks HTTP/1.1 only: send the text below to the IT "
            "desk.",
            ask=f"Let HTTP/2 (ALPN h2) through to {trip.target.address} unchanged; what answers now offers HTTP/1.1 at most.",
            details=details,
        )
    if trip.seen.version != "TLSv1.3":
        return Found(
            status="warn",
            found=f"{trip.seen.version}, HTTP/2",
            todo="Both ends can do TLS 1.3; something between lowers it. It works, and the IT desk should know.",
            ask=f"Do not lower TLS to 1.2 on the way to {trip.target.address}.",
            details=details,
        )
    whose = f": with {trip.stranger}, and not with the coordinator" if trip.stranger else ""
    return Found(status="ok", found=f"TLS 1.3, HTTP/2{whose}", details=details)


def _read(raw: bytes) -> x509.Certificate | None:
    try:
        found = x509.load_der_x509_certificate(raw)
        _name(found.subject), _name(found.issuer)
    except _UNREADABLE:
        return None
    return found


def _name(name: x509.Name) -> str:
    return plain(name.rfc4514_string(), 200) or "nobody"


def _coordinator(found: x509.Certificate) -> str:
    """The coordinator's name that a certificate says; empty if it is none's."""
    try:
        peer = pki.peer_of(pki.pem(found))
    except NetworkError:
        return ""
    return peer.name if peer.role == "coordinator" else ""


def _names(found: x509.Certificate) -> list[str]:
    """Host names and addresses of a certificate, in small letters."""
    try:
        general = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (*_UNREADABLE, x509.ExtensionNotFound):
        return []
    return [plain(str(item.value).lower(), 253) for item in general if isinstance(item, x509.DNSName | x509.IPAddress)]
