"""The frozen set of sites that sums are made over, with everything that every one of them must see alike.

It is fixed before keys are made or a graph is drawn (design/secure-aggregation.md, rules 3 and 8). Its digest is in every
signed key: sites with another roster, another set or other parameters share no sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from unisono.errors import ProtocolError
from unisono.protection.secagg.keys import canonical
from unisono.protection.secagg.parameters import Parameters
from unisono.protection.secagg.roster import Roster


@dataclass(frozen=True)
class Group:
    """run: the run's name. epoch: how many times it was begun anew on fewer sites. sites: sorted; `parameters.n` of them.
    roster: the public keys that *this party* pins, whatever it is told. Made by `group_of`."""

    run: str
    epoch: int
    sites: tuple[str, ...]
    roster: Roster
    parameters: Parameters

    @cached_property
    def digest(self) -> str:
        """Of all of it, hexadecimal."""
        p = self.parameters
        numbers = (self.epoch, p.n, p.colluding, p.min_sites, p.degree, p.t, p.quorum)
        return hashlib.sha256(
            canonical("group", self.run, self.roster.digest, p.threat, *map(str, numbers), *self.sites)
        ).hexdigest()

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each site's share of a secret is taken: 1 to n, in the order of the names."""
        return {site: x for x, site in enumerate(self.sites, 1)}

    @property
    def malicious(self) -> bool:
        """Whether survivors are signed before anything is unmasked."""
        return self.parameters.threat == "malicious"

    @property
    def one_set_for_ever(self) -> bool:
        """Whether two sets of sites that could both be opened must share an honest site, which refuses the second: on the
        complete graph by 2t > n + C, with signatures by the quorum. Without that, who unmasked once joins no new attempt."""
        return self.parameters.complete or self.malicious

    def to_tree(self) -> dict[str, Any]:
        """For the coordinator's record; the roster is not in it but for its digest."""
        return {
            "run": self.run,
            "epoch": self.epoch,
            "sites": list(self.sites),
            "roster_digest": self.roster.digest,
            "parameters": self.parameters.to_tree(),
        }

    @classmethod
    def from_tree(cls, tree: Any, roster: Roster) -> Group:
        """The group that `to_tree` wrote. `ValueError`, `TypeError` or `KeyError` if it is not one of this roster."""
        if tree["roster_digest"] != roster.digest:
            raise ValueError("another roster")
        parameters = Parameters.from_tree(tree["parameters"])
        return group_of(str(tree["run"]), int(tree["epoch"]), tree["sites"], roster, parameters)


def group_of(run: str, epoch: int, sites: Collection[str], roster: Roster, parameters: Parameters) -> Group:
    """A group. `ProtocolError` unless its sites are in the roster, distinct, and `parameters.n` many."""
    ordered = tuple(sorted(set(sites)))
    if len(ordered) != len(sites) or not set(ordered) <= set(roster) or len(ordered) != parameters.n:
        raise ProtocolError(
            f"{len(sites)} sites fit no roster of {len(roster)}, or parameters for {parameters.n}.",
            rule="pinned-roster",
            remedy="Only sites that the permit names take part, each once; parameters are derived for exactly these.",
        )
    return Group(run, epoch, ordered, roster, parameters)
