"""The token: an invitation as it is handed over, one line of text that is good for once."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from unisono.errors import EnrolmentError, NetworkError
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.enrolment.refusals import NEW_TOKEN, expired, refused
from unisono.network.pki import Credentials, Peer, Role

JOINING: tuple[Role, ...] = ("site", "researcher", "operator")
"""Roles that a token may invite for."""
INVITATION_DAYS = 7
VERSION = 1
_PREFIX = f"unisono{VERSION}."
_CHECKSUM_BYTES = 16
_KEY_BYTES = 32
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([1-9][0-9]{0,4})")


@dataclass(frozen=True)
class Token:
    """An invitation, as it is handed over: secret until it is used. It has the bootstrap certificate and key of role
    ``invited``, so that joining runs over the same mutual-TLS port as everything else; the certificate's serial number is
    the token's id, and it says the name, the role to join in, and until when."""

    address: str
    ca: bytes = field(repr=False)
    """The authority's certificate, DER: whom the institution will trust."""
    certificate: bytes = field(repr=False)
    """The bootstrap certificate, DER."""
    key: bytes = field(repr=False)
    """The bootstrap key, P-256, 32 bytes: secret."""

    @classmethod
    def make(
        cls, authority: Authority, address: str, role: Role, name: str, *, now: datetime, days: float = INVITATION_DAYS
    ) -> Token:
        """A token, where the authority's key is. The coordinator must be told of it: `Invitations.add`.
        `EnrolmentError` for an address without a port or a role that cannot be invited; `NetworkError` as `Authority.issue`."""
        host_port = _ADDRESS.fullmatch(address)
        if host_port is None or int(host_port[3]) > 65535 or role not in JOINING:
            raise refused(
                f"A token cannot invite a {role} to {address[:80]!r}.",
                "invitation",
                f"Roles are {', '.join(JOINING)}; the address is the coordinator's as the institution reaches it: host:port.",
            )
        key = pki.make_key()
        certificate = authority.issue(key.public_key(), "invited", name, now=now, days=days, invites=role)
        return cls(
            address=address,
            ca=authority.certificate.public_bytes(Encoding.DER),
            certificate=certificate.public_bytes(Encoding.DER),
            key=key.private_numbers().private_value.to_bytes(_KEY_BYTES, "big"),
        )

    def encode(self) -> str:
        """One line of text. Secret: whoever has it can join in the institution's place until it is used."""
        parts = (self.address.encode("ascii"), self.ca, self.certificate, self.key)
        body = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
        body = len(body).to_bytes(4, "big") + body
        packed = base64.urlsafe_b64encode(body + _checksum(body))
        return _PREFIX + packed.decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, text: str, now: datetime) -> Token:
        """The token in a text; line breaks that a mail program put in do not matter. `EnrolmentError` if it is of another
        version, cut short, mistyped or expired (or not valid yet, by this machine's clock)."""
        text = "".join(text.split())
        if not text.startswith(_PREFIX):
            raise _not_ours(text)
        parts = _parts(_unpacked(text.removeprefix(_PREFIX)))
        try:
            token = cls(parts[0].decode("ascii"), *parts[1:])
            token.credentials().checked()
            peer = token.peer
            if not _ADDRESS.fullmatch(token.address) or peer.invites not in JOINING:
                raise ValueError("not an invitation")
        except (ValueError, TypeError, IndexError, NetworkError) as error:
            raise refused("What the token holds is no invitation.", "token-form", NEW_TOKEN) from error
        if now >= peer.not_after:
            raise expired(peer.not_after)
        if now < peer.not_before:
            raise refused(
                f"The token is valid only from {peer.not_before:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here.",
                "token-not-yet-valid",
                "The clock of this machine, or the coordinator's, is wrong: set both by a time server (NTP).",
            )
        return token

    @property
    def peer(self) -> Peer:
        """What the bootstrap certificate says."""
        return pki.peer_of(self.certificate_pem)

    @property
    def certificate_pem(self) -> bytes:
        """The bootstrap certificate: no secret; what the coordinator must know of the token."""
        return pki.pem(x509.load_der_x509_certificate(self.certificate))

    @property
    def ca_fingerprint(self) -> str:
        """SHA-256 of the authority's certificate: compare it with the operator's before joining."""
        return hashlib.sha256(self.ca).hexdigest()

    def bootstrap_key(self) -> pki.PrivateKey:
        """The key of the bootstrap certificate."""
        return ec.derive_private_key(int.from_bytes(self.key, "big"), ec.SECP256R1())

    def credentials(self) -> Credentials:
        """To dial the coordinator with, for joining only."""
        ca_pem = pki.pem(x509.load_der_x509_certificate(self.ca))
        return Credentials(pki.private_pem(self.bootstrap_key()), self.certificate_pem, ca_pem)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"unisono token\n" + body).digest()[:_CHECKSUM_BYTES]


def _unpacked(packed: str) -> bytes:
    """The body of a token's text, checked letter by letter."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", packed):
        raise _mistyped()
    if len(packed) % 4 == 1:
        raise _truncated()
    raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
    size = 4 + int.from_bytes(raw[:4], "big")
    if len(raw) < 4 or len(raw) < size + _CHECKSUM_BYTES:
        raise _truncated()
    body, checksum = raw[:size], raw[size:]
    # The last letter has bits that no byte holds: only the one spelling that `encode` writes is right.
    canonical = base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=") == packed
    if checksum != _checksum(body) or not canonical:
        raise _mistyped()
    return body[4:]


def _parts(body: bytes) -> list[bytes]:
    parts: list[bytes] = []
    while body:
        size = int.from_bytes(body[:2], "big")
        parts.append(body[2 : 2 + size])
        body = body[2 + size :]
    return parts


def _not_ours(text: str) -> EnrolmentError:
    other = re.match(r"unisono([0-9]{1,4})\.", text)
    if other is None and not _PREFIX.startswith(text[: len(_PREFIX)]):
        return refused("This is no Unisono token.", "token-form", f"A token begins with {_PREFIX!r}. Paste all of it.")
    if other is None:
        return _truncated()
    return refused(
        f"The token is of version {other[1]}; this Unisono reads version {VERSION}.",
        "token-version",
        "Install the version of Unisono that the coordinator runs, or ask for a token of this one.",
    )


def _truncated() -> EnrolmentError:
    return refused("The token is cut short.", "token-truncated", "Paste all of it, to the last letter.")


def _mistyped() -> EnrolmentError:
    return refused("A letter of the token is wrong.", "token-mistyped", "Copy and paste it, rather than typing it.")
