"""What stands at a hospital's door: an HTTP CONNECT proxy that lets through, wants a password or a Windows log-on; and a firewall
that opens TLS with an authority of its own."""

from __future__ import annotations

import base64
import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from unisono.network import pki

_CONNECT = re.compile(r"CONNECT \[?([^\s\]]+)\]?:([0-9]+) HTTP/1\.[01]")


class Refused(Exception):
    """The proxy says no. answer: in HTTP."""

    def __init__(self, status: str, *fields: str) -> None:
        super().__init__(status)
        self.answer = "\r\n".join([f"HTTP/1.1 {status}", *fields, "Content-Length: 0", "\r\n"]).encode()


@dataclass
class Door:
    """An HTTP CONNECT proxy. password: ``name:word`` that it wants (Basic); schemes: others that it wants, such as NTLM, which
    nobody here has. asked: the first line of every request, without passwords."""

    password: str = ""
    schemes: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def open(self, head: str) -> tuple[str, int, bytes]:
        """(host, port, what to say first) for a request's head. Raises `Refused`."""
        first, *lines = head.split("\r\n")
        self.asked.append(first)
        found = _CONNECT.fullmatch(first)
        if found is None:
            raise Refused("405 Method Not Allowed")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        wanted = f"Basic {base64.b64encode(self.password.encode()).decode()}" if self.password else None
        if self.schemes or (wanted is not None and fields.get("proxy-authorization") != wanted):
            schemes = self.schemes or ('Basic realm="hospital"',)
            raise Refused("407 Proxy Authentication Required", *(f"Proxy-Authenticate: {scheme}" for scheme in schemes))
        return found[1], int(found[2]), b"HTTP/1.1 200 Connection established\r\n\r\n"


def intercepting(folder: Path, issuer: str, host: str = "127.0.0.1") -> ssl.SSLContext:
    """TLS of a firewall that answers in the place of `host`, with a certificate that its own authority made."""
    now, ca_key, key = datetime.now(UTC), pki.make_key(), pki.make_key()

    def certificate(subject: str, public: pki.PublicKey, *, authority: bool) -> x509.Certificate:
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if not authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
            made = made.add_extension(names, critical=False)
        return made.sign(ca_key, hashes.SHA256())

    leaf = certificate(host, key.public_key(), authority=False)
    path = folder / "firewall.pem"
    chain = pki.pem(leaf) + pki.pem(certificate(issuer, ca_key.public_key(), authority=True))
    path.write_bytes(pki.private_pem(key) + chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_alpn_protocols(["h2"])
    return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
