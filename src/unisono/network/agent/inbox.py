"""The steward's inbox: studies that were offered to this site, what was decided, and what became of them. One SQLite file,
which the serving agent and the steward's commands share; the decision that is written here is the one that counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal

from unisono.errors import PermitError
from unisono.federation.storage import is_new, storage
from unisono.methods.registry import check as method_checks
from unisono.network.agent.offer import Offer
from unisono.network.database import Database
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Roster
from unisono.site.permit import Permit
from unisono.study.document import Study
from unisono.study.load import load

Decision = Literal["open", "approved", "refused", "withdrawn"]
OVER = ("finished", "cancelled", "withdrawn")
"""States, as the coordinator told them, in which nothing more is asked. (After a refusal a steward may change their mind.)"""
MOST_OPEN = 1000
_SHORTEST = 6
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    digest TEXT PRIMARY KEY, id TEXT NOT NULL, document TEXT NOT NULL, researcher TEXT NOT NULL, identity TEXT NOT NULL,
    signature TEXT NOT NULL, roster TEXT NOT NULL, submitted TEXT NOT NULL, received TEXT NOT NULL,
    decision TEXT NOT NULL DEFAULT 'open', decided TEXT NOT NULL DEFAULT '', why TEXT NOT NULL DEFAULT '',
    dataset TEXT NOT NULL DEFAULT '', permit TEXT NOT NULL DEFAULT '', told INTEGER NOT NULL DEFAULT 1,
    trouble TEXT NOT NULL DEFAULT '', state TEXT NOT NULL DEFAULT 'submitted', state_why TEXT NOT NULL DEFAULT '');
"""


@dataclass(frozen=True)
class Entry:
    """One study in the inbox. document, roster, permit: JSON. identity, signature: the researcher's, hexadecimal.
    told: the coordinator knows the decision. trouble: what stands in the way here, in words. state, state_why: as the
    coordinator told them last. Times: ISO."""

    digest: str
    id: str
    document: str
    researcher: str
    identity: str
    signature: str
    roster: str
    submitted: str
    received: str
    decision: Decision
    decided: str
    why: str
    dataset: str
    permit: str
    told: bool
    trouble: str
    state: str
    state_why: str

    @property
    def short(self) -> str:
        """Id and beginning of the digest: a name that no other study has."""
        return f"{self.id}-{self.digest[:12]}"

    @property
    def is_active(self) -> bool:
        """Approved, and not over: the site answers it."""
        return self.decision == "approved" and self.state not in OVER

    @property
    def waits(self) -> bool:
        """The steward is to decide: not decided yet, and not over."""
        return self.decision == "open" and self.state not in OVER

    @property
    def shown(self) -> str:
        """The decision, as a list shows it: nobody is asked about a study that is over."""
        return "none, and it is over" if self.decision == "open" and self.state in OVER else self.decision

    def study(self) -> Study:
        """The study, checked again. `StudyProblems` if a method that it names was uninstalled meanwhile."""
        return load(json.loads(self.document), method_checks)

    def sites(self) -> Roster:
        """Over whom."""
        return Roster.from_tree(json.loads(self.roster))

    def signed(self) -> StudySignature:
        """By whom."""
        return StudySignature(self.researcher, self.identity, self.signature)

    def permits(self) -> Permit:
        """The signed permit of an approved study."""
        return Permit.model_validate_json(self.permit)


_COLUMNS = tuple(field.name for field in fields(Entry))
_ALL = "SELECT " + ", ".join(_COLUMNS) + " FROM studies "  # noqa: S608  (our own words)


class Inbox(Database):
    """The file, for several processes: the agent and the steward's commands."""

    WHAT = "inbox"

    def _open(self) -> None:
        with self._guard():
            self.path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        if is_new(self._db, self.path, self.WHAT, _VERSION):
            with self._guard():
                self._db.executescript(f"{_SCHEMA} PRAGMA user_version={_VERSION};")

    def offer(self, offer: Offer, now: datetime) -> bool:
        """Keep an offer. True if it is new: another study, other sites, or submitted anew; it then waits for a decision. One
        that is here is left as it is, and its decision is told again. `PermitError` if too many wait."""
        digest, roster = offer.study.digest(), json.dumps(offer.roster.to_tree())
        values = (offer.study.id, offer.document, *_signed(offer), roster, offer.submitted, now.isoformat())
        with self._change():
            known = self._one(digest)
            if known is not None and (known.roster, known.submitted) == (roster, offer.submitted):
                self._db.execute("UPDATE studies SET told = decision = 'open' WHERE digest = ?", (digest,))
                return False
            waiting = self._db.execute("SELECT count(*) FROM studies WHERE decision = 'open'").fetchone()[0]
            if known is None and waiting >= MOST_OPEN:
                raise PermitError(
                    f"{waiting} studies wait for this site's data steward; no more are kept.",
                    rule="inbox-full",
                    remedy="Let the steward decide on some (`unisono site studies`), then submit again.",
                )
            self._db.execute(
                "INSERT OR REPLACE INTO studies (digest, id, document, researcher, identity, signature, roster,"
                " submitted, received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (digest, *values),
            )
            return True

    def decide(self, digest: str, decision: Decision, now: datetime, *, why: str = "") -> None:
        """The steward's refusal or withdrawal; the coordinator is to be told. ``open`` takes an approval back that could not be
        kept."""
        self._update(
            "decision = ?, decided = ?, why = ?, permit = '', told = ?, trouble = ''",
            (decision, now.isoformat(), why, decision == "open"),
            digest,
        )

    def approve(self, digest: str, permit: Permit, dataset: str, now: datetime) -> None:
        """The steward's consent, with the permit that was signed and the dataset that is to be used."""
        self._update(
            "decision = 'approved', decided = ?, why = '', permit = ?, dataset = ?, told = 0, trouble = ''",
            (now.isoformat(), permit.model_dump_json(), dataset),
            digest,
        )

    def reopen(self) -> None:
        """After a restoration: every approval is the steward's to decide anew, and its permit is gone."""
        with self._guard():
            self._db.execute(
                "UPDATE studies SET decision = 'open', decided = '', permit = '', told = 1, trouble = ''"
                " WHERE decision = 'approved'"
            )

    def told(self, entry: Entry) -> None:
        """The coordinator knows this decision (if it still is the one)."""
        with self._guard():
            self._db.execute(
                "UPDATE studies SET told = 1, trouble = '' WHERE digest = ? AND decision = ? AND decided = ?",
                (entry.digest, entry.decision, entry.decided),
            )

    def trouble(self, digest: str, what: str) -> None:
        """What stands in the way at this site, for the steward to see; empty if nothing does."""
        self._update("trouble = ?", (what,), digest)

    def progress(self, digest: str, state: str, why: str) -> None:
        """What the coordinator says of a study."""
        self._update("state = ?, state_why = ?", (state, why), digest)

    def decisions(self) -> dict[str, int]:
        """How many studies there are of each decision."""
        with self._guard():
            return dict(self._db.execute("SELECT decision, count(*) FROM studies GROUP BY decision").fetchall())

    def untold(self) -> list[Entry]:
        """Decisions that the coordinator does not know yet."""
        return self._some("WHERE told = 0 AND decision != 'open' ORDER BY decided")

    def active(self) -> list[Entry]:
        """Approved studies that are not over."""
        return [entry for entry in self._some("WHERE decision = 'approved' ORDER BY decided") if entry.is_active]

    def all(self) -> list[Entry]:
        """Every study, the last received first."""
        return self._some("ORDER BY received DESC")

    def get(self, digest: str) -> Entry | None:
        """The study of that digest."""
        with self._guard():
            return self._one(digest)

    def standing(self, digest: str) -> tuple[str, str]:
        """The decision and the coordinator's state; empty texts for a study that is not here."""
        with self._guard():
            row = self._db.execute("SELECT decision, state FROM studies WHERE digest = ?", (digest,)).fetchone()
        return ("", "") if row is None else (str(row[0]), str(row[1]))

    def find(self, name: str) -> Entry:
        """The study of that id or beginning of a digest. `PermitError` if there is none, or more than one."""
        entries = self.all()
        found = [entry for entry in entries if name in (entry.id, entry.digest)]
        if not found and len(name) >= _SHORTEST:
            found = [entry for entry in entries if entry.digest.startswith(name.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            raise PermitError(
                f"{len(found)} studies here are called {name!r}.",
                rule="known-studies",
                remedy=f"Give the beginning of a digest instead: {', '.join(entry.digest[:12] for entry in found)}.",
            )
        known = ", ".join(entry.id for entry in entries[:5])
        raise PermitError(
            f"No study {name!r} was offered to this site.",
            rule="known-studies",
            remedy=f"Offered: {known}."
            if known
            else "None was offered yet; is the agent serving (`unisono site serve`)?",
        )

    def _update(self, what: str, values: tuple[object, ...], digest: str) -> None:
        with self._guard():
            self._db.execute(f"UPDATE studies SET {what} WHERE digest = ?", (*values, digest))  # noqa: S608  (our own words)

    def _one(self, digest: str) -> Entry | None:
        row = self._db.execute(_ALL + "WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else _entry(row)

    def _some(self, condition: str) -> list[Entry]:
        with self._guard():
            return [_entry(row) for row in self._db.execute(_ALL + condition).fetchall()]

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock, storage(self.path, self.WHAT):
            yield


def _signed(offer: Offer) -> tuple[str, str, str]:
    return offer.signature.researcher, offer.signature.identity, offer.signature.signature


def _entry(row: tuple[object, ...]) -> Entry:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Entry(**{**values, "told": bool(values["told"])})  # type: ignore[arg-type]
