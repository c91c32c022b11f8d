"""At the coordinator: the tokens that it knows, each used once, before it expires, or cancelled; one for a name at a time."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from unisono.federation.storage import storage
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.enrolment.joining import JoinRequest
from unisono.network.enrolment.refusals import NEW_TOKEN, expired, refused
from unisono.network.enrolment.store import Store, utc, utc_or_none
from unisono.network.enrolment.token import INVITATION_DAYS, JOINING, Token
from unisono.network.pki import Role


@dataclass(frozen=True)
class Invitation:
    """What the coordinator knows of a token: no secret."""

    id: str
    role: Role
    name: str
    expires: datetime
    redeemed: datetime | None
    cancelled: datetime | None


class Invitations(Store):
    """The tokens of a federation: each is used once, before it expires, or cancelled. A name has one that is open at most: the
    newest; once it is used, none. What the operator kept of a token in ``tokens/`` goes when it is used or void."""

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
            raise refused("This certificate is no invitation.", "token-form", "Give the certificate of a token.")
        with self._change() as db:
            added = db.execute(
                "INSERT OR IGNORE INTO invitations (id, role, name, expires) VALUES (?,?,?,?)",
                (peer.serial, peer.invites, peer.name, peer.not_after.timestamp()),
            ).rowcount
            if added:
                _void(db, peer.name, peer.not_before, but=peer.serial)
        if added:
            self._discard(peer.name)
        return self.find(peer.serial)

    def find(self, id: str) -> Invitation:
        """One invitation. `EnrolmentError` if it is unknown."""
        rows = self._rows("SELECT id, role, name, expires, redeemed, cancelled FROM invitations WHERE id = ?", id)
        if not rows:
            raise refused(
                "The coordinator does not know this token.",
                "token-unknown",
                f"{NEW_TOKEN} If it was made where the authority's key is, on another machine, the operator first takes the "
                "invitation's file in: unisono coordinator accept FILE. Then this token is good.",
            )
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
        used = self.find(id)
        self._discard(used.name)
        return used

    def redeem_for(self, request: JoinRequest, certificate: bytes | None, now: datetime) -> bytes | None:
        """Use a token up for a request; certificate: the answer, or None while the authority's key is apart. The very same
        keys asking again (an answer was lost on its way) are given the same answer; everyone else is refused as in `redeem`."""
        pem = None if certificate is None else certificate.decode("ascii")
        holder = request.holder
        with self._change() as db:
            row = db.execute(
                "SELECT holder, certificate, cancelled FROM invitations WHERE id = ?", (request.token,)
            ).fetchone()
            if row is None or row[0] != holder or (row[1] is None and row[2] is not None):
                self._use(db, request.token, now)
            elif row[1] is not None:
                return str(row[1]).encode()
            db.execute(
                "UPDATE invitations SET holder = ?, request = ?, certificate = ? WHERE id = ?",
                (holder, request.encode().decode(), pem, request.token),
            )
        self._discard(self.find(request.token).name)
        return certificate

    def void(self, name: str, now: datetime) -> int:
        """Cancel what is open for a name, also what was asked for with it and not answered yet: how many. `EnrolmentError`, rule
        ``invitation-unknown``, if nothing is."""
        with self._change() as db:
            voided = _void(db, name, now)
        if not voided:
            raise refused(
                f"No invitation of {name[:80]!r} is open.",
                "invitation-unknown",
                "`unisono coordinator members` lists those that are; who has joined is shut out with `unisono coordinator "
                "revoke`.",
            )
        self._discard(name)
        return voided

    def _discard(self, name: str) -> None:
        """The text of a token that is good for nothing any more, where `unisono coordinator invite` left it."""
        file = self.path.parent / "tokens" / f"{name}.token"
        with storage(file, "token"):
            file.unlink(missing_ok=True)

    def cancel(self, id: str, now: datetime) -> None:
        """A token that is not to be used any more. `EnrolmentError` if it was used already, or is unknown."""
        with self._change() as db:
            changed = db.execute(
                "UPDATE invitations SET cancelled = ? WHERE id = ? AND redeemed IS NULL", (now.timestamp(), id)
            ).rowcount
        if changed:
            self._discard(self.find(id).name)
        elif self.find(id).redeemed:
            raise refused(
                "The token was used already, so it cannot be cancelled.",
                "token-used",
                "If the wrong party joined with it, revoke that member.",
            )

    def waiting(self, now: datetime | None = None) -> tuple[JoinRequest, ...]:
        """Requests whose certificates are still to be made where the authority's key is; with `now`, only those whose tokens
        have not expired while they waited."""
        rows = self._rows(
            "SELECT request FROM invitations WHERE request IS NOT NULL AND certificate IS NULL AND cancelled IS NULL"
            " AND expires > ? ORDER BY id",
            0.0 if now is None else now.timestamp(),
        )
        return tuple(JoinRequest.read(row[0].encode()) for row in rows)

    def _use(self, db: sqlite3.Connection, id: str, now: datetime) -> None:
        changed = db.execute(
            "UPDATE invitations SET redeemed = ? WHERE id = ?"
            " AND redeemed IS NULL AND cancelled IS NULL AND expires > ?",
            (now.timestamp(), id, now.timestamp()),
        ).rowcount
        known = self.find(id)
        if changed == 1:
            _void(db, known.name, now, but=id)
            return
        if known.cancelled is not None:
            raise refused(f"The token for {known.name!r} was cancelled.", "token-cancelled", NEW_TOKEN)
        if known.redeemed is not None:
            raise refused(
                f"The token for {known.name!r} was used on {known.redeemed:%Y-%m-%d %H:%M} UTC; each is good for once.",
                "token-used",
                f"{NEW_TOKEN} If it was not you who used it, tell them: that member must be revoked.",
            )
        raise expired(known.expires)


def _void(db: sqlite3.Connection, name: str, now: datetime, but: str = "") -> int:
    """Cancel what was not used in time, and what was asked for and not answered."""
    return db.execute(
        "UPDATE invitations SET cancelled = ? WHERE name = ? AND id != ? AND cancelled IS NULL AND certificate IS NULL"
        " AND (redeemed IS NULL OR request IS NOT NULL) AND expires > ?",
        (now.timestamp(), name, but, now.timestamp()),
    ).rowcount


def _invitation(row: tuple[Any, ...]) -> Invitation:
    id, role, name, expires, redeemed, cancelled = row
    return Invitation(id, role, name, utc(expires), utc_or_none(redeemed), utc_or_none(cancelled))
