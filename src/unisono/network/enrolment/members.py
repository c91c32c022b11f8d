"""At the coordinator: who joined, with which identity and certificates, and who was revoked."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from unisono.errors import EnrolmentError
from unisono.network import pki
from unisono.network.enrolment.refusals import NEW_TOKEN, refused
from unisono.network.enrolment.store import Store, utc, utc_or_none
from unisono.network.pki import Peer, Role
from unisono.protection.secagg.roster import Roster

_IDENTITY_BYTES = 32


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


class Members(Store):
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
        if (peer.role, peer.name) != (role, name) or role == "invited" or len(identity) != _IDENTITY_BYTES:
            raise refused(
                f"The certificate and the identity are not those of a {role} {name!r}.", "join-request", NEW_TOKEN
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
                raise refused(
                    f"{name!r} cannot join as a {role} with this identity: the {known_role} {known!r} is a member, and one "
                    "name has one role and one identity.",
                    "identity-pinned",
                    f"If {known!r} has truly made a new identity, the operator verifies that by telephone, removes the old "
                    f"member (unisono coordinator remove {known}), and invites it again.",
                )
            if revoked is not None:
                raise refused(
                    f"The {role} {name!r} was revoked.",
                    "member-revoked",
                    f"If it is to come back, the operator removes it (unisono coordinator remove {name}), and invites it again.",
                )

    def may_be_invited(self, name: str, now: datetime) -> None:
        """`EnrolmentError`, rule ``member-known`` or ``member-revoked``, if this name has nothing to join for. A member whose certificate
        has expired joins again, with the keys that it has."""
        member = next((known for known in self.all() if known.name == name), None)
        if member is None:
            return
        newest = member.certified
        if member.revoked is None and (newest is None or now >= newest + timedelta(days=pki.VALID_DAYS)):
            return
        again = f"If it is to join anew, with new keys, remove it first: unisono coordinator remove {name}"
        if member.revoked is not None:
            raise refused(
                f"The {member.role} {name!r} was revoked: no token could be used.", "member-revoked", f"{again}."
            )
        raise refused(
            f"{name!r} is a {member.role} of this federation already: no token could be used.",
            "member-known",
            f"Invite somebody else under another name. {again}.",
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
                raise not_a_member(name)
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
            raise refused(
                f"A certificate of {name!r} for this TLS key was revoked.",
                "certificate-revoked",
                f"{NEW_TOKEN} Join with a new TLS key: set the old one aside first.",
            )

    def check(self, peer: Peer, now: datetime, roles: tuple[Role, ...] = pki.MEMBER_ROLES) -> Member:
        """The member at the other end of a connection. `NetworkError` as `pki.check`; `EnrolmentError` if the certificate is
        nobody's here: one that the authority made elsewhere does not open this door."""
        pki.check(peer, now, self.revoked(), roles)
        member = next((known for known in self.all() if known.name == peer.name), None)
        if member is None or member.role != peer.role or peer.fingerprint not in member.fingerprints:
            raise not_a_member(peer.name)
        return member

    def find(self, name: str) -> Member:
        """One member. `EnrolmentError`, rule ``member-unknown``, if there is none of that name."""
        member = next((known for known in self.all() if known.name == name), None)
        if member is None:
            raise not_a_member(name)
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
                utc(joined),
                utc_or_none(revoked),
                tuple(marks.get(name, ())),
                utc_or_none(newest.get(name)),
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
                raise not_a_member(who)
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
    return pki.key_mark(certificate.public_key())


def not_a_member(name: str) -> EnrolmentError:
    """Whom the list does not have."""
    return refused(
        f"{name[:80]!r} is no member of this federation, or not with this certificate.",
        "member-unknown",
        "`unisono coordinator members` lists names and fingerprints; an institution joins with a token.",
    )
