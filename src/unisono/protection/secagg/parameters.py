"""How many sites must stay, and how many may be lost: the threshold on the complete graph.

Privacy against the coordinator with `C` colluding sites needs 2t > n + C: two sets of t answers that differ about who
survived would take n - C honest sites that answer once and C that answer twice. Liveness needs t <= n - drops.
(Bonawitz et al., CCS 2017, section 6; design/secure-aggregation.md, *Parameters*.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from unisono.errors import ProtocolError


@dataclass(frozen=True)
class Parameters:
    """n: sites in the attempt. colluding: C. min_sites: in an opened sum. t: shares that rebuild a secret.
    tolerated_drops: sites that may be lost after the shares went out. Made by `threshold`."""

    n: int
    colluding: int
    min_sites: int
    t: int
    tolerated_drops: int

    @property
    def least_survivors(self) -> int:
        """Rule 4: a sum of fewer parts is never opened. With C + 2, colluders still see two honest parts added."""
        return _least(self.t, self.colluding, self.min_sites)

    def sentence(self) -> str:
        """For the user: ``5 sites, 1 colluder: 4 must stay; 1 drop-out after masking is tolerated``."""
        start = f"{_plural(self.n, 'site')}, {_plural(self.colluding, 'colluder')}: "
        if self.tolerated_drops:
            verb = "is" if self.tolerated_drops == 1 else "are"
            drops = _plural(self.tolerated_drops, "drop-out")
            return f"{start}{self.least_survivors} must stay; {drops} after masking {verb} tolerated"
        more = _plural(_more_for_one_drop(self.n, self.colluding, self.min_sites), "more site")
        return f"{start}no drop-out is tolerated: accept none, or invite {more}"


def threshold(n: int, colluding: int, min_sites: int) -> Parameters:
    """The smallest threshold that is private, and the drop-outs it leaves room for.

    `ProtocolError` (rule ``federation-too-small``) if no sum of `n` sites could be opened at all.
    """
    if n < 1 or colluding < 0 or min_sites < 1:
        raise ProtocolError(
            f"{n} sites, {colluding} colluders and at least {min_sites} sites in a sum make no federation.",
            rule="federation-parameters",
            remedy="Take at least 1 site, 0 or more colluders, and min_sites of at least 1.",
        )
    t = _smallest_threshold(n, colluding)
    least = _least(t, colluding, min_sites)
    if least > n:
        more = next(m for m in range(n + 1, n + colluding + min_sites + 3) if _drops(m, colluding, min_sites) >= 0) - n
        fewer = _drops(n, 0, min_sites) >= 0 and colluding > 0
        raise ProtocolError(
            f"{_plural(n, 'site')} cannot add up without showing a part: with {_plural(colluding, 'colluder')} and at "
            f"least {_plural(min_sites, 'site')} in a sum, {least} must stay.",
            rule="federation-too-small",
            remedy=f"Invite {_plural(more, 'more site')}"
            + (", or assume fewer colluders (protection: colluding)." if fewer else "."),
        )
    return Parameters(n, colluding, min_sites, t, n - least)


def _smallest_threshold(n: int, colluding: int) -> int:
    return (n + colluding) // 2 + 1  # smallest t with 2t > n + C


def _least(t: int, colluding: int, min_sites: int) -> int:
    return max(t, min_sites, colluding + 2)


def _drops(n: int, colluding: int, min_sites: int) -> int:
    return n - _least(_smallest_threshold(n, colluding), colluding, min_sites)


@cache
def _more_for_one_drop(n: int, colluding: int, min_sites: int) -> int:
    return next(more for more in range(1, colluding + min_sites + 4) if _drops(n + more, colluding, min_sites) >= 1)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
