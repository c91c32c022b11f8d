"""How an institution joins a federation: a one-time token, a request with keys made at home, and the list of members.

The operator invites (`Invitations.invite`) and hands the token over. At the institution `JoinRequest.make` proves three keys
over one statement: the token's bootstrap key, the new TLS key, and the Ed25519 identity. At the coordinator `accept` uses the
token up and writes the member down; with the authority's key apart, the request waits, goes to the key as a file and the
certificate comes back as one. No private key but the token's own ever travels. (design/secure-aggregation.md, rule 3.)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from unisono.errors import EnrolmentError, NetworkError, UnisonoError
from unisono.federation.storage import begun, storage, write_whole
from unisono.network import pki
from unisono.network.pki import Authority, Credentials, Peer, Role
from unisono.protection.secagg.roster import Identity, Roster

JOINING: tuple[Role, ...] = ("site", "researcher", "operator")
"""Roles that a token may invite for."""
_INVITED: tuple[Role, ...] = ("invited",)
INVITATION_DAYS = 7
VERSION = 1
_PREFIX = f"unisono{VERSION}."
_CHECKSUM_BYTES = 16
_KEY_BYTES = 32
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([1-9][0-9]{0,4})")
_PATIENCE_S = 10.0
_NEW_TOKEN = "Ask the coordinator's operator for a new token."  # noqa: S105  (a sentence, not a secret)


# ---------------------------------------------------------------- the token


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
            raise _refused(
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
            raise _refused("What the token holds is no invitation.", "token-form", _NEW_TOKEN) from error
        if now >= peer.not_after:
            raise _expired(peer.not_after)
        if now < peer.not_before:
            raise _refused(
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


# ---------------------------------------------------------------- at the institution: the request, and the answer


class _Message(BaseModel):
    """What travels, as JSON: frozen, nothing unknown, bounded; what was sent is never repeated in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    def encode(self) -> bytes:
        """As JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def read(cls, content: bytes) -> Self:
        """What `encode` wrote. `EnrolmentError` on anything else."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise _refused(
                "A message of joining cannot be read.",
                "join-message",
                "Both ends must run the same version of Unisono; if a file was carried, carry it again.",
            ) from error


Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pem = Annotated[str, Field(max_length=4096)]


class JoinRequest(_Message):
    """What an institution sends to join: public keys, and signatures by all three private ones. Nothing in it is secret."""

    token: Hex16
    csr: Pem
    identity: Hex32
    """The Ed25519 public key, hexadecimal: what the roster will list and permits pin."""
    identity_signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    bootstrap: Pem
    """The token's certificate, so that the request can be judged where the coordinator's memory is not."""
    bootstrap_signature: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,72}$")]

    @classmethod
    def make(cls, token: Token, tls_key: pki.PrivateKey, identity: Identity) -> JoinRequest:
        """The request of whoever holds the token. Made again with the same keys, it is the same request to the coordinator."""
        peer = token.peer
        request = pki.csr(tls_key, cast(Role, peer.invites), peer.name)
        said = _statement(token.ca_fingerprint, peer.serial, request, identity.public)
        return cls(
            token=peer.serial,
            csr=request.public_bytes(Encoding.PEM).decode("ascii"),
            identity=identity.public.hex(),
            identity_signature=identity.sign(said).hex(),
            bootstrap=token.certificate_pem.decode("ascii"),
            bootstrap_signature=token.bootstrap_key().sign(said, ec.ECDSA(hashes.SHA256())).hex(),
        )

    def verify(self, authority: Authority) -> Peer:
        """Who the authority invited, if the token's, the TLS and the identity key all signed this request. `EnrolmentError` or
        `NetworkError` otherwise. Not checked: the time, and whether the token was used."""
        bootstrap = pki.certificate_of(self.bootstrap.encode())
        authority.verify(bootstrap)
        peer = pki.peer_of(self.bootstrap.encode())
        if peer.role != "invited" or peer.invites not in JOINING or peer.serial != self.token:
            raise _refused("The request was not made with the token that it names.", "token-mismatch", _NEW_TOKEN)
        request = self.certificate_request()
        key = pki.verify_request(request, peer.invites, peer.name)
        bootstrap_key = cast(pki.PublicKey, bootstrap.public_key())
        if pki.spki(key) == pki.spki(bootstrap_key):
            raise _refused(
                "The request is for the token's own key, which was not made at the institution.",
                "own-key",
                "Let Unisono make a key there: unisono site join.",
            )
        said = _statement(authority.fingerprint, self.token, request, bytes.fromhex(self.identity))
        try:
            bootstrap_key.verify(bytes.fromhex(self.bootstrap_signature), said, ec.ECDSA(hashes.SHA256()))
            identity = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.identity))
            identity.verify(bytes.fromhex(self.identity_signature), said)
        except (InvalidSignature, ValueError) as error:
            raise _refused(
                f"The request to join as {peer.name!r} is not signed by the token's key and by its own identity.",
                "join-signature",
                "Someone changed it on its way, or a key was exchanged: join again, and compare the fingerprints.",
            ) from error
        return peer

    def certificate_request(self) -> x509.CertificateSigningRequest:
        """The CSR. `NetworkError` if it is none."""
        return pki.csr_of(self.csr.encode())

    @property
    def holder(self) -> str:
        """A digest of the keys that ask: the same for a request that is made and sent again."""
        key = pki.spki(self.certificate_request().public_key())
        return hashlib.sha256(key + bytes.fromhex(self.identity)).hexdigest()


class Joined(_Message):
    """The coordinator's answer: the certificate for the institution's own key, and the authority's."""

    role: Literal["site", "researcher", "operator"]
    name: str
    identity: Hex32
    certificate: Pem
    ca: Pem

    def credentials(self, token: Token, tls_key: pki.PrivateKey) -> Credentials:
        """At the institution: what to keep and to dial with from now on. `EnrolmentError` unless it is what was asked for:
        the token's authority, role and name, and the institution's own key."""
        credentials = Credentials(pki.private_pem(tls_key), self.certificate.encode(), self.ca.encode()).checked()
        ours = pki.certificate_of(credentials.ca_pem).public_bytes(Encoding.DER) == token.ca
        peer, invited = pki.peer_of(credentials.chain_pem), token.peer
        if not ours or (peer.role, peer.name) != (invited.invites, invited.name):
            raise _refused(
                "The coordinator answered with another authority, role or name than the token's.",
                "join-answer",
                "Do not go on: compare the authority's fingerprint with the operator by telephone.",
            )
        return credentials


def _statement(ca_fingerprint: str, token: str, request: x509.CertificateSigningRequest, identity: bytes) -> bytes:
    """What the token's key and the identity sign: bound to one federation, one token, one TLS key and one identity."""
    csr = hashlib.sha256(request.public_bytes(Encoding.DER)).hexdigest()
    return json.dumps(["unisono join 1", ca_fingerprint, token, csr, identity.hex()]).encode()


# ---------------------------------------------------------------- at the coordinator: what it remembers


class _Store:
    """One SQLite file, on disk when a change returns. Safe to use from several threads and processes."""

    WHAT = "store"
    SCHEMA: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. `StorageError` or `JournalError` if it cannot be, or if what it held is gone: a
        coordinator that forgot who joined, or which tokens were used, would let in whoever comes."""
        self.path = path
        self._lock = threading.RLock()
        with storage(path, self.WHAT):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_S, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        with storage(self.path, self.WHAT):
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        with self._change() as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                begun(self.path, "enrolment", self.WHAT, empty=True)
                for table in self.SCHEMA:
                    db.execute(table)
                db.execute(f"PRAGMA user_version={VERSION}")
        with self._change():  # one process at a time
            begun(self.path, "enrolment", self.WHAT, empty=False)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing, alone."""
        with self._lock, storage(self.path, self.WHAT):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock, storage(self.path, self.WHAT):
            return self._db.execute(query, values).fetchall()


@dataclass(frozen=True)
class Invitation:
    """What the coordinator knows of a token: no secret."""

    id: str
    role: Role
    name: str
    expires: datetime
    redeemed: datetime | None
    cancelled: datetime | None


class Invitations(_Store):
    """The tokens of a federation: each is used once, before it expires, or cancelled."""

    WHAT = "list of invitations"
    SCHEMA = (
        "CREATE TABLE invitations (id TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, expires REAL NOT NULL,"
        " redeemed REAL, cancelled REAL, holder TEXT, request TEXT, certificate TEXT)",
    )

    def invite(
        self, authority: Authority, address: str, role: Role, name: str, *, now: datetime, days: float = INVITATION_DAYS
    ) -> Token:
        """A new token, made and remembered; errors as `Token.make`. Its text is not kept: show it once."""
        token = Token.make(authority, address, role, name, now=now, days=days)
        self.add(token.certificate_pem, authority)
        return token

    def add(self, certificate_pem: bytes, authority: Authority) -> Invitation:
        """Remember a token that was made where the authority's key is, by its certificate (no secret)."""
        authority.verify(pki.certificate_of(certificate_pem))
        peer = pki.peer_of(certificate_pem)
        if peer.role != "invited" or peer.invites not in JOINING:
            raise _refused("This certificate is no invitation.", "token-form", "Give the certificate of a token.")
        with self._change() as db:
            db.execute(
                "INSERT OR IGNORE INTO invitations (id, role, name, expires) VALUES (?,?,?,?)",
                (peer.serial, peer.invites, peer.name, peer.not_after.timestamp()),
            )
        return self.find(peer.serial)

    def find(self, id: str) -> Invitation:
        """One invitation. `EnrolmentError` if it is unknown."""
        rows = self._rows("SELECT id, role, name, expires, redeemed, cancelled FROM invitations WHERE id = ?", id)
        if not rows:
            raise _refused("The coordinator does not know this token.", "token-unknown", _NEW_TOKEN)
        return _invitation(rows[0])

    def open_invitations(self, now: datetime) -> tuple[Invitation, ...]:
        """Those that can still be used, the first to expire first."""
        rows = self._rows(
            "SELECT id, role, name, expires, redeemed, cancelled FROM invitations"
            " WHERE redeemed IS NULL AND cancelled IS NULL AND expires > ? ORDER BY expires, id",
            now.timestamp(),
        )
        return tuple(_invitation(row) for row in rows)

    def redeem(self, id: str, now: datetime) -> Invitation:
        """Use a token up: for one caller ever, however many try. `EnrolmentError`, rule ``token-used``, ``token-expired``,
        ``token-cancelled`` or ``token-unknown``."""
        with self._change() as db:
            self._use(db, id, now)
        return self.find(id)

    def redeem_for(self, request: JoinRequest, certificate: bytes | None, now: datetime) -> bytes | None:
        """Use a token up for a request; certificate: the answer, or None while the authority's key is apart. The very same
        keys asking again (an answer was lost on its way) are given the same answer; everyone else is refused as in `redeem`."""
        pem = None if certificate is None else certificate.decode("ascii")
        holder = request.holder
        with self._change() as db:
            row = db.execute("SELECT holder, certificate FROM invitations WHERE id = ?", (request.token,)).fetchone()
            if row is None or row[0] != holder:
                self._use(db, request.token, now)
            elif row[1] is not None:
                return str(row[1]).encode()
            db.execute(
                "UPDATE invitations SET holder = ?, request = ?, certificate = ? WHERE id = ?",
                (holder, request.encode().decode(), pem, request.token),
            )
        return certificate

    def cancel(self, id: str, now: datetime) -> None:
        """A token that is not to be used any more. `EnrolmentError` if it was used already, or is unknown."""
        with self._change() as db:
            changed = db.execute(
                "UPDATE invitations SET cancelled = ? WHERE id = ? AND redeemed IS NULL", (now.timestamp(), id)
            ).rowcount
        if not changed and self.find(id).redeemed:
            raise _refused(
                "The token was used already, so it cannot be cancelled.",
                "token-used",
                "If the wrong party joined with it, revoke that member.",
            )

    def waiting(self, now: datetime | None = None) -> tuple[JoinRequest, ...]:
        """Requests whose certificates are still to be made where the authority's key is; with `now`, only those whose tokens
        have not expired while they waited."""
        rows = self._rows(
            "SELECT request FROM invitations WHERE request IS NOT NULL AND certificate IS NULL AND expires > ? ORDER BY id",
            0.0 if now is None else now.timestamp(),
        )
        return tuple(JoinRequest.read(row[0].encode()) for row in rows)

    def _use(self, db: sqlite3.Connection, id: str, now: datetime) -> None:
        changed = db.execute(
            "UPDATE invitations SET redeemed = ? WHERE id = ?"
            " AND redeemed IS NULL AND cancelled IS NULL AND expires > ?",
            (now.timestamp(), id, now.timestamp()),
        ).rowcount
        if changed == 1:
            return
        known = self.find(id)
        if known.redeemed is not None:
            raise _refused(
                f"The token for {known.name!r} was used on {known.redeemed:%Y-%m-%d %H:%M} UTC; each is good for once.",
                "token-used",
                f"{_NEW_TOKEN} If it was not you who used it, tell them: that member must be revoked.",
            )
        if known.cancelled is not None:
            raise _refused(f"The token for {known.name!r} was cancelled.", "token-cancelled", _NEW_TOKEN)
        raise _expired(known.expires)


@dataclass(frozen=True)
class Member:
    """One institution or person. identity: Ed25519 public key (32 bytes); fingerprints: of the certificates that still count; certified: when the
    newest of them was made known here."""

    name: str
    role: Role
    identity: bytes
    joined: datetime
    revoked: datetime | None
    fingerprints: tuple[str, ...]
    certified: datetime | None = None


class Members(_Store):
    """Who joined: a name, a role, and the identity that the name is pinned to until it is removed."""

    WHAT = "list of members"
    SCHEMA = (
        "CREATE TABLE members (name TEXT PRIMARY KEY, role TEXT NOT NULL, identity BLOB NOT NULL UNIQUE,"
        " joined REAL NOT NULL, revoked REAL)",
        "CREATE TABLE certificates (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL, key TEXT NOT NULL,"
        " added REAL NOT NULL, revoked REAL)",
    )

    def add(self, role: Role, name: str, identity: bytes, certificate: x509.Certificate, now: datetime) -> Member:
        """A new member, or another certificate of one. `EnrolmentError`, rule ``identity-pinned`` if the name has another
        identity or the identity another name, ``member-revoked``, or ``certificate-revoked``."""
        peer = pki.peer_of(pki.pem(certificate))
        if (peer.role, peer.name) != (role, name) or role == "invited" or len(identity) != _KEY_BYTES:
            raise _refused(
                f"The certificate and the identity are not those of a {role} {name!r}.", "join-request", _NEW_TOKEN
            )
        with self._change() as db:
            self.may_join(role, name, identity)
            db.execute(
                "INSERT OR IGNORE INTO members (name, role, identity, joined) VALUES (?,?,?,?)",
                (name, role, identity, now.timestamp()),
            )
            self._certify(db, certificate, name, now)
        return self.find(name)

    def may_join(self, role: Role, name: str, identity: bytes) -> None:
        """`EnrolmentError` if `add` would refuse this name, role and identity."""
        for known, known_role, known_identity, revoked in self._rows(
            "SELECT name, role, identity, revoked FROM members WHERE name = ? OR identity = ?", name, identity
        ):
            if (known, known_role, known_identity) != (name, role, identity):
                raise _refused(
                    f"{name!r} cannot join as a {role} with this identity: the {known_role} {known!r} is a member, and one "
                    "name has one role and one identity.",
                    "identity-pinned",
                    f"If {known!r} has truly made a new identity, verify that by telephone, remove the member, and invite it "
                    "again.",
                )
            if revoked is not None:
                raise _refused(
                    f"The {role} {name!r} was revoked.",
                    "member-revoked",
                    "Remove the member before it is invited again.",
                )

    def renewed(self, certificate: x509.Certificate, now: datetime) -> Member:
        """Another certificate for the same key of a member, as `Authority.renewed` makes it. `EnrolmentError` unless the
        key has a certificate of that member that still counts."""
        name = pki.peer_of(pki.pem(certificate)).name
        with self._change() as db:
            found = db.execute(
                "SELECT 1 FROM certificates WHERE name = ? AND key = ? AND revoked IS NULL", (name, _key(certificate))
            ).fetchone()
            if found is None:
                raise _not_a_member(name)
            self._certify(db, certificate, name, now)
        return self.find(name)

    def _certify(self, db: sqlite3.Connection, certificate: x509.Certificate, name: str, now: datetime) -> None:
        mark = pki.fingerprint(certificate)
        db.execute(
            "INSERT OR IGNORE INTO certificates (fingerprint, name, key, added) VALUES (?,?,?,?)",
            (mark, name, _key(certificate), now.timestamp()),
        )
        # A removed member must not come back with the certificate that it had.
        if db.execute(
            "SELECT revoked FROM certificates WHERE key = ? AND revoked IS NOT NULL", (_key(certificate),)
        ).fetchone():
            raise _refused(
                f"A certificate of {name!r} for this TLS key was revoked.",
                "certificate-revoked",
                f"{_NEW_TOKEN} Join with a new TLS key: set the old one aside first.",
            )

    def check(self, peer: Peer, now: datetime, roles: tuple[Role, ...] = pki.MEMBER_ROLES) -> Member:
        """The member at the other end of a connection. `NetworkError` as `pki.check`; `EnrolmentError` if the certificate is
        nobody's here: one that the authority made elsewhere does not open this door."""
        pki.check(peer, now, self.revoked(), roles)
        member = next((known for known in self.all() if known.name == peer.name), None)
        if member is None or member.role != peer.role or peer.fingerprint not in member.fingerprints:
            raise _not_a_member(peer.name)
        return member

    def find(self, name: str) -> Member:
        """One member. `EnrolmentError`, rule ``member-unknown``, if there is none of that name."""
        member = next((known for known in self.all() if known.name == name), None)
        if member is None:
            raise _not_a_member(name)
        return member

    def all(self) -> tuple[Member, ...]:
        """Everyone, revoked members too, by name."""
        marks: dict[str, list[str]] = {}
        newest: dict[str, float] = {}
        with self._lock:
            members = self._rows("SELECT name, role, identity, joined, revoked FROM members ORDER BY name")
            certificates = self._rows(
                "SELECT name, fingerprint, added FROM certificates WHERE revoked IS NULL ORDER BY added, rowid"
            )
        for name, mark, added in certificates:
            marks.setdefault(name, []).append(mark)
            newest[name] = added
        return tuple(
            Member(
                name,
                role,
                identity,
                _utc(joined),
                _utc_or_none(revoked),
                tuple(marks.get(name, ())),
                _utc_or_none(newest.get(name)),
            )
            for name, role, identity, joined, revoked in members
        )

    def roster(self) -> Roster:
        """The sites that are not revoked, with their identities."""
        return Roster({m.name: m.identity for m in self.all() if m.role == "site" and m.revoked is None})

    def revoked(self) -> frozenset[str]:
        """Fingerprints of all certificates that no longer count."""
        return frozenset(row[0] for row in self._rows("SELECT fingerprint FROM certificates WHERE revoked IS NOT NULL"))

    def revoke(self, who: str, now: datetime) -> tuple[str, ...]:
        """By name: the member with all certificates. By fingerprint (spaces and colons do not matter): all certificates of
        that key, renewed ones too; a member who has no other is revoked. Gives the fingerprints whose live connections must
        now be closed. `EnrolmentError` if it is nobody's."""
        mark = pki.ungrouped(who)
        with self._change() as db:
            marks = db.execute(
                "SELECT fingerprint, name FROM certificates WHERE revoked IS NULL AND"
                " (name = ? OR key IN (SELECT key FROM certificates WHERE fingerprint = ?))",
                (who, mark),
            ).fetchall()
            known = db.execute(
                "SELECT 1 FROM members WHERE name = ? UNION SELECT 1 FROM certificates WHERE fingerprint = ?",
                (who, mark),
            ).fetchone()
            if known is None:
                raise _not_a_member(who)
            _revoke(db, [row[0] for row in marks], now)
            db.execute(
                "UPDATE members SET revoked = ? WHERE revoked IS NULL AND name NOT IN"
                " (SELECT name FROM certificates WHERE revoked IS NULL)",
                (now.timestamp(),),
            )
        return tuple(row[0] for row in marks)

    def remove(self, name: str, now: datetime) -> tuple[str, ...]:
        """Forget a member, so that the name can join anew with another identity; its certificates stay revoked for ever.
        Gives the fingerprints whose live connections must now be closed."""
        self.find(name)
        marks = self.revoke(name, now)
        with self._change() as db:
            db.execute("DELETE FROM members WHERE name = ?", (name,))
        return marks


def _revoke(db: sqlite3.Connection, marks: list[str], now: datetime) -> None:
    db.executemany(
        "UPDATE certificates SET revoked = ? WHERE fingerprint = ?", [(now.timestamp(), mark) for mark in marks]
    )


def _key(certificate: x509.Certificate) -> str:
    return hashlib.sha256(pki.spki(certificate.public_key())).hexdigest()


def _invitation(row: tuple[Any, ...]) -> Invitation:
    id, role, name, expires, redeemed, cancelled = row
    return Invitation(id, role, name, _utc(expires), _utc_or_none(redeemed), _utc_or_none(cancelled))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _utc_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else _utc(seconds)


# ---------------------------------------------------------------- accepting


def accept(
    request: JoinRequest,
    peer: Peer,
    invitations: Invitations,
    authority: Authority,
    members: Members,
    now: datetime,
    *,
    days: float = pki.VALID_DAYS,
) -> Joined:
    """At the coordinator: let in who was invited. peer: who TLS says is asking, which must be the token's own certificate.

    Everything is checked before the token is used up. `EnrolmentError` or `NetworkError` naming what is wrong; rule
    ``join-pending`` if the authority's key is apart: the request is stored, and the institution asks again later.
    """
    pki.check(peer, now, members.revoked(), _INVITED)
    invited = request.verify(authority)
    if invited.fingerprint != peer.fingerprint:
        raise _refused("The request was not made with the token that it came with.", "token-mismatch", _NEW_TOKEN)
    role, identity = _joining(invited), bytes.fromhex(request.identity)
    members.may_join(role, invited.name, identity)
    made: bytes | None = None
    if authority.can_issue:
        made = pki.pem(authority.issue(request.certificate_request(), role, invited.name, now=now, days=days))
    answer = invitations.redeem_for(request, made, now)
    if answer is None:
        raise _refused(
            f"The request to join as {invited.name!r} was received, and waits for the operator to sign it.",
            "join-pending",
            "Nothing to do now. Run the same command again when the operator says that it is signed.",
        )
    members.add(role, invited.name, identity, pki.certificate_of(answer), now)
    return _joined(request, invited, answer, authority)


class JoinRequests(_Message):
    """The file that is carried to the authority's key."""

    unisono: Literal["join-requests/1"] = "join-requests/1"
    requests: tuple[JoinRequest, ...]


class Refusal(_Message):
    """A request that got no certificate, and why."""

    token: Hex16
    what: str
    rule: str
    remedy: str


class JoinAnswers(_Message):
    """The file that comes back: certificates (PEM) by token, and refusals."""

    unisono: Literal["join-answers/1"] = "join-answers/1"
    certificates: dict[Hex16, Pem]
    refused: tuple[Refusal, ...] = ()


def pending_requests(invitations: Invitations, now: datetime) -> JoinRequests:
    """At the coordinator: what to carry to the authority's key."""
    return JoinRequests(requests=invitations.waiting(now))


def accept_pending(
    file: JoinRequests, authority: Authority, now: datetime, *, days: float = pki.VALID_DAYS
) -> JoinAnswers:
    """Where the authority's key is: a certificate for every request that is right by itself. The coordinator is not trusted
    here: it cannot make a request, which needs a token's key. One wrong request does not stop the others."""
    certificates: dict[str, str] = {}
    refused: list[Refusal] = []
    for request in file.requests:
        try:
            invited = request.verify(authority)
            pki.check(invited, now, (), _INVITED)
            if request.token in certificates:
                raise _refused("Two requests name one token.", "token-used", _NEW_TOKEN)
            certificate = authority.issue(
                request.certificate_request(), _joining(invited), invited.name, now=now, days=days
            )
            certificates[request.token] = pki.pem(certificate).decode("ascii")
        except UnisonoError as error:
            refused.append(_refusal(request, error))
    return JoinAnswers(certificates=certificates, refused=tuple(refused))


def finish_pending(
    file: JoinAnswers, invitations: Invitations, authority: Authority, members: Members, now: datetime
) -> tuple[tuple[Joined, ...], tuple[Refusal, ...]]:
    """At the coordinator, with what came back: the new members, and who was refused, there or here. Certificates for requests
    that do not wait are left aside."""
    joined: list[Joined] = []
    refused = list(file.refused)
    for request in invitations.waiting():
        if request.token not in file.certificates:
            continue
        try:
            joined.append(_finished(request, file.certificates[request.token], invitations, authority, members, now))
        except (EnrolmentError, NetworkError) as error:
            refused.append(_refusal(request, error))
    return tuple(joined), tuple(refused)


def _finished(
    request: JoinRequest, answer: str, invitations: Invitations, authority: Authority, members: Members, now: datetime
) -> Joined:
    certificate = pki.certificate_of(answer.encode())
    authority.verify(certificate)
    invited = request.verify(authority)
    if pki.spki(certificate.public_key()) != pki.spki(request.certificate_request().public_key()):
        raise _refused(
            f"The certificate that came back for {invited.name!r} is for another key than it asked for.",
            "join-answer",
            "Carry the answers again from the machine with the authority's key.",
        )
    members.add(_joining(invited), invited.name, bytes.fromhex(request.identity), certificate, now)
    invitations.redeem_for(request, answer.encode(), now)
    return _joined(request, invited, answer.encode(), authority)


def _refusal(request: JoinRequest, error: UnisonoError) -> Refusal:
    return Refusal(token=request.token, what=error.what, rule=error.rule, remedy=error.remedy)


def _joining(invited: Peer) -> Role:
    return cast(Role, invited.invites)


def _joined(request: JoinRequest, invited: Peer, answer: bytes, authority: Authority) -> Joined:
    return Joined(
        role=cast(Literal["site", "researcher", "operator"], invited.invites),
        name=invited.name,
        identity=request.identity,
        certificate=answer.decode("ascii"),
        ca=authority.ca_pem.decode("ascii"),
    )


# ---------------------------------------------------------------- at a site: whom it has verified itself


class Mark(_Message):
    """Someone at this site convinced themselves that a key is the hospital's: whose, how, who, when."""

    key: Hex32
    how: Annotated[str, Field(min_length=1, max_length=500)]
    by: Annotated[str, Field(min_length=1, max_length=200)]
    when: AwareDatetime


class _Marks(_Message):
    marks: dict[str, Mark] = {}


class Verified:
    """The site's own marks *verified out of band*, in a file of its home (mode 0600). A mark is about one key: it does not
    hold for any other key that the coordinator may list under the name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self, name: str, key: bytes, how: str, by: str, when: datetime) -> None:
        """Write down that `key` (Ed25519, 32 bytes) was verified to be `name`'s. `EnrolmentError` for an incomplete mark."""
        Roster({name: key})  # a site's name, a key's length
        try:
            made = Mark(key=key.hex(), how=how, by=by, when=when)
        except ValidationError as error:
            raise _refused(
                "A mark says how and by whom the key was verified.",
                "verified-mark",
                "Write for example how='read aloud by telephone' and by='Dr Rossi'.",
            ) from error
        marks = _Marks(marks={**self.marks(), name: made})
        write_whole(self.path, marks.encode() + b"\n", "list of verified sites", mode=0o600)

    def marks(self) -> dict[str, Mark]:
        """All marks, by name. `EnrolmentError` if the file is damaged."""
        with storage(self.path, "list of verified sites"):
            if not self.path.exists():
                return {}
            content = self.path.read_bytes()
        return dict(_Marks.read(content).marks)

    def verified(self, roster: Roster) -> set[str]:
        """The sites of a roster whose key, as it is there, this site has verified."""
        marks = self.marks()
        return {name for name, key in roster.items() if name in marks and marks[name].key == key.hex()}


# ---------------------------------------------------------------- refusals


def _not_ours(text: str) -> EnrolmentError:
    other = re.match(r"unisono([0-9]{1,4})\.", text)
    if other is None and not _PREFIX.startswith(text[: len(_PREFIX)]):
        return _refused("This is no Unisono token.", "token-form", f"A token begins with {_PREFIX!r}. Paste all of it.")
    if other is None:
        return _truncated()
    return _refused(
        f"The token is of version {other[1]}; this Unisono reads version {VERSION}.",
        "token-version",
        "Install the version of Unisono that the coordinator runs, or ask for a token of this one.",
    )


def _truncated() -> EnrolmentError:
    return _refused("The token is cut short.", "token-truncated", "Paste all of it, to the last letter.")


def _mistyped() -> EnrolmentError:
    return _refused("A letter of the token is wrong.", "token-mistyped", "Copy and paste it, rather than typing it.")


def _expired(at: datetime) -> EnrolmentError:
    return _refused(f"The token expired on {at:%Y-%m-%d %H:%M} UTC.", "token-expired", _NEW_TOKEN)


def _not_a_member(name: str) -> EnrolmentError:
    return _refused(
        f"{name[:80]!r} is no member of this federation, or not with this certificate.",
        "member-unknown",
        "`unisono coordinator members` lists names and fingerprints; an institution joins with a token.",
    )


def _refused(what: str, rule: str, remedy: str) -> EnrolmentError:
    return EnrolmentError(what, rule=rule, remedy=remedy)
