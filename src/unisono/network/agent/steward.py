"""What a data steward decides, from a terminal beside the agent or without one: look, approve, refuse, withdraw.

A decision is written into the inbox and counts from then on; a serving agent is told at once, another one reads it when it
begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from unisono.errors import PermitError, UnisonoError
from unisono.federation.storage import storage
from unisono.network.agent import control, datasets
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.inbox import OVER, Entry, Inbox
from unisono.network.enrolment.refusals import refused
from unisono.network.enrolment.verified import Verified
from unisono.network.wordcode import same_words, word_code
from unisono.protection.secagg.roster import Roster
from unisono.site import gate, packages
from unisono.site.counted import Counted, counted
from unisono.site.permit import Permit, propose


@dataclass(frozen=True)
class Sheet:
    """What the steward reads before deciding. permit: that approving would sign (unsigned), or that was signed. verified: sites
    whose keys somebody here has verified out of band; counted: whether they are enough. check: what of this site's data would be
    used, or the error that says why it cannot be."""

    entry: Entry
    permit: Permit
    roster: Roster
    words: str
    verified: frozenset[str]
    counted: Counted
    check: datasets.LocalCheck | UnisonoError


@dataclass(frozen=True)
class Done:
    """served: an agent serves and has done it. told: the coordinator knows. trouble: why it does not yet."""

    served: bool
    told: bool
    trouble: UnisonoError | None


class Desk:
    """The steward's commands, over one site's folder."""

    def __init__(self, folder: AgentFolder) -> None:
        """`NetworkError` (``not-joined``) if the site has not joined."""
        self.folder = folder
        self.settings = folder.settings()
        packages.activate(folder.path)
        self.inbox = Inbox(folder.inbox)

    def close(self) -> None:
        """Close the files."""
        self.inbox.close()

    def status(self) -> dict[str, Any] | None:
        """How the serving agent stands; None if none serves."""
        return control.ask(self.folder.socket, {"do": "status"}, patience_s=10.0)

    def verify(
        self, sites: Sequence[str], study: str, how: str, by: str, now: datetime, words: str | None = None
    ) -> Roster:
        """Mark the keys of these sites, as they are in the list of that study, as verified out of band; gives the list. words: the
        word-code that these hospitals read out, compared here.

        `EnrolmentError` if a site is not in the list, or (``word-code-differs``) if they see another list than this site.
        """
        roster = self.others(sites, study)
        if words is not None and not same_words(words, word_code(roster.digest)):
            raise refused(
                "The word-code that was read out is not the one that this hospital sees.",
                "word-code-differs",
                "Approve nothing: a hospital is shown other keys than the rest. Compare the fingerprints one by one (`unisono site "
                "show`), and call the coordinator's operator.",
            )
        for site in sites:
            self.verified().mark(site, roster[site], how, by, now)
        return roster

    def others(self, sites: Sequence[str], study: str) -> Roster:
        """The list of that study. `EnrolmentError` (``known-sites``) if one of these sites is no other hospital in it."""
        roster = self.inbox.find(study).sites()
        for site in sites:
            if site not in roster or site == self.settings.name:
                raise refused(
                    f"There is no other hospital {site[:64]!r} in the list of that study.",
                    "known-sites",
                    f"Its hospitals are {', '.join(roster.sites)}; this one is {self.settings.name}.",
                )
        return roster

    def verified(self) -> Verified:
        """This site's own marks: whose key somebody here has verified."""
        return Verified(self.folder.path / "verified.json")

    def sheet(self, name: str, dataset: str | None, now: datetime) -> Sheet:
        """Of the study of that id or digest. `PermitError` if there is none."""
        entry = self.inbox.find(name)
        study, roster, here = entry.study(), entry.sites(), self.settings.name
        verified = frozenset(self.verified().verified(roster))
        permit = entry.permits() if entry.permit else propose(study, roster, here, now, verified)
        enough = counted(roster.sites, here, permit.verified, study, self.folder.policy())
        found: datasets.LocalCheck | UnisonoError
        try:
            chosen = datasets.choose(self.folder, dataset or entry.dataset or None)
            found = datasets.check(chosen, study, here, self.folder.policy())
        except UnisonoError as error:
            found = error
        return Sheet(entry, permit, roster, word_code(roster.digest), verified, enough, found)

    def approve(self, sheet: Sheet, now: datetime) -> Done:
        """Sign the permit, write it down, and let the agent take the study up.

        Raises what stands in the way: the study was decided already or is over, too few of its sites are verified, its data
        cannot be read, a rule of this site.
        """
        entry, check = sheet.entry, sheet.check
        if entry.decision != "open":
            raise PermitError(
                f"The study {entry.id!r} was {entry.decision} already.",
                rule="decided",
                remedy="A study that was refused or withdrawn is submitted again by the researcher, and then waits here anew.",
            )
        if entry.state in OVER:
            raise PermitError(
                f"The study {entry.id!r} is over: {entry.state}. {entry.state_why}".rstrip(),
                rule="study-over",
                remedy="The researcher may submit it anew; it then waits here again.",
            )
        sheet.counted.check(entry.id)
        if isinstance(check, UnisonoError):
            raise check
        if check.refusals:
            raise check.refusals[0]
        study, identity = entry.study(), self.folder.home.identity()
        permit = propose(study, sheet.roster, self.settings.name, now, sheet.verified).signed(identity)
        gate.consent(study, permit, sheet.roster, self.settings.name, identity)
        self.folder.home.keep(permit)
        self.inbox.approve(entry.digest, permit, check.dataset.name, now)
        try:
            return self._tell(entry.digest)
        except UnisonoError:
            after = self.inbox.get(entry.digest)
            if after is not None and after.decision == "open":  # the agent could not take it up
                self._forget_permit(entry)
            raise

    def refuse(self, name: str, why: str, now: datetime) -> tuple[Entry, Done]:
        """Say no. `PermitError` if the study was approved: that is withdrawn."""
        entry = self.inbox.find(name)
        if entry.decision == "approved":
            raise PermitError(
                f"The study {entry.id!r} was approved already.",
                rule="decided",
                remedy=f"Stop it with: unisono site withdraw {entry.id}.",
            )
        self.inbox.decide(entry.digest, "refused", now, why=why)
        return entry, self._tell(entry.digest)

    def withdraw(self, name: str, why: str, now: datetime) -> tuple[Entry, Done]:
        """Stop a study that was approved, at once: nothing more is answered, keys are forgotten, the permit is removed."""
        entry = self.approved(name)
        self.inbox.decide(entry.digest, "withdrawn", now, why=why)
        self._forget_permit(entry)
        return entry, self._tell(entry.digest)

    def approved(self, name: str) -> Entry:
        """The study of that id or digest, which is approved here. `PermitError` if it is not, or there is none."""
        entry = self.inbox.find(name)
        if entry.decision != "approved":
            raise PermitError(
                f"The study {entry.id!r} is not approved here, so there is nothing to withdraw.",
                rule="decided",
                remedy="`unisono site studies` shows what is.",
            )
        return entry

    def _forget_permit(self, entry: Entry) -> None:
        path = self.folder.path / "permits" / f"{entry.id}.json"
        with storage(path, "permit"):
            path.unlink(missing_ok=True)

    def _tell(self, digest: str) -> Done:
        answer = control.ask(self.folder.socket, {"do": "decided", "study": digest})
        if answer is None:
            return Done(served=False, told=False, trouble=None)
        trouble = answer.get("trouble")
        return Done(True, bool(answer.get("told")), None if trouble is None else UnisonoError.from_dict(trouble))
