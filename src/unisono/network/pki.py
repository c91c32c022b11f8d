"""Who is who on the wire: the federation's certificate authority, certificates and keys (X.509 v3, RFC 5280; ECDSA P-256).

A certificate says one thing, in a SAN URI: ``unisono:<role>/<name>``. It opens the port; it does not make a site count. What
counts in a sum is a site's Ed25519 identity in the roster that its peers' permits pin (design/secure-aggregation.md, rule 3).
No clock is read here: `now` is an aware datetime that the caller passes in.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from unisono.errors import NetworkError
from unisono.federation.storage import storage, write_whole
from unisono.study.document import SLUG

Role = Literal["coordinator", "site", "researcher", "operator", "invited"]
"""``invited`` is a token's bootstrap certificate: it may join, and nothing else."""
ROLES: tuple[Role, ...] = get_args(Role)
MEMBER_ROLES: tuple[Role, ...] = ("coordinator", "site", "researcher", "operator")
PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

AUTHORITY_DAYS = 3650
VALID_DAYS = 365
SKEW = timedelta(minutes=10)
"""A certificate holds from a little before it was made: two hospitals' clocks differ."""
_MOST_DAYS = 36_500
_NAME = re.compile(SLUG.strip("^$"))
_URI = re.compile(rf"unisono:({'|'.join(ROLES)})/({SLUG.strip('^$')})")
_DNS = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What `cryptography` says of bytes that are no certificate, key or request."""


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as their certificate says. fingerprint: SHA-256 of the DER, hexadecimal; serial: 32
    hexadecimal digits; invites: for an ``invited`` peer, the role that it may join in."""

    role: Role
    name: str
    fingerprint: str
    serial: str
    not_after: datetime
    not_before: datetime
    invites: Role | None = None


@dataclass(frozen=True)
class Credentials:
    """What one end of a connection needs, as PEM: its private key, its certificate (first of the chain), and whom it trusts."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    ca_pem: bytes

    def checked(self) -> Credentials:
        """These, if key and certificate belong together and the authority made the certificate. `NetworkError` otherwise."""
        certificate = certificate_of(self.chain_pem)
        if spki(private_key_of(self.key_pem).public_key()) != spki(certificate.public_key()):
            raise _refused(
                "The private key does not belong to the certificate.",
                "key-mismatch",
                "Put back the key that was made with this certificate, or join again with a new token.",
            )
        verify_issued(certificate, certificate_of(self.ca_pem))
        return self

    def save(self, folder: Path) -> None:
        """Write ``tls.key`` (mode 0600), ``tls.pem`` and ``ca.pem``. `StorageError` if that cannot be done."""
        write_whole(folder / "tls.key", self.key_pem, "private key", mode=0o600)
        write_whole(folder / "ca.pem", self.ca_pem, "authority's certificate")
        write_whole(folder / "tls.pem", self.chain_pem, "certificate")

    @classmethod
    def load(cls, folder: Path) -> Credentials:
        """What `save` wrote, checked. `StorageError` if a file is missing, `NetworkError` if they do not belong together."""
        read = [_read(folder / name) for name in ("tls.key", "tls.pem", "ca.pem")]
        return cls(*read).checked()


class Authority:
    """The federation's certificate authority. With its key (`can_issue`) it makes certificates; with ``ca.pem`` alone it
    verifies them, so that the key can be kept on another machine than the running coordinator's."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey | None = None) -> None:
        self.certificate = certificate
        self._key = key
        self.ca_pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = fingerprint(certificate)

    @classmethod
    def create(cls, folder: Path, name: str, *, now: datetime, days: float = AUTHORITY_DAYS) -> Authority:
        """A new authority: ``ca.key`` (mode 0600) and ``ca.pem`` in `folder`. `NetworkError` if there is one already (a new
        one would shut every member out), or if the name is not a name."""
        for path in (folder / "ca.key", folder / "ca.pem"):
            if path.exists():
                raise _refused(
                    f"There is a certificate authority in {folder} already.",
                    "one-authority",
                    f"Use it, or name another folder. Remove {path.name} only if nobody has joined yet.",
                )
        key = make_key()
        certificate = _authority_certificate(key, _name(name), now, _valid(days))
        write_whole(folder / "ca.key", private_pem(key), "authority's key", mode=0o600)
        write_whole(folder / "ca.pem", pem(certificate), "authority's certificate")
        return cls(certificate, key)

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The authority in a folder, able to issue if ``ca.key`` is there. `StorageError` without ``ca.pem``,
        `NetworkError` if the two do not belong together."""
        certificate = certificate_of(_read(folder / "ca.pem"))
        with storage(folder / "ca.key", "authority's key"):
            apart = not (folder / "ca.key").exists()
        key = None if apart else private_key_of(_read(folder / "ca.key"))
        if key is not None and spki(key.public_key()) != spki(certificate.public_key()):
            raise _refused(
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
        """`NetworkError` unless this authority made the certificate. Its time and its revocation: `check`."""
        verify_issued(certificate, self.certificate)

    def issue(
        self,
        request: x509.CertificateSigningRequest | PublicKey,
        role: Role,
        name: str,
        *,
        now: datetime,
        days: float = VALID_DAYS,
        hosts: Sequence[str] = (),
        invites: Role | None = None,
    ) -> x509.Certificate:
        """A certificate for a public key, never longer than the authority's own.

        hosts: names and addresses at which a coordinator is reached, at least one; for nobody else. invites: for role
        ``invited``, the role to join in. `NetworkError` if the key is apart or not P-256, the request is not signed by its
        own key or says another role or name, or the role, name, hosts or days are impossible.
        """
        if isinstance(request, x509.CertificateSigningRequest):
            key = verify_request(request, role, name)
        else:
            key = _p256(request)
        if (role == "coordinator") != bool(hosts) or (role == "invited") != (invites in MEMBER_ROLES):
            raise _refused(
                f"A certificate for a {role} cannot be made like this.",
                "certificate-request",
                "A coordinator needs the host names at which sites reach it, and nobody else; an invitation says its role.",
            )
        return self._signed(key, role, _name(name), now, days, [_host(host) for host in hosts], invites)

    def renewed(
        self,
        certificate: x509.Certificate,
        *,
        now: datetime,
        days: float = VALID_DAYS,
        revoked: Collection[str] = (),
    ) -> x509.Certificate:
        """A later certificate for the same public key, role, name and hosts. `NetworkError` if the old one is not this
        authority's, has expired, was revoked, or was only an invitation."""
        self.verify(certificate)
        peer = peer_of(pem(certificate))
        check(peer, now, revoked, MEMBER_ROLES)
        hosts = [
            general for general in _alternatives(certificate) if isinstance(general, x509.DNSName | x509.IPAddress)
        ]
        return self._signed(_p256(certificate.public_key()), peer.role, peer.name, now, days, hosts, None)

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
            raise _refused(
                "The authority's key is not on this machine, so no certificate can be made here.",
                "authority-apart",
                "Carry the request to the machine that holds ca.key, and the certificate back.",
            )
        until = min(now + _valid(days), self.certificate.not_valid_after_utc)
        if until <= now:
            raise _refused(
                f"The certificate authority expired on {until:%Y-%m-%d}.",
                "authority-expired",
                "Make a new authority; every member must then join again.",
            )
        eku = [ExtendedKeyUsageOID.CLIENT_AUTH] + [ExtendedKeyUsageOID.SERVER_AUTH] * (role == "coordinator")
        ours = cast(PublicKey, self.certificate.public_key())
        return (
            _begun(key, _subject(name, invites), self.certificate.subject, now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(eku), critical=False)
            .add_extension(x509.SubjectAlternativeName([_claim(role, name), *hosts]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def make_key() -> PrivateKey:
    """A new P-256 private key. It stays where it was made."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: PrivateKey) -> bytes:
    """PKCS #8, not encrypted: for a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_key_of(key_pem: bytes) -> PrivateKey:
    """The P-256 key in a PEM text. `NetworkError` if it is none."""
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except _UNREADABLE as error:
        raise _unreadable("private key") from error
    _p256(key.public_key())
    return cast(PrivateKey, key)


def csr(key: PrivateKey, role: Role, name: str) -> x509.CertificateSigningRequest:
    """A request for a certificate (PKCS #10), signed by the key that it is for. `NetworkError` if the name is none."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(_name(name), None))
        .add_extension(x509.SubjectAlternativeName([_claim(role, name)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def csr_of(csr_pem: bytes) -> x509.CertificateSigningRequest:
    """The request in a PEM text. `NetworkError` if it is none."""
    try:
        return x509.load_pem_x509_csr(csr_pem)
    except (*_UNREADABLE, x509.InvalidVersion) as error:
        raise _unreadable("certificate request") from error


def verify_request(request: x509.CertificateSigningRequest, role: Role, name: str) -> PublicKey:
    """The P-256 key of a request that its own key signed and that asks for this role and name. `NetworkError` otherwise."""
    try:
        signed, key = request.is_signature_valid, request.public_key()
    except (*_UNREADABLE, InvalidSignature) as error:
        raise _unreadable("certificate request") from error
    if not signed or _claimed(request) != (role, name):
        raise _refused(
            f"The certificate request is not signed by its own key, or is not for the {role} {name!r}.",
            "certificate-request",
            "Make the request again, with the role and name of the invitation.",
        )
    return _p256(key)


def pem(certificate: x509.Certificate) -> bytes:
    """The certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_of(certificate_pem: bytes) -> x509.Certificate:
    """The first certificate in a PEM text. `NetworkError` if there is none."""
    try:
        return x509.load_pem_x509_certificate(certificate_pem)
    except (*_UNREADABLE, x509.InvalidVersion) as error:
        raise _unreadable("certificate") from error


def peer_of(certificate_pem: bytes) -> Peer:
    """Who a certificate says its holder is. TLS must have proved that it is theirs and made by the authority (gRPC's
    ``x509_pem_cert`` is such a one); time, role and revocation: `check`. `NetworkError` if it names nobody."""
    certificate = certificate_of(certificate_pem)
    role, name = _claimed(certificate)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    invites = str(units[0].value) if units and role == "invited" else None
    if role == "invited" and invites not in MEMBER_ROLES:
        raise _unreadable("certificate")
    return Peer(
        role=role,
        name=name,
        fingerprint=fingerprint(certificate),
        serial=f"{certificate.serial_number:032x}",
        not_after=certificate.not_valid_after_utc,
        not_before=certificate.not_valid_before_utc,
        invites=cast(Role | None, invites),
    )


def check(peer: Peer, now: datetime, revoked: Collection[str] = (), roles: Collection[Role] = ROLES) -> None:
    """`NetworkError` if the peer's certificate is revoked (by fingerprint), not valid at `now`, or of a role that may not do
    this."""
    who = f"The certificate of the {peer.role} {peer.name!r}"
    if peer.fingerprint in revoked:
        raise _refused(
            f"{who} was revoked.", "certificate-revoked", "Ask the coordinator's operator for a new invitation."
        )
    if now < peer.not_before:
        raise _refused(
            f"{who} is valid only from {peer.not_before:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here.",
            "certificate-not-yet-valid",
            "One of the two clocks is wrong: set both by a time server (NTP).",
        )
    if now >= peer.not_after:
        raise _refused(
            f"{who} expired on {peer.not_after:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here.",
            "certificate-expired",
            "If the clock is right, ask the coordinator's operator for a new invitation and join again.",
        )
    if peer.role not in roles:
        raise _refused(
            f"{who} does not allow this: it is for {' or '.join(roles)}.",
            "certificate-role",
            "Use the certificate of the right role; an invitation is good for joining only.",
        )


def verify_issued(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """`NetworkError` unless the authority signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*_UNREADABLE, InvalidSignature) as error:
        raise _refused(
            "The certificate was not made by this federation's authority.",
            "certificate-authority",
            "Compare the authority's fingerprint with the one on the invitation; it may be another federation's.",
        ) from error


def expires_soon(certificate: x509.Certificate, now: datetime) -> bool:
    """True in the last third of a certificate's life: time to renew it."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_after_utc - life / 3


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def grouped(hexadecimal: str) -> str:
    """A fingerprint in groups of four, to be read aloud over the telephone."""
    return " ".join(hexadecimal[k : k + 4] for k in range(0, len(hexadecimal), 4))


def ungrouped(text: str) -> str:
    """A fingerprint as it was typed or pasted, without spaces, colons, hyphens and capitals."""
    return re.sub(r"[\s:-]", "", text).lower()


def spki(key: Any) -> bytes:
    """A public key's DER (SubjectPublicKeyInfo): what two certificates for one key share."""
    der: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der


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
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_certificate(key: PrivateKey, name: str, now: datetime, valid: timedelta) -> x509.Certificate:
    subject = _subject(name, None)
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


def _subject(name: str, invites: Role | None) -> x509.Name:
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, invites)] if invites else []
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _claim(role: Role, name: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(f"unisono:{role}/{name}")


def _alternatives(signed: x509.Certificate | x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        return list(signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (*_UNREADABLE, x509.ExtensionNotFound) as error:
        raise _unreadable("certificate") from error


def _claimed(signed: x509.Certificate | x509.CertificateSigningRequest) -> tuple[Role, str]:
    """The one role and name in the SAN. `NetworkError` on none, or more."""
    uris = [general.value for general in _alternatives(signed) if isinstance(general, x509.UniformResourceIdentifier)]
    said = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if said is None:
        raise _unreadable("certificate")
    return cast(Role, said[1]), said[2]


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise _refused(
            f"{name[:64]!r} cannot be a name here.",
            "names",
            "Use lower-case letters, digits, '.', '_' and '-', a letter or digit first, at most 63.",
        )
    return name


def _valid(days: float) -> timedelta:
    if not 0 < days <= _MOST_DAYS:
        raise _refused(
            f"A certificate cannot be valid for {days:g} days.", "certificate-days", f"Say 1 to {_MOST_DAYS}."
        )
    return timedelta(days=days)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _DNS.fullmatch(host):
            return x509.DNSName(host)
    raise _refused(
        f"{host[:80]!r} is neither a host name nor an IP address.",
        "host-names",
        "Give the names and addresses at which sites reach the coordinator, without a port.",
    )


def _p256(key: Any) -> PublicKey:
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused(
            "The key is not an ECDSA key on the curve P-256.", "key-kind", "Let Unisono make it: unisono site join."
        )
    return key


def _read(path: Path) -> bytes:
    with storage(path, "file"):
        return path.read_bytes()


def _unreadable(what: str) -> NetworkError:
    return _refused(
        f"This is no {what} of a Unisono federation.",
        "certificate-form",
        "Restore the file from its back-up, or join again with a new token.",
    )


def _refused(what: str, rule: str, remedy: str) -> NetworkError:
    return NetworkError(what, rule=rule, remedy=remedy)
