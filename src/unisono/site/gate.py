"""What is checked of an ask before any data is touched: its form, the permit, the policy, the limits, the set of sites.

Pure but for what the site remembers (`SiteState`). Every check that fails raises an error with its rule and its remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from unisono.errors import PermitError, ProtocolError, UnisonoError
from unisono.federation.ask import Ask, Circle, leaves_for
from unisono.federation.contribution import BoundContribution, Contribution, Declaration, Receipt
from unisono.methods.base import Method
from unisono.methods.registry import find, packages_for
from unisono.protection.encoding.codec import encoding_of
from unisono.protection.secagg.party import check_retry
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.counted import counted
from unisono.site.permit import Allowance, Permit, check_facts
from unisono.site.policy import Policy
from unisono.site.state import SiteState
from unisono.site.worker import Worker
from unisono.study.document import Study


@dataclass(frozen=True)
class Admitted:
    """A study that this site has a permit for, with the worker that holds its data."""

    study: Study
    permit: Permit
    roster: Roster
    worker: Worker


def consent(study: Study, permit: Permit, roster: Roster, site: str, identity: Identity) -> None:
    """`PermitError` unless the permit is this site's own, for exactly this document, these sites and the methods as they are
    installed; `StudyError` if one is not installed any more."""
    if permit.site != site or not permit.signed_by(identity):
        raise PermitError(
            f"The permit for study {permit.study_id!r} is not signed by this site, or was altered.",
            rule="permit-signature",
            remedy="Remove it and approve the study again.",
        )
    if permit.study != study.digest():
        raise PermitError(
            f"The permit for study {permit.study_id!r} is for another document than this one.",
            rule="permit-study",
            remedy="Submit the study for approval as it is now.",
        )
    if permit.roster != roster.to_tree():
        raise PermitError(
            "The list of sites or one of their keys is not the one that the permit pins.",
            rule="permit-roster",
            remedy="A changed roster needs a new approval by every site.",
        )
    _same_versions(permit)
    _same_packages(study, permit)


def _same_versions(permit: Permit) -> None:
    """An approval is of the methods as they were: a site that was upgraded since would answer with others."""
    for allowance in permit.allowances:
        here = find(allowance.method).version
        if here != allowance.version:
            raise PermitError(
                f"{permit.site} approved {allowance.method!r} version {allowance.version} for study {permit.study_id!r}, and has "
                f"version {here} now.",
                rule="method-version",
                remedy="Install the version that was approved; or withdraw the study, and let the researcher submit it again.",
            )


def _same_packages(study: Study, permit: Permit) -> None:
    """An approval is of the packages as they were installed, to the last byte."""
    approved = {package.name: package for package in permit.packages}
    here = packages_for(study)
    for name in sorted({*approved, *here}):
        before, now = approved.get(name), here.get(name)
        if before != now:
            raise PermitError(
                f"{permit.site} approved study {permit.study_id!r} {'with' if before else 'without'} the package {name!r}"
                f"{' ' + before.said() if before else ''}, and has {now.said() if now else 'none'} now.",
                rule="package-version",
                remedy="Install the package that was approved (`unisono site install`, then start the agent anew); or withdraw the "
                "study, and let the researcher submit it again.",
            )


def among(circle: Circle, admitted: Admitted, policy: Policy, now: datetime, state: SiteState) -> None:
    """Before keys are made for sums among some sites, when no question is known yet."""
    _typed(circle)
    policy.check_among(circle)
    if circle.analysis not in admitted.study.analyses or circle.hide == "none":
        raise protocol(
            f"There is no masked sum in {circle.analysis!r} of this study.",
            "study-protection",
            "A study is answered under the protection that was approved. Report the coordinator.",
        )
    _same_hiding(circle, admitted)
    admitted.permit.check_among(circle, admitted.roster, now)
    verified(circle.sites, admitted, policy)
    _runs(circle, admitted.permit, state)
    _one_set_of_sites(circle, state)


def verified(sites: Collection[str], admitted: Admitted, policy: Policy) -> None:
    """`PermitError` unless enough of the sites of a sum, or of its survivors, are ones that the permit says were verified."""
    permit = admitted.permit
    counted(sites, permit.site, permit.verified, admitted.study, policy).check(permit.study_id)


def permitted(ask: Ask, admitted: Admitted, policy: Policy, now: datetime, operations: tuple[str, ...]) -> Allowance:
    """Permit and policy; and the operation is one that this kind of message may carry."""
    _typed(ask)
    policy.check_ask(ask)
    if ask.operation not in operations:
        raise protocol(
            f"A message that carries {' or '.join(operations)} asked for {ask.operation!r}.",
            "message-operation",
            "Each operation has its own messages, with their own checks. Report the coordinator.",
        )
    _same_hiding(ask, admitted)
    return admitted.permit.check(ask, admitted.roster, now)


def _typed(ask: Ask | Circle) -> None:
    try:
        ask.check_types()
    except ValueError as error:
        raise protocol(
            f"The ask is malformed: {error}.", "ask-format", "Install the same version of Unisono at both ends."
        ) from error


def _same_hiding(ask: Ask | Circle, admitted: Admitted) -> None:
    hide = admitted.study.protection.hide
    if ask.hide != hide:
        raise protocol(
            f"The study hides its sums by {hide!r}, the ask by {ask.hide!r}.",
            "study-protection",
            "A study is answered under the protection that was approved. Report the coordinator.",
        )


def covered(
    ask: Ask,
    admitted: Admitted,
    policy: Policy,
    now: datetime,
    state: SiteState,
    method_of: Callable[[Ask], Method[Any]],
    *,
    masked: bool,
) -> None:
    """Everything about a sum or a mean. masked: the message that asks is one of secure aggregation's."""
    allowance = permitted(ask, admitted, policy, now, ("sum", "mean"))
    if masked == (ask.hide == "none") or (ask.to and not masked):
        raise protocol(
            f"A sum hidden by {ask.hide!r} was asked for by the wrong message.",
            "study-protection",
            "What the study hides is never given in the clear. Report the coordinator.",
        )
    verified(ask.sites, admitted, policy)
    _encoded(ask, _limited(ask, admitted, allowance, state, method_of(ask)))
    if ask.to:
        is_receipt(method_of(ask), replace(ask, contribution=ask.receipt))
    _one_set_of_sites(ask, state)
    check_retry(state.step(ask.key), ask)


def collectable(
    ask: Ask,
    admitted: Admitted,
    policy: Policy,
    now: datetime,
    state: SiteState,
    method_of: Callable[[Ask], Method[Any]],
) -> None:
    """Everything about a part that the coordinator is to see: allowed by policy and permit by name."""
    allowance = permitted(ask, admitted, policy, now, ("collect",))
    if allowance.operation != "collect" or ask.to:
        raise protocol(
            f"{ask.method}.{ask.contribution} was approved as a part of sums alone.",
            "allowed-operations",
            "Each operation has its own approval. Report the coordinator.",
        )
    verified(ask.sites, admitted, policy)
    _limited(ask, admitted, allowance, state, method_of(ask))
    _one_set_of_sites(ask, state)
    check_retry(state.step(ask.key), ask)


def _limited(ask: Ask, admitted: Admitted, allowance: Allowance, state: SiteState, method: Method[Any]) -> Declaration:
    """How often, and at which arguments; what is declared there."""
    _often(ask, admitted.permit, allowance, state)
    check_facts(admitted.study, ask.facts)
    bound = contribution_of(method, ask)
    declaration = declaration_of(bound, ask)
    admitted.permit.check_arguments(bound.contribution.parameters, ask.arguments, declaration)
    return declaration


def _encoded(ask: Ask, declaration: Declaration) -> None:
    """Statistics are encoded exactly and are over one frozen set; only model updates may be summed over fewer sites."""
    encoding = encoding_of(leaves_for(ask.operation, declaration, ask.facts))
    if ask.encoding != encoding or (ask.partial and encoding != "fixed32"):
        raise protocol(
            f"{ask.method}.{ask.contribution} is summed in the encoding {encoding!r}, over "
            f"{'any' if encoding == 'fixed32' else 'all'} of its sites; the ask says otherwise.",
            "encoding",
            "Coordinator and site run different versions of the method, or the coordinator wants a sum it may not have.",
        )


def contribution_of(method: Method[Any], ask: Ask) -> BoundContribution[..., Any]:
    """The contribution that an ask names: one of the method's own, and nothing else that its class may hold."""
    if not isinstance(getattr(type(method), ask.contribution, None), Contribution):
        raise _no_such(ask)
    bound: BoundContribution[..., Any] = getattr(method, ask.contribution)
    return bound


def is_receipt(method: Method[Any], ask: Ask) -> None:
    """`ProtocolError` unless a `tell` names one of the method's receipts."""
    if not isinstance(getattr(type(method), ask.contribution, None), Receipt):
        raise _no_such(ask)


def declaration_of(bound: BoundContribution[..., Any], ask: Ask) -> Declaration:
    """What the method declares at the ask's arguments, whatever they are: they come from outside."""
    try:
        if len(ask.arguments) != len(bound.contribution.parameters):
            raise ValueError("the number of arguments")
        with np.errstate(all="ignore"):
            return bound.declaration(ask.facts, *ask.arguments)
    except UnisonoError:
        raise
    except Exception as error:  # a method may be anybody's package, and the arguments anything
        raise PermitError(
            f"The arguments of {ask.method}.{ask.contribution} do not fit what it declares.",
            rule="argument-limits",
            remedy="Coordinator and site run different versions of the method; or report the coordinator.",
        ) from error


def protocol(what: str, rule: str, remedy: str) -> ProtocolError:
    """A message that no honest coordinator sends."""
    return ProtocolError(what, rule=rule, remedy=remedy)


def other_circle(first: Circle, second: Circle) -> ProtocolError:
    """Keys were made among some sites, and are now wanted among others."""
    return protocol(
        f"Keys were made for sums over {', '.join(first.sites)}; this is about {', '.join(second.sites)}.",
        "frozen-sites",
        "The set of sites is fixed before keys are made. Report the coordinator.",
    )


def _often(ask: Ask, permit: Permit, allowance: Allowance, state: SiteState) -> None:
    """How many steps, and how many beginnings."""
    name = f"{ask.method}.{ask.contribution}"
    answered = state.steps_answered(ask.run, ask.analysis, ask.epoch, name, but=ask.step)
    if answered >= allowance.at_most:
        raise PermitError(
            f"{name} was answered {answered} times; the permit allows {allowance.at_most}.",
            rule="permit-steps",
            remedy="A fit that needs more steps needs a study that says so, and a new approval.",
        )
    _runs(ask, permit, state)


def _runs(ask: Ask | Circle, permit: Permit, state: SiteState) -> None:
    """How many beginnings: each could ask for as many steps again, and draws another graph."""
    if state.other_runs(ask.study, ask.analysis, ask.run) >= permit.runs:
        raise PermitError(
            f"{ask.analysis!r} was begun {permit.runs} times; the permit allows no more.",
            rule="permit-runs",
            remedy="Go on with a run that was begun, or ask the data steward for a new permit.",
        )


def _one_set_of_sites(ask: Ask | Circle, state: SiteState) -> None:
    """A fit is over one frozen set; if it was begun anew (`on_dropout: continue`), over fewer, and never back again."""
    for epoch, sites in state.epochs(ask.run, ask.analysis).items():
        fewer = set(ask.sites) < set(sites)
        if (epoch == ask.epoch and sites != ask.sites) or epoch > ask.epoch or (epoch < ask.epoch and not fewer):
            raise protocol(
                f"The fit was begun over {', '.join(sites)}; this ask is over {', '.join(ask.sites)}.",
                "frozen-sites",
                "A fit is over one set of sites: wait for the missing one, or begin it anew under `on_dropout: continue`.",
            )


def _no_such(ask: Ask) -> ProtocolError:
    return protocol(
        f"{ask.method!r} has nothing called {ask.contribution!r} that {ask.operation!r} could ask for.",
        "message-operation",
        "Coordinator and site run different versions of the method; install the same one.",
    )
