"""A site's signed consent to one study: which document, with whom, which contributions how often, until when."""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from unisono.errors import PermitError
from unisono.federation.ask import Ask
from unisono.federation.contribution import Declaration
from unisono.methods.cohort import CohortFlow, CohortSpec
from unisono.methods.registry import build
from unisono.protection.secagg.roster import Identity, Roster
from unisono.study.document import Study

VALID_DAYS = 90


class Allowance(BaseModel):
    """One contribution that may be asked for in one analysis."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    analysis: str
    method: str
    version: int
    contribution: str
    at_most: int
    """Steps (a retry of a step is not another)."""


class Permit(BaseModel):
    """What the data steward signs. `argument_limits` tightens the methods' own limits, by argument name: an extreme
    coefficient vector isolates one patient. `roster` pins every peer's Ed25519 public key (hexadecimal)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    study_id: str
    site: str
    roster: dict[str, str]
    allowances: tuple[Allowance, ...]
    argument_limits: dict[str, float]
    may_leave: bool
    """True if the study may go on without a site that left, which discloses that site's aggregate."""
    expires: datetime
    signature: str = ""

    def body(self) -> bytes:
        """What is signed."""
        return json.dumps(self.model_dump(mode="json", exclude={"signature"}), sort_keys=True).encode()

    def signed(self, identity: Identity) -> Permit:
        """This permit with the site's signature."""
        return self.model_copy(update={"signature": identity.sign(self.body()).hex()})

    def signed_by(self, identity: Identity) -> bool:
        """True if the signature is this identity's, over exactly this permit."""
        return secrets.compare_digest(self.signature, identity.sign(self.body()).hex())  # Ed25519 is deterministic

    def check(self, ask: Ask, roster: Roster, now: datetime) -> Allowance:
        """The allowance that covers an ask; `PermitError` naming what is not covered."""
        if now >= self.expires:
            raise _not_covered(
                f"The permit for study {self.study_id!r} expired on {self.expires:%Y-%m-%d %H:%M}.",
                "permit-expired",
                "Ask the data steward to renew it.",
            )
        if ask.study != self.study:
            raise _not_covered(
                "The ask belongs to another study than the permit.",
                "permit-study",
                "Submit the study for approval as it is now.",
            )
        if dict(roster.to_tree()) != self.roster:
            raise _not_covered(
                "The list of sites or one of their keys is not the one that the permit pins.",
                "permit-roster",
                "A changed roster needs a new approval by every site.",
            )
        if self.site not in ask.sites or not set(ask.sites) <= set(self.roster):
            raise _not_covered(
                "The ask names sites outside the permit's roster.",
                "permit-roster",
                "A changed roster needs a new approval.",
            )
        if set(ask.sites) != set(self.roster) and not self.may_leave:
            raise _not_covered(
                f"The ask is over {len(ask.sites)} of the {len(self.roster)} sites of the permit; a sum without one site, beside "
                "the sum with it, would show that site's part.",
                "frozen-sites",
                "Wait for the missing site, or submit a study with `participation: {on_dropout: continue}`.",
            )
        if ask.operation == "tell":
            return Allowance(
                analysis=ask.analysis, method=ask.method, version=ask.version, contribution=ask.contribution, at_most=1
            )
        for allowance in self.allowances:
            named = (allowance.analysis, allowance.method, allowance.contribution)
            if named == (ask.analysis, ask.method, ask.contribution):
                if allowance.version != ask.version:
                    raise _not_covered(
                        f"The coordinator runs {ask.method!r} version {ask.version}, this site version {allowance.version}.",
                        "method-version",
                        "Install the same version of Unisono at both ends.",
                    )
                return allowance
        raise _not_covered(
            f"The permit does not allow {ask.method}.{ask.contribution} in {ask.analysis!r}.",
            "permit-contribution",
            "Only the contributions on the disclosure sheet may be asked for.",
        )

    def check_arguments(self, names: tuple[str, ...], arguments: list[Any], declaration: Declaration) -> None:
        """Shapes and sizes of the broadcast arguments, against the method's limits and the permit's."""
        for name, value in zip(names, arguments, strict=True):
            declared = declaration.arguments.get(name)
            if declared is None:
                raise _not_covered(
                    f"The argument {name!r} has no declared limit.",
                    "argument-limits",
                    "Declare it in the method's file.",
                )
            array = np.asarray(value, float)
            limit = min(declared.limit, self.argument_limits.get(name, declared.limit))
            if array.shape != declared.shape:
                raise _not_covered(
                    f"The argument {name!r} has shape {array.shape}, declared {declared.shape}.",
                    "argument-limits",
                    "Report it to the coordinator's operator.",
                )
            if not np.isfinite(array).all() or bool((np.abs(array) > limit).any()):
                raise _not_covered(
                    f"The argument {name!r} is not finite or beyond {limit:g} in absolute value: an extreme argument can isolate one patient.",
                    "argument-limits",
                    "If the fit diverges, look for separation or a far too wide declared range; otherwise report the coordinator.",
                )


def propose(study: Study, roster: Roster, site: str, now: datetime) -> Permit:
    """The permit that covers exactly what the study's methods plan to ask. Unsigned."""
    return Permit(
        study=study.digest(),
        study_id=study.id,
        site=site,
        roster=dict(roster.to_tree()),
        allowances=tuple(allowances(study)),
        argument_limits={},
        may_leave=study.participation.on_dropout == "continue",
        expires=now + timedelta(days=VALID_DAYS),
    )


def allowances(study: Study) -> list[Allowance]:
    """Every contribution of every analysis, the cohort step's included."""
    found = []
    for analysis in study.analyses:
        for method in (CohortFlow(study, analysis, CohortSpec()), build(study, analysis)):
            for planned in method.plan():
                found.append(
                    Allowance(
                        analysis=analysis,
                        method=method.name,
                        version=method.version,
                        contribution=planned.contribution.name,
                        at_most=planned.at_most,
                    )
                )
    return found


def _not_covered(what: str, rule: str, remedy: str) -> PermitError:
    return PermitError(what, rule=rule, remedy=remedy)
