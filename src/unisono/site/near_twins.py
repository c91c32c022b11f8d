"""Protection against differencing: the same question on nearly the same patients, or over nearly the same sites, is refused.

Two sums that differ by a few patients, or by a hospital, show those few. A site therefore remembers, across all studies, on
which patients (as keyed hashes) and with which sites it answered a method over a set of variables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DisclosureRefusal
from unisono.federation.ask import Ask
from unisono.methods.base import Method
from unisono.site.policy import Policy
from unisono.site.state import SiteState


def check(state: SiteState, ask: Ask, method: Method[Any], rows: NDArray[np.uint64], policy: Policy) -> None:
    """`DisclosureRefusal` if an earlier answer is a near-twin of this ask. Identical cohorts and rosters are no twins."""
    for earlier in state.cohorts(ask.method, _variables(method)):
        if (earlier.study, earlier.analysis) == (ask.study, ask.analysis) and earlier.sites != ask.sites:
            continue  # the same study going on without a site that left: its permit says so
        patients = patients_apart(earlier.rows, rows)
        if 0 < patients < policy.min_count:
            raise DisclosureRefusal(
                f"{ask.method!r} over the same variables was answered before (analysis {earlier.analysis!r}) on a cohort that "
                f"differs from this one by fewer than {policy.min_count} patients.",
                rule="near-twin",
                remedy="Ask on the same cohort again, or on one that differs by more: the difference of two answers would show those few patients.",
            )
        others = set(earlier.sites) ^ set(ask.sites)
        if patients == 0 and 0 < len(others) < policy.min_sites:
            raise DisclosureRefusal(
                f"{ask.method!r} over the same variables and patients was answered before with sites that differ by {', '.join(sorted(others))}.",
                rule="near-twin",
                remedy=f"Ask over the same sites again: a difference of fewer than {policy.min_sites} sites would show their part.",
            )


def patients_apart(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> int:
    """How many patients are in one cohort and not in the other; two patients with equal values count as two."""
    both = np.concatenate([one, other])
    sides = np.repeat(np.array([1, -1]), [len(one), len(other)])
    order = np.argsort(both, kind="stable")
    both, sides = both[order], sides[order]
    starts = np.flatnonzero(np.r_[True, both[1:] != both[:-1]]) if len(both) else np.zeros(0, np.int64)
    return int(np.abs(np.add.reduceat(sides, starts)).sum()) if len(starts) else 0


def remember(state: SiteState, ask: Ask, method: Method[Any], rows: NDArray[np.uint64]) -> None:
    """Write down the patients and sites of an answer, once an analysis."""
    state.remember_cohort(ask, _variables(method), rows)


def _variables(method: Method[Any]) -> str:
    return " ".join(sorted(method.variables()))
