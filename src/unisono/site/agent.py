"""The agent's half of a site: it answers an ask by permit -> policy -> data -> contribution -> disclosure -> protection.

Keys, policy, disclosure, encoding and masks are here; data and method code are the worker's. The same code answers under
every exchange. Every refusal says its rule and its remedy, is written to the audit log, and nothing leaves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DataError, PermitError, ProtocolError, UnisonoError
from unisono.federation import exchange as messages
from unisono.federation.ask import WEIGHT, Ask, leaves_for
from unisono.federation.tree import pack, unpack
from unisono.methods.base import Method
from unisono.protection import disclosure
from unisono.protection.encoding import exact
from unisono.protection.leaves import Leaf
from unisono.protection.secagg.messages import MaskedInput, SealedInbox, UnmaskShares
from unisono.protection.secagg.parameters import Parameters, threshold
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.secagg.site import SiteSession
from unisono.site import gate, near_twins
from unisono.site.audit import AuditLog
from unisono.site.gate import Admitted
from unisono.site.permit import Permit
from unisono.site.policy import Policy
from unisono.site.sheets import keep_sheet
from unisono.site.state import SiteState
from unisono.site.worker import CohortView, Worker, method_of
from unisono.study.document import Study

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The site's clock."""
    return datetime.now(UTC)


class Site:
    """One hospital. `home` is its own folder: state, audit log, sheets."""

    def __init__(self, name: str, home: Path, identity: Identity, policy: Policy, *, clock: Clock = utc_now) -> None:
        self.name = name
        self.home = home
        self.identity = identity
        self.policy = policy
        self.clock = clock
        self.state = SiteState(home / "state.db")
        self.audit = AuditLog(home / "audit.jsonl")
        self._studies: dict[str, Admitted] = {}
        self._methods: dict[tuple[str, str, str], Method[Any]] = {}
        self._slots: dict[
            tuple[str, str], tuple[Ask, SiteSession]
        ] = {}  # by run and slot: a slot's name is a run's own
        self._compared: set[tuple[object, ...]] = set()
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
        """Stop a study at once: nothing more is answered, keys sent ahead are forgotten."""
        with self._lock:
            self._studies.pop(study, None)
            for slot in [s for s, (ask, _) in self._slots.items() if ask.study == study]:
                self._forget(slot)
            self.audit.write(self.clock(), "withdrawn", study=study)

    def close(self) -> None:
        """Leave: an answer that is being made is finished, key material is forgotten, files are closed."""
        with self._lock:
            for slot in list(self._slots):
                self._forget(slot)
            self.state.close()

    def check_data(self, run: str, study: str) -> None:
        """`DataError` if a run was begun here on other data than is there now."""
        self._frozen_data(run, self._admitted(study).worker)

    # -- answering ----------------------------------------------------------------------------------------------------

    def answer(self, message: messages.Message) -> object:
        """The reply to one message; a refusal is raised, with its rule and remedy, and is in the audit log."""
        with self._lock:
            try:
                return self._answer(message)
            except UnisonoError as error:
                raise self._refused(message, error) from error
            except messages.LinkLost:
                raise
            except Exception as error:  # a fault of ours or of a method's: it must not show data, nor go unlogged
                fault = ProtocolError(
                    f"The message {message.phase!r} could not be answered ({type(error).__name__}).",
                    rule="site-fault",
                    remedy="Nothing left the site. Report it, with the versions of Unisono at both ends.",
                )
                raise self._refused(message, fault) from error

    def _answer(self, message: messages.Message) -> object:
        match message:
            case messages.Advertise(ask=ask):
                return self._advertise(ask)
            case messages.Share(slot=slot, keys=keys):
                return self._slot(keys.run, slot)[1].share(keys)
            case messages.Mask(slot=slot, inbox=inbox):
                return self._mask(*self._slot(inbox.run, slot), inbox)
            case messages.Reveal():
                return self._reveal(message)
            case messages.Plain(ask=ask):
                return self._plain(ask)
            case messages.Tell(ask=ask):
                self._told(ask)
            case messages.Close(key=key):
                self._closed(key)
        return None

    def _advertise(self, ask: Ask) -> object:
        admitted = self._covered(ask, masked=True)
        if (ask.run, ask.slot) in self._slots:
            raise gate.protocol(
                f"The slot {ask.slot!r} was already opened.", "one-vector-per-slot", "A new attempt takes a new slot."
            )
        for slot in [s for s, (other, _) in self._slots.items() if other.key == ask.key]:
            self._forget(slot)  # an attempt that was given up
        parameters = self._parameters(ask)
        session = SiteSession(self.name, self.identity, admitted.roster, parameters, ask.run, ask.slot, sites=ask.sites)
        self._slots[ask.run, ask.slot] = (ask, session)
        return session.advertise()

    def _mask(self, ask: Ask, session: SiteSession, inbox: SealedInbox) -> MaskedInput:
        vector = self._vector(ask)
        self.audit.write(self.clock(), "answered", step=list(ask.key), name=ask.contribution, bytes=vector.nbytes)
        return session.mask(vector, ask.digest, inbox)

    def _reveal(self, message: messages.Reveal) -> UnmaskShares:
        """Shares for one set of survivors of a step, ever: written down before they go out, and then repeated."""
        step = self.state.step(message.key)
        survivors = tuple(sorted(message.unmask.survivors))
        if step is None:
            raise gate.protocol("There is no such step to unmask.", "unknown-step", "Ask for the step first.")
        self._admitted(step.study)
        if step.closed or step.survivors not in (None, survivors):
            raise gate.another_opening(message.key)
        if step.answer is not None and step.slot == message.slot:
            return UnmaskShares.from_tree(unpack(step.answer))
        # If it was restarted since: a slot's secrets are in memory only, so this site counts as dropped for that attempt.
        ask, session = self._slot(message.key[0], message.slot, "unmask")
        if ask.key != message.key:
            raise gate.protocol(
                "The slot to unmask belongs to another step.", "other-slot", "Name the slot of the step's attempt."
            )
        if step.survivors is not None and survivors != ask.sites:
            raise gate.another_opening(message.key)
        answer = session.unmask(message.unmask)
        self.state.remember_answer(ask.key, ask.slot, survivors, pack(answer.to_tree()))
        return answer

    def _plain(self, ask: Ask) -> exact.Words:
        self._covered(ask, masked=False)
        vector = self._vector(ask)
        self.audit.write(self.clock(), "answered", step=list(ask.key), name=ask.contribution, bytes=vector.nbytes)
        return vector

    def _told(self, ask: Ask) -> None:
        admitted = self._admitted(ask.study)
        gate.permitted(ask, admitted, self.policy, self.clock(), ("tell",))
        gate.is_receipt(self._method(ask), ask)
        sheet = admitted.worker.receipt(ask)
        keep_sheet(self.home, ask, sheet)
        self.audit.write(self.clock(), "told", step=list(ask.key), name=ask.contribution)

    def _closed(self, key: tuple[str, str, int, int]) -> None:
        self.state.close_step(key)
        for slot in [s for s, (ask, _) in self._slots.items() if ask.key == key]:
            self._forget(slot)

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
        gate.covered(ask, admitted, self.policy, self.clock(), self.state, self._method, masked=masked)
        return admitted

    def _vector(self, ask: Ask) -> exact.Words:
        """The encoded contribution: the stored one if this step was answered before, else computed, checked and stored."""
        step = self.state.step(ask.key)
        if step is not None and step.vector is not None:
            return step.vector
        if step is not None:
            raise gate.another_opening(ask.key)
        admitted = self._admitted(ask.study)
        self._frozen_data(ask.run, admitted.worker)
        cohort = admitted.worker.cohort(ask)
        disclosure.enough_patients(cohort.n, self.policy.min_patients)
        method = self._method(ask)
        disclosure.enough_for_parameters(cohort.n, method.parameters, self.policy.parameter_fraction)
        fit = (ask.run, ask.study, ask.analysis, ask.method, ask.sites)
        if fit not in self._compared:  # the data is frozen: once a fit is enough
            may_leave = admitted.permit.may_leave
            near_twins.check(self.state, ask, method, cohort.rows, self.policy, may_leave=may_leave)
        tree, leaves = self._part(ask, admitted.worker, cohort)
        vector = exact.encode(tree, leaves)
        if fit not in self._compared:
            near_twins.remember(self.state, ask, method, cohort.rows)
            self._compared.add(fit)
        self.state.remember_vector(ask, vector)
        return vector

    def _part(self, ask: Ask, worker: Worker, cohort: CohortView) -> tuple[dict[str, NDArray[Any]], dict[str, Leaf]]:
        """The worker's arrays, weighted for a mean, and their leaves; small own cells suppressed where nothing hides them."""
        declaration = gate.declaration_of(gate.contribution_of(self._method(ask), ask), ask)
        leaves = leaves_for(ask.operation, declaration, ask.facts)
        tree = worker.contribution(ask)
        if set(tree) != set(declaration.leaves):
            raise DataError(
                f"{ask.method}.{ask.contribution} gave leaves {sorted(tree)}, declared {sorted(declaration.leaves)}.",
                rule="typed-leaves",
                remedy="This is a fault of the method; report it to its author.",
            )
        if ask.operation == "mean":
            tree = {name: np.asarray(value, float) * cohort.n for name, value in tree.items()} | {
                WEIGHT: np.asarray(cohort.n)
            }
        if ask.hide == "none" and self.policy.suppress_own_cells:
            tree = {
                name: disclosure.suppress_small(value, self.policy.min_count)[0] if leaves[name].integer else value
                for name, value in tree.items()
            }
        return tree, leaves

    def _frozen_data(self, run: str, worker: Worker) -> None:
        now = worker.digest()
        if self.state.snapshot_of(run, now) != now:
            raise DataError(
                "The data is not the one that this run was begun on.",
                rule="frozen-data",
                remedy="Put the data back as it was and run again, or begin anew with --fresh.",
                where=f"site {self.name}",
            )

    # -- small things -------------------------------------------------------------------------------------------------

    def _method(self, ask: Ask) -> Method[Any]:
        key = (ask.study, ask.analysis, ask.method)
        if key not in self._methods:
            self._methods[key] = method_of(self._studies[ask.study].study, ask)
        return self._methods[key]

    def _parameters(self, ask: Ask) -> Parameters:
        study = self._studies[ask.study].study
        return threshold(len(ask.sites), study.protection.colluding, study.release.min_sites)

    def _slot(self, run: str, slot: str, phase: messages.Phase = "share") -> tuple[Ask, SiteSession]:
        if (run, slot) not in self._slots:
            # Restarted since the keys were advertised: the attempt is lost with them, and the coordinator tries again.
            raise messages.LinkLost(self.name, phase)
        return self._slots[run, slot]

    def _forget(self, slot: tuple[str, str]) -> None:
        _, session = self._slots.pop(slot)
        session.forget()

    def _refused(self, message: messages.Message, error: UnisonoError) -> UnisonoError:
        self.audit.write(self.clock(), "refused", phase=message.phase, rule=error.rule, what=error.what)
        return self._named(error)

    def _named(self, error: UnisonoError) -> UnisonoError:
        here = f"site {self.name}"
        where = here if error.where in (None, here) else f"{here}, {error.where}"
        return type(error)(error.what, rule=error.rule, remedy=error.remedy, where=where)
