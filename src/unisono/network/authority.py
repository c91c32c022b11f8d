"""The federation's certificate authority: who makes its certificates, or, without the key, tells them from others'."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from unisono.federation.storage import storage, write_whole
from unisono.network import pki
from unisono.network.pki import PrivateKey, PublicKey, Role

AUTHORITY_DAYS = 3650
_MOST_DAYS = 36_500
_DNS = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


class Authority:
    """The federation's certificate authority. With its key (`can_issue`) it makes certificates; with ``ca.pem`` alone it
    verifies them, so that the key can be kept on another machine than the running coordinator's."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey | None = None) -> None:
        self.certificate = certificate
        self._key = key
        self.ca_pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = pki.fingerprint(certificate)

    @classmethod
    def create(cls, folder: Path, name: str, *, now: datetime, days: float = AUTHORITY_DAYS) -> Authority:
        """A new authority: ``ca.key`` (mode 0600) and ``ca.pem`` in `folder`. `NetworkError` if there is one already (a new
        one would shut every member out), or if the name is not a name."""
        for path in (folder / "ca.key", folder / "ca.pem"):
            if path.exists():
                raise pki.refused(
                    f"There is a certificate authority in {folder} already.",
                    "one-authority",
                    f"Use it, or name another folder. Remove {path.name} only if nobody has joined yet.",
                )
        key = pki.make_key()
        certificate = _authority_certificate(key, pki.as_name(name), now, _valid(days))
        write_whole(folder / "ca.key", pki.private_pem(key), "authority's key", mode=0o600)
        write_whole(folder / "ca.pem", pki.pem(certificate), "authority's certificate")
        return cls(certificate, key)

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The authority in a folder, able to issue if ``ca.key`` is there. `StorageError` without ``ca.pem``,
        `NetworkError` if the two do not belong together."""
        certificate = pki.certificate_of(pki.read_file(folder / "ca.pem"))
        with storage(folder / "ca.key", "authority's key"):
            apart = not (folder / "ca.key").exists()
        key = None if apart else pki.private_key_of(pki.read_file(folder / "ca.key"))
        if key is not None and pki.spki(key.public_key()) != pki.spki(certificate.public_key()):
            raise pki.refused(
                f"In {folder}, ca.key does not belong to ca.pem.",
                "key-mismatch",
                "Put both files of one authority there.",
            )
        return cls(certificate, key)

    @property
    def can_issue(self) -> bool:
        """True if the authority's key is here."""
        return self._key is not None

    def verify(self, certificate: x509.Certificate) -> None:
        """`NetworkError` unless this authority made the certificate. Its time and its revocation: `pki.check`."""
        pki.verify_issued(certificate, self.certificate)

    def issue(
        self,
        request: x509.CertificateSigningRequest | PublicKey,
        role: Role,
        name: str,
        *,
        now: datetime,
        days: float = pki.VALID_DAYS,
        hosts: Sequence[str] = (),
        invites: Role | None = None,
    ) -> x509.Certificate:
        """A certificate for a public key, never longer than the authority's own.

        hosts: names and addresses at which a coordinator is reached, at least one; for nobody else. invites: for role
        ``invited``, the role to join in. `NetworkError` if the key is apart or not P-256, the request is not signed by its
        own key or says another role or name, or the role, name, hosts or days are impossible.
        """
        if isinstance(request, x509.CertificateSigningRequest):
            key = pki.verify_request(request, role, name)
        else:
            key = pki.p256(request)
        if (role == "coordinator") != bool(hosts) or (role == "invited") != (invites in pki.MEMBER_ROLES):
            raise pki.refused(
                f"A certificate for a {role} cannot be made like this.",
                "certificate-request",
                "A coordinator needs the host names at which sites reach it, and nobody else; an invitation says its role.",
            )
        return self._signed(key, role, pki.as_name(name), now, days, [_host(host) for host in hosts], invites)

    def renewed(
        self,
        certificate: x509.Certificate,
        *,
        now: datetime,
        days: float = pki.VALID_DAYS,
        revoked: Collection[str] = (),
    ) -> x509.Certificate:
        """A later certificate for the same public key, role, name and hosts. `NetworkError` if the old one is not this
        authority's, has expired, was revoked, or was only an invitation."""
        self.verify(certificate)
        peer = pki.peer_of(pki.pem(certificate))
        pki.check(peer, now, revoked, pki.MEMBER_ROLES)
        hosts = [
            general for general in pki.alternatives(certificate) if isinstance(general, x509.DNSName | x509.IPAddress)
        ]
        return self._signed(pki.p256(certificate.public_key()), peer.role, peer.name, now, days, hosts, None)

    def _signed(
        self,
        key: PublicKey,
        role: Role,
        name: str,
        now: datetime,
        days: float,
        hosts: Sequence[x509.GeneralName],
        invites: Role | None,
    ) -> x509.Certificate:
        if self._key is None:
            raise pki.refused(
                "The authority's key is not on this machine, so no certificate can be made here.",
                "authority-apart",
                "Where the key is: `unisono authority invite` makes tokens, and `unisono authority sign` certificates for what "
                "`unisono coordinator pending` wrote; `unisono coordinator accept` takes both in here.",
            )
        until = min(now + _valid(days), self.certificate.not_valid_after_utc)
        if until <= now:
            raise pki.refused(
                f"The certificate authority expired on {until:%Y-%m-%d}.",
                "authority-expired",
                "Make a new authority; every member must then join again.",
            )
        eku = [ExtendedKeyUsageOID.CLIENT_AUTH] + [ExtendedKeyUsageOID.SERVER_AUTH] * (role == "coordinator")
        ours = cast(PublicKey, self.certificate.public_key())
        return (
            _begun(key, pki.subject(name, invites), self.certificate.subject, now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(eku), critical=False)
            .add_extension(x509.SubjectAlternativeName([pki.claim(role, name), *hosts]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _begun(
    key: PublicKey, subject: x509.Name, issuer: x509.Name, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    """What every certificate has: X.509 v3, a random serial number of 128 bits, the key and its identifier."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(1 + secrets.randbelow(2**128 - 1))
        .not_valid_before(now - pki.SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_certificate(key: PrivateKey, name: str, now: datetime, valid: timedelta) -> x509.Certificate:
    subject = pki.subject(name, None)
    return (
        _begun(key.public_key(), subject, subject, now, now + valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{**dict.fromkeys((*names, *others), False), **allowed})


def _valid(days: float) -> timedelta:
    if not 0 < days <= _MOST_DAYS:
        raise pki.refused(
            f"A certificate cannot be valid for {days:g} days.", "certificate-days", f"Say 1 to {_MOST_DAYS}."
        )
    return timedelta(days=days)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _DNS.fullmatch(host):
            return x509.DNSName(host)
    raise pki.refused(
        f"{host[:80]!r} is neither a host name nor an IP address.",
        "host-names",
        "Give the names and addresses at which sites reach the coordinator, without a port.",
    )
