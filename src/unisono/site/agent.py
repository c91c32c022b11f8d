"""The agent's half of a site: it answers an ask by permit -> policy -> data -> contribution -> disclosure -> protection.

Keys, policy, disclosure, encoding and masks are here; data and method code are the worker's. The same code answers under
every exchange. Every refusal says its rule and its remedy, is written to the audit log, and nothing leaves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from unisono.errors import Abstention, PermitError, ProtocolError, UnisonoError
from unisono.federation import exchange as messages
from unisono.federation.ask import Ask, Circle, leaves_for, opened_tree
from unisono.methods.base import Method
from unisono.protection.encoding.codec import codec
from unisono.protection.prg import Source, Words, mask_into
from unisono.protection.secagg.group import group_of
from unisono.protection.secagg.messages import Agreement, Commitment, Unmask
from unisono.protection.secagg.parameters import Parameters, derive
from unisono.protection.secagg.party import Party, SlotUnknown
from unisono.protection.secagg.refusals import another_opening
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site import gate
from unisono.site.audit import AuditLog
from unisono.site.computing import Computing
from unisono.site.gate import Admitted
from unisono.site.permit import Permit
from unisono.site.policy import Policy
from unisono.site.sheets import keep_sheet
from unisono.site.state import SiteState, Step
from unisono.site.worker import Worker, method_of
from unisono.study.document import Study

Clock = Callable[[], datetime]
R = TypeVar("R")


def utc_now() -> datetime:
    """The site's clock."""
    return datetime.now(UTC)


class Site:
    """One hospital. `home` is its own folder: state, audit log, sheets. permits_until: by which clock permits end, where that is
    another one than the site's own."""

    def __init__(
        self,
        name: str,
        home: Path,
        identity: Identity,
        policy: Policy,
        *,
        clock: Clock = utc_now,
        permits_until: Clock | None = None,
    ) -> None:
        self.name = name
        self.home = home
        self.identity = identity
        self.policy = policy
        self.clock = clock
        self.permits_until = permits_until or clock
        self.state = SiteState(home / "state.db")
        self.audit = AuditLog(home / "audit.jsonl")
        self._studies: dict[str, Admitted] = {}
        self._methods: dict[tuple[str, str, str], Method[Any]] = {}
        self._parties: dict[tuple[str, str, int], tuple[Circle, Party[Ask]]] = {}
        self._computing = Computing(name, policy, self.state)
        self._lock = threading.Lock()

    # -- consent ------------------------------------------------------------------------------------------------------

    def admit(self, study: Study, permit: Permit, roster: Roster, worker: Worker) -> None:
        """Take up a study under a signed permit.

        `PermitError` unless the permit is this site's own, for exactly this document and these sites; `PolicyRefusal` if
        the study is below the site's policy.
        """
        gate.consent(study, permit, roster, self.name, self.identity)
        self.policy.check_study(study)
        with self._lock:
            self._studies[permit.study] = Admitted(study, permit, roster, worker)
            self.audit.write(self.clock(), "admitted", study=permit.study, id=study.id, roster=roster.digest)

    def withdraw(self, study: str) -> None:
        """The data steward takes the consent back: nothing more is answered, keys sent ahead are forgotten."""
        self.release(study, "withdrawn")

    def release(self, study: str, why: str) -> None:
        """Let go of a study: nothing more is answered, keys sent ahead are forgotten. why: for the audit log, in a word or two; only
        the steward of this hospital has ``withdrawn`` anything."""
        with self._lock:
            self._studies.pop(study, None)
            for key in [key for key, (circle, _) in self._parties.items() if circle.study == study]:
                self._leave(key)
            if why == "withdrawn":
                self.audit.write(self.clock(), "withdrawn", study=study)
            else:
                self.audit.write(self.clock(), "released", study=study, why=why)

    def knows(self, study: str) -> bool:
        """Whether the study is answered, or keys were made for it."""
        return study in self._studies or any(circle.study == study for circle, _ in list(self._parties.values()))

    def close(self) -> None:
        """Leave: an answer that is being made is finished, key material is forgotten, files are closed."""
        with self._lock:
            for key in list(self._parties):
                self._leave(key)
            self.state.close()

    def check_data(self, run: str, study: str) -> None:
        """`DataError` if a run was begun here on other data than is there now."""
        self._computing.frozen(run, self._admitted(study).worker)

    # -- answering ----------------------------------------------------------------------------------------------------

    def answer(self, message: messages.Message) -> object:
        """The reply to one message; a refusal is raised, with its rule and remedy, and is in the audit log."""
        with self._lock:
            try:
                return self._answer(message)
            except UnisonoError as error:
                raise self._refused(message, error) from error
            except SlotUnknown as unknown:
                # Restarted since the keys were made: the attempt is lost with them, and the coordinator tries again.
                raise messages.SlotLost(self.name, message.phase) from unknown
            except Exception as error:  # a fault of ours or of a method's: it must not show data, nor go unlogged
                fault = ProtocolError(
                    f"The message {message.phase!r} could not be answered ({type(error).__name__}).",
                    rule="site-fault",
                    remedy="Nothing left the site. Report it, with the versions of Unisono at both ends.",
                )
                raise self._refused(message, fault) from error

    def _answer(self, message: messages.Message) -> object:
        self.state.lineage.check(messages.run_of(message))
        match message:
            case messages.Commit(circle=circle):
                return self._commit(circle)
            case messages.Advertise():
                party = self._party(message.circle)
                return party.advertise(message.slot.name, message.slot.recipient, message.commitments)
            case messages.Share(circle=circle, keys=keys):
                return self._joined(_key(circle)).share(keys)
            case messages.Mask():
                return self._mask(message)
            case messages.Agree(key=key, unmask=request):
                return self._agree(key, request)
            case messages.Reveal():
                return self._reveal(message)
            case messages.Deliver():
                self._receive(message)
            case messages.Plain():
                return self._plain(message)
            case messages.Collect():
                return self._collect(message)
            case messages.Tell():
                self._told(message)
            case messages.Close(closes=closes):
                self._over(closes)
                self._leave(closes.key[:3])
        return None

    # -- keys, before a question is known -----------------------------------------------------------------------------

    def _commit(self, circle: Circle) -> Commitment:
        party = self._party(circle)
        self.audit.write(self.clock(), "committed", run=circle.run, analysis=circle.analysis, epoch=circle.epoch)
        return party.commit()

    def _party(self, circle: Circle) -> Party[Ask]:
        """This site's half of the sums among these sites; made, after all checks, when keys are first asked for."""
        admitted = self._admitted(circle.study)
        gate.among(circle, admitted, self.policy, self.permits_until(), self.state)
        known = self._parties.get(_key(circle))
        if known is not None:
            if known[0] != circle:
                raise gate.other_circle(known[0], circle)
            return known[1]
        group = group_of(circle.run, circle.epoch, circle.sites, admitted.roster, self._parameters(circle))
        self.state.remember_circle(circle)
        party: Party[Ask] = Party(self.name, self.identity, group, self.state)
        self._parties[_key(circle)] = (circle, party)
        return party

    def _joined(self, key: tuple[str, str, int]) -> Party[Ask]:
        if key not in self._parties:
            raise SlotUnknown(key)
        circle, party = self._parties[key]
        self._admitted(circle.study)
        return party

    # -- one sum ------------------------------------------------------------------------------------------------------

    def _mask(self, message: messages.Mask) -> messages.Masked:
        ask = message.ask
        self._covered(ask, masked=True)
        self._over(message.closes, ask)
        party = self._joined(_key(ask.circle))
        if self._parties[_key(ask.circle)][0] != ask.circle:
            raise gate.other_circle(self._parties[_key(ask.circle)][0], ask.circle)
        part = party.mask(ask, message.slot, message.inbox, lambda: self._encoded(ask))
        self.audit.write(self.clock(), "answered", step=list(ask.key), name=ask.contribution, bytes=part.words.nbytes)
        following = message.next
        ahead = None if following is None else _riding(lambda: party.advertise(following.name, following.recipient))
        return messages.Masked(part, ahead)

    def _agree(self, key: messages.Key, request: Unmask) -> Agreement:
        self._step_of(key, request)
        agreement = self._joined(key[:3]).agree(key, request)
        self.audit.write(self.clock(), "agreed", step=list(key), survivors=list(request.survivors))
        return agreement

    def _reveal(self, message: messages.Reveal) -> messages.Revealed:
        """Shares for one set of survivors of a step, ever: written down before they go out, and then repeated."""
        request = message.unmask
        step = self._step_of(message.key, request)
        # A restarted site has no secrets of the slot, and still repeats what it had answered.
        repeats = step.answer is not None and (step.slot, step.survivors) == (request.slot, request.survivors)
        if repeats and message.key[:3] not in self._parties and not step.closed:
            assert step.answer is not None
            self._gave(message.key, request)  # also if it was killed between writing the answer down and saying so
            return messages.Revealed(step.answer)
        party = self._joined(message.key[:3])
        shares = party.unmask(message.key, request)
        self._gave(message.key, request)
        keys = message.next
        return messages.Revealed(shares, None if keys is None else _riding(lambda: party.share(keys)))

    def _gave(self, key: messages.Key, request: Unmask) -> None:
        self.audit.write(self.clock(), "unmasked", step=list(key), survivors=list(request.survivors))

    def _step_of(self, key: messages.Key, request: Unmask) -> Step:
        """The step that is to be unmasked; a second opening is refused by its name also where the slot's secrets are gone."""
        step = self.state.step(key)
        if step is None:
            raise gate.protocol("There is no such step to unmask.", "unknown-step", "Ask for the step first.")
        admitted = self._admitted(step.study)
        gate.verified(request.survivors, admitted, self.policy)
        if step.closed or step.survivors not in (None, request.survivors):
            raise another_opening(key[3], key[1], step.survivors or (), request.survivors)
        return step

    def _receive(self, message: messages.Deliver) -> None:
        """A sum that this site alone reads: its own mask comes off, and the method's receipt makes a sheet that stays here."""
        party = self._joined(message.key[:3])
        ask = party.asked(message.key, message.slot)
        admitted = self._covered_receipt(ask)
        total = party.receive(message.key, message.slot, message.words)
        try:
            self._read(ask, admitted, total)
        except Exception as error:  # noqa: BLE001  the coordinator must not learn from it what the words were
            rule = error.rule if isinstance(error, UnisonoError) else "site-fault"
            self.audit.write(self.clock(), "not-received", step=list(ask.key), name=ask.contribution, rule=rule)
            return
        self.audit.write(self.clock(), "received", step=list(ask.key), name=ask.contribution)

    def _read(self, ask: Ask, admitted: Admitted, total: Words) -> None:
        bound = gate.contribution_of(self._method(ask), ask)
        leaves = leaves_for(ask.operation, gate.declaration_of(bound, ask), ask.facts)
        decoded = codec(ask.encoding).decode(total, leaves, len(ask.sites))
        found = bound.rebuild(opened_tree(ask.operation, leaves, ask.facts, decoded.tree))
        told = replace(ask, operation="tell", contribution=ask.receipt, arguments=[found], to="", receipt="")
        keep_sheet(self.home, told, admitted.worker.receipt(told, self._computing.memory(told)))

    def _covered_receipt(self, ask: Ask) -> Admitted:
        admitted = self._admitted(ask.study)
        gate.is_receipt(self._method(ask), replace(ask, contribution=ask.receipt))
        return admitted

    def _plain(self, message: messages.Plain) -> Words:
        ask = message.ask
        self._covered(ask, masked=False)
        self._over(message.closes, ask)
        step = self.state.step(ask.key)
        vector = None if step is None else step.vector
        if vector is None:
            source = self._encoded(ask)
            vector = np.empty(source.size, source.dtype)
            mask_into(vector, source, [])
            self.state.remember_vector(ask, vector)
        self.audit.write(self.clock(), "answered", step=list(ask.key), name=ask.contribution, bytes=vector.nbytes)
        return vector

    def _collect(self, message: messages.Collect) -> messages.Collected:
        """This site's part as it is: written down before it goes out, and then repeated."""
        ask = message.ask
        admitted = self._admitted(ask.study)
        gate.collectable(ask, admitted, self.policy, self.permits_until(), self.state, self._method)
        self._over(message.closes, ask)
        step = self.state.step(ask.key)
        before = None if step is None else step.vector
        packed = None if before is None else before.view(np.uint8)
        if packed is None:
            packed = self._computing.collected(ask, admitted, self._method(ask))
            self.state.remember_vector(ask, packed)
        self.audit.write(self.clock(), "shown", step=list(ask.key), name=ask.contribution, bytes=packed.nbytes)
        return messages.Collected(packed)

    def _told(self, message: messages.Tell) -> None:
        ask = message.ask
        admitted = self._admitted(ask.study)
        gate.permitted(ask, admitted, self.policy, self.permits_until(), ("tell",))
        gate.is_receipt(self._method(ask), ask)
        self._over(message.closes, ask)
        keep_sheet(self.home, ask, admitted.worker.receipt(ask, self._computing.memory(ask)))
        self.audit.write(self.clock(), "told", step=list(ask.key), name=ask.contribution)

    def _over(self, closes: messages.Closes | None, ask: Ask | None = None) -> None:
        """A step is opened and stored at the coordinator, and every one before it. ask: the question it rides on, of the same
        run; nothing of a study that is not admitted is touched."""
        if closes is None:
            return
        key = closes.key
        if ask is not None and key[:2] != ask.key[:2]:
            raise gate.protocol(
                "The end of a step of another run rides on this question.", "other-slot", "Report the coordinator."
            )
        if self.state.study_of(key[0], key[1]) in self._studies:
            self.state.close_step(key, closes.counted)
            if key[:3] in self._parties:
                self._parties[key[:3]][1].close(key)

    # -- the checks, in their order -----------------------------------------------------------------------------------

    def _admitted(self, study: str) -> Admitted:
        if study not in self._studies:
            raise PermitError(
                f"This site has no permit for the study of this ask ({study[:12]}).",
                rule="permit-study",
                remedy="Submit the study for approval by the site's data steward.",
            )
        return self._studies[study]

    def _covered(self, ask: Ask, *, masked: bool) -> Admitted:
        """Everything that is checked before any data is touched."""
        admitted = self._admitted(ask.study)
        gate.covered(ask, admitted, self.policy, self.permits_until(), self.state, self._method, masked=masked)
        return admitted

    def _encoded(self, ask: Ask) -> Source:
        return self._computing.encoded(ask, self._admitted(ask.study), self._method(ask))

    # -- small things -------------------------------------------------------------------------------------------------

    def _method(self, ask: Ask) -> Method[Any]:
        key = (ask.study, ask.analysis, ask.method)
        if key not in self._methods:
            self._methods[key] = method_of(self._studies[ask.study].study, ask)
        return self._methods[key]

    def _parameters(self, circle: Circle) -> Parameters:
        study = self._studies[circle.study].study
        rules, sites = study.protection, len(circle.sites)
        return derive(sites, rules.colluding, study.release.min_sites, hide=rules.hide, threat=rules.threat)

    def _leave(self, key: tuple[str, str, int]) -> None:
        if key in self._parties:
            self._parties.pop(key)[1].forget()

    def _refused(self, message: messages.Message, error: UnisonoError) -> UnisonoError:
        evidence = {"evidence": error.evidence} if error.evidence else {}
        ask: Ask | None = getattr(message, "ask", None)
        about = {} if ask is None else {"step": list(ask.key), "name": ask.contribution}
        event = "abstained" if isinstance(error, Abstention) else "refused"
        self.audit.write(
            self.clock(), event, phase=message.phase, rule=error.rule, what=error.what, **about, **evidence
        )
        return self._named(error)

    def _named(self, error: UnisonoError) -> UnisonoError:
        here = f"site {self.name}"
        where = here if error.where in (None, here) else f"{here}, {error.where}"
        return type(error)(error.what, rule=error.rule, remedy=error.remedy, where=where)


def _key(circle: Circle) -> tuple[str, str, int]:
    return circle.run, circle.analysis, circle.epoch


def _riding(make: Callable[[], R]) -> R | None:
    """What rides along with an answer never holds it up: if it cannot be made it is asked for by itself, and refused then."""
    try:
        return make()
    except (ProtocolError, SlotUnknown):
        return None
