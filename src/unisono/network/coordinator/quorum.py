"""Whether a study that was offered may begin, by what its sites' stewards decided so far: all of them, or as many as it says suffice.

A permit pins the sites of a study. Where fewer suffice, those who approved are therefore asked anew, over themselves alone, and the
study begins when they all have approved that: nobody's part is ever summed with other hospitals than its steward agreed to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from unisono.network.coordinator.store import Asked, Decided
from unisono.study.document import Study
from unisono.study.units import duration

Next = Literal["wait", "begin", "fewer", "refused", "expired"]


@dataclass(frozen=True)
class Standing:
    """next: what follows. ``fewer``: ask those who approved anew, without the others; ``refused``: too many said no; ``expired``: too
    many said nothing until the deadline. approved, against, silent: the sites, by what they said."""

    next: Next
    approved: tuple[str, ...]
    against: tuple[str, ...]
    silent: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Who did not approve."""
        return tuple(sorted((*self.against, *self.silent)))


def until(asked: Asked, study: Study) -> datetime:
    """When a study that waits for its sites' stewards gives them up."""
    return asked.submitted + timedelta(seconds=duration(study.participation.approve_within))


def standing(sites: tuple[str, ...], study: Study, decisions: Mapping[str, Decided], *, over: bool) -> Standing:
    """Of a study that was offered to these sites. over: the time to decide has passed."""
    approved = tuple(name for name in sites if name in decisions and decisions[name].decision == "approved")
    against = tuple(name for name in sites if name in decisions and name not in approved)
    silent = tuple(name for name in sites if name not in decisions)
    suffice = min(study.participation.quorum or len(sites), len(sites))
    found: Next = "wait"
    if len(approved) == len(sites):
        found = "begin"
    elif len(sites) - len(against) < suffice:
        found = "refused"
    elif over or not silent:
        found = "fewer" if len(approved) >= suffice else "expired"
    return Standing(found, approved, against, silent)
