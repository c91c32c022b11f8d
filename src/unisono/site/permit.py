"""A site's signed consent to one study: which document, with whom, which contributions how often, until when."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from unisono.errors import PermitError
from unisono.federation.ask import Ask, Circle
from unisono.federation.contribution import Declaration, Facts
from unisono.methods.cohort import CohortFlow, CohortSpec
from unisono.methods.packages import Package
from unisono.methods.registry import build, packages_for
from unisono.protection.secagg.roster import Identity, Roster
from unisono.study.document import BooleanVariable, ImageVariable, NumberVariable, Study, Variable

VALID_DAYS = 90
RUNS = 10
"""How often an analysis may be begun anew: each beginning could ask for as many steps again."""
MOST_PATIENTS = 2**40


class Allowance(BaseModel):
    """One contribution that may be asked for in one analysis."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    analysis: str
    method: str
    version: int
    contribution: str
    at_most: int
    """Steps (a retry of a step is not another)."""
    operation: Literal["sum", "collect"] = "sum"
    """``collect``: the coordinator sees this site's own part. ``sum``: a sum or a mean."""

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _said(write(self), operation="sum")


class Permit(BaseModel):
    """What the data steward signs. `argument_limits` tightens the methods' own limits, by argument name: an extreme
    coefficient vector isolates one patient. `roster` pins every peer's Ed25519 public key (hexadecimal); `verified` names the
    peers whose key somebody at this site had verified out of band when it was signed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    study_id: str
    site: str
    roster: dict[str, str]
    verified: tuple[str, ...]
    allowances: tuple[Allowance, ...]
    argument_limits: dict[str, float]
    may_leave: bool
    """True if the study may go on without a site that left, which discloses that site's aggregate."""
    runs: int = RUNS
    packages: tuple[Package, ...] = ()
    """That the study's methods and models come from, as they were installed here when it was signed."""
    expires: datetime
    signature: str = ""

    def body(self) -> bytes:
        """What is signed."""
        return json.dumps(self.model_dump(mode="json", exclude={"signature"}), sort_keys=True).encode()

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _said(write(self), packages=[])

    def signed(self, identity: Identity) -> Permit:
        """This permit with the site's signature."""
        return self.model_copy(update={"signature": identity.sign(self.body()).hex()})

    def signed_by(self, identity: Identity) -> bool:
        """True if the signature is this identity's, over exactly this permit."""
        return secrets.compare_digest(self.signature, identity.sign(self.body()).hex())  # Ed25519 is deterministic

    def check_among(self, ask: Ask | Circle, roster: Roster, now: datetime) -> None:
        """`PermitError` unless the permit holds now, for this study, among these sites."""
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

    def check(self, ask: Ask, roster: Roster, now: datetime) -> Allowance:
        """The allowance that covers an ask (for a `tell`: one of its method); `PermitError` naming what is not covered."""
        self.check_among(ask, roster, now)
        for allowance in self.allowances:
            # A `tell` is covered with its method: what the site makes of it stays at the site.
            asked = (ask.contribution, "collect" if ask.operation == "collect" else "sum")
            same = ask.operation == "tell" or (allowance.contribution, allowance.operation) == asked
            if same and (allowance.analysis, allowance.method) == (ask.analysis, ask.method):
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
            array = np.asarray(value)
            if isinstance(value, list | dict | str) or array.dtype.kind not in "fiu":
                raise _not_covered(
                    f"The argument {name!r} is not a number or an array of numbers.",
                    "argument-limits",
                    "Report it to the coordinator's operator.",
                )
            limit = min(declared.limit, self.argument_limits.get(name, declared.limit))
            if array.shape != declared.shape:
                raise _not_covered(
                    f"The argument {name!r} has shape {array.shape}, declared {declared.shape}.",
                    "argument-limits",
                    "Report it to the coordinator's operator.",
                )
            if array.size and not (float(array.min()) >= -limit and float(array.max()) <= limit):  # false for NaN
                raise _not_covered(
                    f"The argument {name!r} is not finite or beyond {limit:g} in absolute value: an extreme argument can isolate one patient.",
                    "argument-limits",
                    "If the fit diverges, look for separation or a far too wide declared range; otherwise report the coordinator.",
                )


def check_facts(study: Study, facts: Facts) -> None:
    """What the coordinator says of the cohort is an argument too: a value that fills gaps, far outside its variable's
    bounds, would isolate the patients who have the gap. `PermitError` unless it could have been opened in this study."""
    for name, value in facts.imputed.items():
        variable = study.variables.get(name)
        filled = variable is not None and study.cohort.missing_rule(name) != "complete-cases"
        low, high = (0.0, -1.0) if variable is None or not filled else _range(variable)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _not_covered(
                f"The value that is to fill the gaps of {name!r} is outside its declared bounds, or the study does not fill them.",
                "argument-limits",
                "Report it to the coordinator's operator.",
            )
    if not 0 <= facts.patients <= MOST_PATIENTS:
        raise _not_covered(
            "The number of patients in the ask cannot be one.",
            "argument-limits",
            "Report it to the coordinator's operator.",
        )


def _range(variable: Variable) -> tuple[float, float]:
    if isinstance(variable, NumberVariable):
        return variable.min, variable.max
    if isinstance(variable, ImageVariable):
        return 0.0, -1.0  # nothing fills a gap where a picture is missing
    return 0.0, 1.0 if isinstance(variable, BooleanVariable) else len(variable.levels) - 1.0


def propose(study: Study, roster: Roster, site: str, now: datetime, verified: Collection[str] = ()) -> Permit:
    """The permit that covers exactly what the study's methods plan to ask. Unsigned. verified: sites whose keys, as they are in
    the roster, this site has verified out of band."""
    return Permit(
        study=study.digest(),
        study_id=study.id,
        site=site,
        roster=dict(roster.to_tree()),
        verified=tuple(name for name in roster.sites if name in verified and name != site),
        allowances=tuple(allowances(study)),
        argument_limits={},
        may_leave=study.participation.on_dropout == "continue",
        packages=tuple(packages_for(study).values()),
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
                        operation=planned.operation,
                    )
                )
    return found


def _said(document: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """What later versions added to a permit counts only where it is said, so that what was signed before stays signed."""
    return {key: value for key, value in document.items() if key not in defaults or value not in (defaults[key], ())}


def _not_covered(what: str, rule: str, remedy: str) -> PermitError:
    return PermitError(what, rule=rule, remedy=remedy)
