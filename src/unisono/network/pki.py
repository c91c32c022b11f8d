"""Who is who on the wire: keys and certificates (X.509 v3, RFC 5280; ECDSA P-256), and what is checked of them.

A certificate says one thing, in a SAN URI: ``unisono:<role>/<name>``. It opens the port; it does not make a site count. What
counts in a sum is a site's Ed25519 identity in the roster that its peers' permits pin (design/secure-aggregation.md, rule 3).
No clock is read here: `now` is an aware datetime that the caller passes in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from unisono.errors import NetworkError
from unisono.federation.storage import storage, write_whole
from unisono.study.document import SLUG

Role = Literal["coordinator", "site", "researcher", "operator", "invited"]
"""``invited`` is a token's bootstrap certificate: it may join, and nothing else."""
ROLES: tuple[Role, ...] = get_args(Role)
MEMBER_ROLES: tuple[Role, ...] = ("coordinator", "site", "researcher", "operator")
PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

VALID_DAYS = 365
SKEW = timedelta(minutes=10)
"""A certificate holds from a little before it was made: two hospitals' clocks differ."""
_NAME = re.compile(SLUG.strip("^$"))
_URI = re.compile(rf"unisono:({'|'.join(ROLES)})/({SLUG.strip('^$')})")
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
            raise refused(
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
        read = [read_file(folder / name) for name in ("tls.key", "tls.pem", "ca.pem")]
        return cls(*read).checked()


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
    p256(key.public_key())
    return cast(PrivateKey, key)


def csr(key: PrivateKey, role: Role, name: str) -> x509.CertificateSigningRequest:
    """A request for a certificate (PKCS #10), signed by the key that it is for. `NetworkError` if the name is none."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject(as_name(name), None))
        .add_extension(x509.SubjectAlternativeName([claim(role, name)]), critical=False)
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
        raise refused(
            f"The certificate request is not signed by its own key, or is not for the {role} {name!r}.",
            "certificate-request",
            "Make the request again, with the role and name of the invitation.",
        )
    return p256(key)


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
        raise refused(
            f"{who} was revoked.", "certificate-revoked", "Ask the coordinator's operator for a new invitation."
        )
    if now < peer.not_before:
        raise refused(
            f"{who} is valid only from {peer.not_before:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here.",
            "certificate-not-yet-valid",
            "One of the two clocks is wrong: set both by a time server (NTP).",
        )
    if now >= peer.not_after:
        raise refused(
            f"{who} expired on {peer.not_after:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here.",
            "certificate-expired",
            "If the clock is right, ask the coordinator's operator for a new invitation and join again.",
        )
    if peer.role not in roles:
        raise refused(
            f"{who} does not allow this: it is for {' or '.join(roles)}.",
            "certificate-role",
            "Use the certificate of the right role; an invitation is good for joining only.",
        )


def verify_issued(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """`NetworkError` unless the authority signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*_UNREADABLE, InvalidSignature) as error:
        raise refused(
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


def key_mark(key: Any) -> str:
    """SHA-256 of a public key, hexadecimal: the same in every certificate for it."""
    return hashlib.sha256(spki(key)).hexdigest()


def subject(name: str, invites: Role | None) -> x509.Name:
    """The subject of a certificate or request: the name, and the role that an invitation is for."""
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, invites)] if invites else []
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def claim(role: Role, name: str) -> x509.GeneralName:
    """The SAN URI: what a certificate says."""
    return x509.UniformResourceIdentifier(f"unisono:{role}/{name}")


def alternatives(signed: x509.Certificate | x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """Everything in the SAN. `NetworkError` if there is none."""
    try:
        return list(signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (*_UNREADABLE, x509.ExtensionNotFound) as error:
        raise _unreadable("certificate") from error


def _claimed(signed: x509.Certificate | x509.CertificateSigningRequest) -> tuple[Role, str]:
    """The one role and name in the SAN. `NetworkError` on none, or more."""
    uris = [general.value for general in alternatives(signed) if isinstance(general, x509.UniformResourceIdentifier)]
    said = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if said is None:
        raise _unreadable("certificate")
    return cast(Role, said[1]), said[2]


def as_name(name: str) -> str:
    """The name, if it is one. `NetworkError` otherwise."""
    if not _NAME.fullmatch(name):
        raise refused(
            f"{name[:64]!r} cannot be a name here.",
            "names",
            "Use lower-case letters, digits, '.', '_' and '-', a letter or digit first, at most 63.",
        )
    return name


def p256(key: Any) -> PublicKey:
    """The key, if it is one of ours. `NetworkError` otherwise."""
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise refused(
            "The key is not an ECDSA key on the curve P-256.", "key-kind", "Let Unisono make it: unisono site join."
        )
    return key


def read_file(path: Path) -> bytes:
    """What a file holds. `StorageError` if it cannot be read."""
    with storage(path, "file"):
        return path.read_bytes()


def _unreadable(what: str) -> NetworkError:
    return refused(
        f"This is no {what} of a Unisono federation.",
        "certificate-form",
        "Restore the file from its back-up, or join again with a new token.",
    )


def refused(what: str, rule: str, remedy: str) -> NetworkError:
    """What happened, which rule, what to do."""
    return NetworkError(what, rule=rule, remedy=remedy)
