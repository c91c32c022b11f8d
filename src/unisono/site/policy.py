"""A site's standing rules: what it requires of every study before anything leaves. Unknown means refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unisono.errors import PolicyRefusal
from unisono.federation.ask import Ask, Circle
from unisono.federation.contribution import Facts
from unisono.methods.registry import build
from unisono.protection.secagg.parameters import Threat
from unisono.study.document import Hide, Study

EXAMPLE = 1000
"""Patients: what kinds of leaves are planned does not depend on their number; a declaration wants one all the same."""
SECURE: frozenset[Hide] = frozenset({"secagg", "secagg+", "ckks", "paillier"})


class Policy(BaseModel):
    """The defaults are those of the field (docs/privacy.md); a hospital may tighten or loosen each.

    min_patients: own patients behind any contribution.
    min_sites: sites in a sum, own included.
    parameter_fraction: fitted parameters per own patient, at most.
    hide: accepted ways of hiding a sum.
    threat: what the coordinator is assumed to do at worst; ``malicious`` accepts only studies protected against that.
    suppress_own_cells: with ``hide: none``, cells of the site's own counts below `min_count` become 0 before they leave.
    min_released: patients in a released cell, at least: what a study's `release: min_count` must not go below.
    min_count: for that rule, and how many patients two cohorts asked the same question must differ by.
    splits: ways in which one file of data may be split into patients to fit on and patients to validate on, over all studies.
    trust: whose keys count toward `min_sites`: those that somebody here ``verified`` out of band, with the hospitals themselves;
        or all that the ``coordinator`` lists, who could then invent hospitals.
    updates_threat: the same for studies in which models are trained: a sum of updates may leave sites out, and a coordinator that
        lies about who is in could single one out (docs/secure-aggregation.md).
    operations: what a coordinator may ask. ``collect`` shows it this site's own part; `align` is not offered in this version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_patients: int = Field(default=10, ge=1)
    min_sites: int = Field(default=3, ge=1)
    parameter_fraction: float = Field(default=0.2, gt=0, le=1)
    hide: frozenset[Hide] = SECURE
    threat: Threat = "semi-honest"
    updates_threat: Threat = "malicious"
    suppress_own_cells: bool = True
    min_released: int = Field(default=10, ge=1)
    min_count: int = Field(default=10, ge=1)
    splits: int = Field(default=20, ge=1)
    trust: Literal["verified", "coordinator"] = "verified"
    operations: frozenset[Literal["sum", "mean", "tell", "collect"]] = frozenset({"sum", "mean", "tell"})
    methods: frozenset[str] | None = None
    """Methods that may run here; None allows every installed one."""

    def check_study(self, study: Study) -> None:
        """Before a permit is signed: protection and release of the whole study, and what each analysis asks. `PolicyRefusal` with
        rule and remedy."""
        for refusal in self.refusals(study):
            raise refusal
        for name in study.analyses:
            for refusal in self.refusals_of(study, name):
                raise refusal

    def refusals(self, study: Study) -> Iterator[PolicyRefusal]:
        """Why a study would be refused, whatever it asks."""
        if study.protection.hide not in self.hide:
            yield PolicyRefusal(
                f"The study hides its sums by {study.protection.hide!r}; this site accepts {', '.join(sorted(self.hide))}.",
                rule="least-protection",
                remedy="Set `protection: {hide: secagg}` in the study, or ask the site's data steward to change the policy.",
            )
        if self.threat == "malicious" and study.protection.threat != "malicious" and study.protection.hide != "none":
            yield PolicyRefusal(
                "The study trusts the coordinator to follow the protocol; this site's policy does not.",
                rule="least-protection",
                remedy="Set `protection: {threat: malicious}` in the study: it costs one more round trip a sum.",
            )
        if study.release.min_sites < self.min_sites and study.protection.hide != "none":
            yield PolicyRefusal(
                f"The study opens sums of {study.release.min_sites} sites; this site's policy asks for {self.min_sites}.",
                rule="min_sites",
                remedy=f"Set `release: {{min_sites: {self.min_sites}}}` in the study.",
            )
        if study.release.min_count < self.min_released:
            yield PolicyRefusal(
                f"The study releases cells of {study.release.min_count} patients; this site's policy asks for {self.min_released}.",
                rule="min_count",
                remedy=f"Set `release: {{min_count: {self.min_released}}}` in the study.",
            )

    def refusals_of(self, study: Study, analysis: str) -> Iterator[PolicyRefusal]:
        """Why an analysis would be refused: its method, and what it will ask by that method's own plan."""
        name = study.analyses[analysis].method
        if self.methods is not None and name not in self.methods:
            yield PolicyRefusal(
                f"Analysis {analysis!r} uses {name!r}; this site allows {', '.join(sorted(self.methods))}.",
                rule="allowed-methods",
                remedy="Use an allowed method, or ask the site's data steward to allow this one.",
            )
        method, rules = build(study, analysis), study.protection
        for planned in method.plan():
            if planned.operation == "collect" and "collect" not in self.operations:
                yield PolicyRefusal(
                    f"Analysis {analysis!r} ({method.name}) would show the coordinator this site's own part; this site allows sums only.",
                    rule="allowed-operations",
                    remedy="Use a method that sums (`hist-boosting` for trees), or ask the site's data steward to allow `collect`.",
                )
            leaves = planned.contribution.declaration(Facts(patients=EXAMPLE), *planned.arguments).leaves
            weak = rules.hide != "none" and rules.threat != "malicious" and self.updates_threat == "malicious"
            if weak and any(leaf.rule == "update" for leaf in leaves.values()):
                yield PolicyRefusal(
                    f"Analysis {analysis!r} trains a model: its sums may leave hospitals out, and a coordinator that lies about who is "
                    "in could single one out.",
                    rule="least-protection",
                    remedy="Set `protection: {threat: malicious}` in the study: it costs one more round trip a sum.",
                )

    def check_ask(self, ask: Ask) -> None:
        """Before anything is computed: the operation, the protection, the number of sites."""
        if ask.operation not in self.operations:
            raise PolicyRefusal(
                f"This site does not answer {ask.operation!r}: it would show its own part.",
                rule="allowed-operations",
                remedy=f"Use one of: {', '.join(sorted(self.operations))}.",
            )
        self.check_among(ask, tell=ask.operation == "tell")

    def check_among(self, ask: Ask | Circle, *, tell: bool = False) -> None:
        """The protection, and the number of sites."""
        if ask.hide not in self.hide:
            raise PolicyRefusal(
                f"The ask hides its sum by {ask.hide!r}; this site accepts {', '.join(sorted(self.hide))}.",
                rule="least-protection",
                remedy="Set `protection: {hide: secagg}` in the study.",
            )
        if not tell and ask.hide != "none" and len(ask.sites) < self.min_sites:
            raise PolicyRefusal(
                f"The sum would hold {len(ask.sites)} sites; this site's policy asks for {self.min_sites}.",
                rule="min_sites",
                remedy="Invite more sites.",
            )


def simulation_policy() -> Policy:
    """For sites that all live in one process (`unisono run`, demo, tests): the person who runs it holds every hospital's
    data already, so an unprotected study may be compared with a protected one, and that process is the coordinator too: there is
    nobody else to verify. Never a policy for a hospital."""
    return Policy(
        hide=frozenset({*SECURE, "none"}),
        suppress_own_cells=False,
        min_released=1,
        trust="coordinator",
        updates_threat="semi-honest",
        operations=frozenset({"sum", "mean", "tell", "collect"}),
    )
