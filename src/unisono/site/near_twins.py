"""Protection against differencing: the same question on nearly the same patients, or over nearly the same sites, is refused.

Two sums that differ by a few patients, or by a hospital, show those few. A site therefore remembers, across all studies, on
which patients (as keyed hashes of the variables that the method reads) and with which sites it answered a method.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DisclosureRefusal
from unisono.federation.ask import Ask
from unisono.methods.base import Method
from unisono.methods.cohort import CohortFlow
from unisono.site.policy import Policy
from unisono.site.state import SiteState
from unisono.site.worker import CohortView

Hashes = NDArray[np.uint64]

_HELD_OUT = "held out"
"""Stands where a method's name does, and the data's digest where its variables do."""


def check(
    state: SiteState, ask: Ask, method: Method[Any], rows: Hashes, policy: Policy, *, may_leave: bool = False
) -> None:
    """`DisclosureRefusal` if an earlier answer is a near-twin of this ask. Identical cohorts and rosters are no twins.

    may_leave: the permit allows the study to go on without a site that left, which shows that site's aggregate.
    """
    for earlier in state.cohorts(method.kin or ask.method, _variables(method)):
        patients = differing(earlier.rows, rows)
        if 0 < patients < policy.min_count:
            raise DisclosureRefusal(
                f"{ask.method!r} over the same variables was answered before (analysis {earlier.analysis!r}) on a cohort that "
                f"differs from this one by fewer than {policy.min_count} patients.",
                rule="near-twin",
                remedy="Ask on the same cohort again, or on one that differs by more: the difference of two answers would show those few patients.",
            )
        before, now = set(earlier.sites), set(ask.sites)
        same = (earlier.study, earlier.analysis) == (ask.study, ask.analysis)
        if may_leave and same and (before <= now or now <= before):
            continue  # sites may leave one after the other, but not in turns: that would show every one of them
        if patients == 0 and 0 < len(before ^ now) < policy.min_sites:
            raise DisclosureRefusal(
                f"{ask.method!r} over the same variables and patients was answered before with sites that differ by "
                f"{', '.join(sorted(before ^ now))}.",
                rule="near-twin",
                remedy=f"Ask over the same sites again: a difference of fewer than {policy.min_sites} sites would show their part.",
            )


def remember(state: SiteState, ask: Ask, method: Method[Any], rows: Hashes) -> None:
    """Write down the patients and sites of an answer, once an analysis."""
    state.remember_cohort(ask, method.kin or ask.method, _variables(method), rows)


def check_split(state: SiteState, method: Method[Any], view: CohortView, policy: Policy) -> None:
    """`DisclosureRefusal` for a split of the cohort that differs by a few patients from an earlier one of the same data, whatever
    the study, the method and its variables were; and for too many splits, from which patients could be worked out as from
    equations. Whoever fits on all patients has an empty one, which counts within its kin."""
    if view.held_out is None:
        return
    earlier = state.cohorts(_HELD_OUT, view.source) if view.held_out.size else []
    earlier += state.cohorts(f"{_HELD_OUT} {method.kin}", view.source)
    for before in earlier:
        patients = differing(before.rows, view.held_out)
        if 0 < patients < policy.min_count:
            raise DisclosureRefusal(
                f"Analysis {before.analysis!r} held other patients out of the same data; the two choices differ by fewer than "
                f"{policy.min_count} patients.",
                rule="near-twin",
                remedy="Use the same `seed` and the same fraction in all analyses: the difference of two answers would show those few.",
            )
    known = {one.rows.tobytes() for one in earlier}
    if len(known | {view.held_out.tobytes()}) > policy.splits:
        raise DisclosureRefusal(
            f"The same data would be split in more than {policy.splits} ways.",
            rule="splits",
            remedy="Use the `seed` and the fraction of an earlier study: many answers over different choices of patients are equations.",
        )


def remember_split(state: SiteState, ask: Ask, method: Method[Any], view: CohortView) -> None:
    """Write down which patients were held out."""
    if view.held_out is not None:
        for name in (_HELD_OUT, f"{_HELD_OUT} {method.kin}"):
            state.remember_cohort(ask, name, view.source, view.held_out)


def differing(one: Hashes, other: Hashes) -> int:
    """How many patients are in one cohort and not in the other; (n,) and (m,) sorted hashes. Patients who are alike in
    every variable are counted each: one of two twins who is left out makes a difference of one."""
    if np.array_equal(one, other):
        return 0
    _, place = np.unique(np.concatenate([one, other]), return_inverse=True)
    surplus = np.bincount(place[: len(one)], minlength=place.max() + 1) - np.bincount(
        place[len(one) :], minlength=place.max() + 1
    )
    return int(np.abs(surplus).sum())


def _variables(method: Method[Any]) -> str:
    """Of the cohort step, those of the analysis it opens: an inclusion rule over one more variable is no other question.
    Table 1 describes those with missing values too, which the step says in any case: not compared with a model's cohort."""
    if isinstance(method, CohortFlow):
        return " ".join([f"{method.target.rows}:", *sorted(method.asked)])
    return " ".join(sorted(method.variables()))
