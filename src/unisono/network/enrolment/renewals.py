"""At a coordinator whose authority's key is elsewhere: certificates whose holders asked for later ones, and those that came back."""

from __future__ import annotations

from datetime import datetime

from unisono.network import pki
from unisono.network.enrolment.store import Store


class Renewals(Store):
    """Renewals that were asked for. Losing this list loses nothing: whoever has no answer asks again."""

    WHAT = "list of renewals"
    SCHEMA = (
        "CREATE TABLE renewals (fingerprint TEXT PRIMARY KEY, certificate TEXT NOT NULL, expires REAL NOT NULL,"
        " answer TEXT)",
    )

    def ask(self, certificate_pem: bytes, now: datetime) -> bytes | None:
        """The certificate that follows this one, once it has come back; None until then: the wish is written down."""
        peer = pki.peer_of(certificate_pem)
        with self._change() as db:
            db.execute("DELETE FROM renewals WHERE expires <= ?", (now.timestamp(),))
            db.execute(
                "INSERT OR IGNORE INTO renewals (fingerprint, certificate, expires) VALUES (?,?,?)",
                (peer.fingerprint, certificate_pem.decode("ascii"), peer.not_after.timestamp()),
            )
            row = db.execute("SELECT answer FROM renewals WHERE fingerprint = ?", (peer.fingerprint,)).fetchone()
        return None if row[0] is None else str(row[0]).encode()

    def waiting(self, now: datetime) -> tuple[str, ...]:
        """Certificates (PEM) that are to be followed by later ones, and have not expired."""
        rows = self._rows(
            "SELECT certificate FROM renewals WHERE answer IS NULL AND expires > ? ORDER BY fingerprint",
            now.timestamp(),
        )
        return tuple(row[0] for row in rows)

    def answered(self, certificate_pem: bytes) -> bool:
        """Keep a certificate that came back, for whoever holds its key. False if nobody here waits for it."""
        certificate, peer = pki.certificate_of(certificate_pem), pki.peer_of(certificate_pem)
        key = pki.key_mark(certificate.public_key())
        found = False
        with self._change() as db:
            for mark, before in db.execute(
                "SELECT fingerprint, certificate FROM renewals WHERE answer IS NULL"
            ).fetchall():
                old, holder = pki.certificate_of(before.encode()), pki.peer_of(before.encode())
                same = (holder.role, holder.name) == (peer.role, peer.name) and pki.key_mark(old.public_key()) == key
                if same and peer.not_after > holder.not_after:
                    db.execute(
                        "UPDATE renewals SET answer = ? WHERE fingerprint = ?", (certificate_pem.decode("ascii"), mark)
                    )
                    found = True
        return found
