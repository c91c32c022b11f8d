"""How many sites must stay, how many may be lost, and how many neighbours each has: the parameters of one masked sum.

*Complete graph* (every site masks with every other; Bonawitz et al., CCS 2017, section 6). Privacy against the
coordinator with `C` colluding sites needs 2t > n + C: two sets of t answers that differ about who survived would take
n - C honest sites that answer once and C that answer twice. Liveness needs t <= n - drops.

*k-regular graph* (SecAgg+; Bell et al., CCS 2020), above `COMPLETE_UP_TO` sites. The graph is drawn at random after the
sites were fixed, and three things must hold except with probability 2^-sigma (1, 2: privacy) or 2^-eta (3: liveness):

1. the honest survivors stay connected, so that only their whole sum can be read and no sum of a part of them;
2. no site has so many colluding neighbours that these could rebuild its secrets (semi-honest: t of them; malicious: a
   coordinator that tells its neighbours two stories needs 2t <= k + colluding neighbours);
3. every site keeps t neighbours that can help to unmask.

The design has the formulas and check values (design/secure-aggregation.md, *Parameters*).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ProtocolError

Threat = Literal["semi-honest", "malicious"]
"""What the coordinator may do: follow the protocol and be curious, or also lie (about who survived, above all)."""

COMPLETE_UP_TO = 32
"""Sites. Up to here every site masks with every other: it is cheap, and its privacy is certain, not only probable."""

MAX_SITES = 2**15
"""As many parts as the exact encoding can add without losing a carry."""

SIGMA = 40
"""Privacy fails with probability below 2^-40, over the draw of the graph."""

ETA = 20
"""An attempt with no more than the tolerated drop-outs cannot be opened with probability below 2^-20."""

_ASKED_DROPS = 10
"""One site in ten, rounded up, may be lost: what a k-regular graph is chosen for."""

_HIDES = ("secagg", "secagg+")


@dataclass(frozen=True)
class Parameters:
    """What one masked sum needs. Made by `derive`, and the same wherever it is derived.

    n: sites in the attempt. colluding: C. min_sites: in an opened sum. t: shares that rebuild a secret.
    tolerated_drops: sites that may be lost after the shares went out, whichever they are on the complete graph; on a
    regular graph, sites that are lost without regard to the graph (probability of failure below 2^-20).
    degree: neighbours of a site, n - 1 on the complete graph. threat: what the coordinator may do.
    quorum: signatures over one survivor set that a site wants to see in the malicious setting. It is the smallest q
    with 2q > n + C, so no two sets can both have them; equal to t on the complete graph.
    """

    n: int
    colluding: int
    min_sites: int
    t: int
    tolerated_drops: int
    degree: int
    threat: Threat
    quorum: int

    @property
    def complete(self) -> bool:
        """Whether every site is every other's neighbour."""
        return self.degree == self.n - 1

    @property
    def graph(self) -> str:
        """``complete graph`` or ``10-regular graph``."""
        return "complete graph" if self.complete else f"{self.degree}-regular graph"

    @property
    def least_survivors(self) -> int:
        """Rule 4: a sum of fewer parts is never opened. With C + 2, colluders still see two honest parts added.

        On a regular graph also: no fewer than keep the honest survivors connected (condition 1), and in the malicious
        setting no fewer than the quorum, for it is the survivors who sign.
        """
        least = max(self.t, self.min_sites, self.colluding + 2)
        if self.complete:
            return least
        if self.threat == "malicious":
            least = max(least, self.quorum)
        return max(least, self.n - _private_drops(self.n, self.colluding, self.degree, self.threat))

    def sentence(self) -> str:
        """For the user: ``5 sites, 1 colluder: 4 must stay; 1 drop-out after masking is tolerated``."""
        start = f"{_plural(self.n, 'site')}, {_plural(self.colluding, 'colluder')}"
        among = ""
        if not self.complete:
            start += f", {self.graph}, t = {self.t}"
            among = f", {self.t} of each site's {self.degree} neighbours among them"
        if self.tolerated_drops:
            verb = "is" if self.tolerated_drops == 1 else "are"
            drops = _plural(self.tolerated_drops, "drop-out")
            return f"{start}: {self.least_survivors} must stay{among}; {drops} after masking {verb} tolerated"
        more = _plural(_sites_for(self.colluding, self.min_sites, drops=1) - self.n, "more site")
        return f"{start}: no drop-out is tolerated: accept none, or invite {more}"

    def to_tree(self) -> dict[str, int | str]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_tree(cls, tree: object) -> Parameters:
        """What `to_tree` wrote. `ProtocolError` unless it is exactly what `derive` gives: no weaker set gets in."""
        try:
            if not isinstance(tree, Mapping) or set(tree) != set(cls.__dataclass_fields__):
                raise ValueError("other fields")
            numbers = [tree["n"], tree["colluding"], tree["min_sites"], tree["degree"]]
            if any(type(number) is not int for number in numbers) or tree["threat"] not in get_args(Threat):
                raise ValueError("other types")
            n, colluding, min_sites, degree = numbers
            hide = "secagg" if degree == n - 1 else "secagg+"
            found = derive(n, colluding, min_sites, hide=hide, threat=tree["threat"])
            written = found.to_tree()
            if any(type(tree[name]) is not type(value) or tree[name] != value for name, value in written.items()):
                raise ValueError("other values")
        except (ProtocolError, TypeError, ValueError) as error:
            raise ProtocolError(
                "The parameters of a stored or received sum are not ones that this version derives.",
                rule="stored-sum",
                remedy="The record is damaged, or another version of Unisono wrote it: restore it from its back-up, or "
                "use that version.",
            ) from error
        return found


def derive(
    n: int, colluding: int, min_sites: int, *, hide: str = "secagg", threat: Threat = "semi-honest"
) -> Parameters:
    """The graph, the smallest threshold that is private on it, and the drop-outs that this leaves room for.

    n: sites. colluding: how many of them may conspire with the coordinator, an absolute number. min_sites: in an
    opened sum. hide: ``secagg`` (complete graph, always) or ``secagg+`` (complete up to `COMPLETE_UP_TO` sites).
    `ProtocolError` if the numbers make no federation (rule ``federation-parameters``), or if no sum of `n` sites could
    be opened at all (``federation-too-small``).
    """
    if not 1 <= n <= MAX_SITES or colluding < 0 or min_sites < 1:
        raise ProtocolError(
            f"{_plural(n, 'site')}, {_plural(colluding, 'colluder')} and at least {_plural(min_sites, 'site')} in a sum make "
            "no federation.",
            rule="federation-parameters",
            remedy=f"Take 1 to {MAX_SITES} sites, 0 or more colluders, and min_sites of at least 1.",
        )
    if hide not in _HIDES or threat not in get_args(Threat):
        raise ProtocolError(
            f"There are no masks for hide {hide!r} against a {threat!r} coordinator.",
            rule="federation-parameters",
            remedy="Write hide: secagg or secagg+, and threat: semi-honest or malicious.",
        )
    if n < _sites_for(colluding, min_sites, drops=0):
        raise _too_small(n, colluding, min_sites)
    if hide == "secagg+" and n > COMPLETE_UP_TO:
        regular = _regular(n, colluding, min_sites, threat)
        if regular is not None:
            return regular
    t = _majority(n, colluding)
    least = max(t, min_sites, colluding + 2)
    return Parameters(n, colluding, min_sites, t, n - least, n - 1, threat, t)


def search(
    n: int,
    gamma: float,
    delta: float,
    *,
    malicious: bool = False,
    sigma: int = SIGMA,
    eta: int = ETA,
) -> tuple[int, int]:
    """The smallest even degree k < n - 1 with which the three conditions hold, and its threshold t.

    gamma, delta: colluding and dropping fractions of the `n` sites; gamma + delta <= 0.9 (malicious:
    gamma + 2 delta <= 0.9). sigma, eta: minus log2 of the probability that privacy, or liveness, fails.
    `ProtocolError` if a precondition is broken (rule ``graph-parameters``) or no such k exists (``no-regular-graph``).
    Source: Bell et al., CCS 2020, the semi-honest and the malicious analysis; design/secure-aggregation.md, *Parameters*.
    """
    precondition = "gamma + 2 delta <= 0.9" if malicious else "gamma + delta <= 0.9"
    counts = _counts(n, gamma, delta, malicious)
    if counts is None or sigma < 0 or eta < 0:
        raise ProtocolError(
            f"No graph is searched for {n} sites with fractions {gamma} colluding and {delta} dropping.",
            rule="graph-parameters",
            remedy=f"Keep to {precondition}, fractions of 0 or more, 1 to {MAX_SITES} sites, sigma and eta of 0 or more.",
        )
    found = _search(n, *counts, malicious=malicious, sigma=sigma, eta=eta)
    if found is None:
        raise ProtocolError(
            f"No regular graph below the complete one serves {n} sites, {counts[0]} colluding and {counts[1]} dropping.",
            rule="no-regular-graph",
            remedy="Use the complete graph (hide: secagg).",
        )
    return found


# The complete graph


def _majority(n: int, colluding: int) -> int:
    return (n + colluding) // 2 + 1  # smallest q with 2q > n + C


def _sites_for(colluding: int, min_sites: int, drops: int) -> int:
    """The fewest sites of which 0 or 1 may be lost: from C + 2 (C + 3) on, 2t > n + C leaves room by itself."""
    return max(min_sites, colluding + 2) + drops


def _too_small(n: int, colluding: int, min_sites: int) -> ProtocolError:
    least = max(_majority(n, colluding), min_sites, colluding + 2)
    fewer = colluding > 0 and n >= _sites_for(0, min_sites, drops=0)
    return ProtocolError(
        f"{_plural(n, 'site')} cannot add up without showing a part: with {_plural(colluding, 'colluder')} and at "
        f"least {_plural(min_sites, 'site')} in a sum, {least} must stay.",
        rule="federation-too-small",
        remedy=f"Invite {_plural(_sites_for(colluding, min_sites, drops=0) - n, 'more site')}"
        + (", or assume fewer colluders (protection: colluding)." if fewer else "."),
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# The regular graph


@lru_cache(maxsize=256)
def _regular(n: int, colluding: int, min_sites: int, threat: Threat) -> Parameters | None:
    """Parameters on the sparsest regular graph that serves; None if only the complete graph does."""
    asked = -(-n // _ASKED_DROPS)
    malicious = threat == "malicious"
    if not _searchable(n, Fraction(colluding), Fraction(asked), malicious):
        return None
    # A lying coordinator chooses who "dropped" after it has seen the graph, so a small probability over the draw of the
    # graph does not bound it. Removing fewer than k sites cannot disconnect this graph, whoever chooses them.
    least_degree = colluding + asked + 1 if malicious else 2
    found = _search(n, colluding, asked, malicious=malicious, sigma=SIGMA, eta=ETA, least_degree=least_degree)
    if found is None:
        return None
    degree, t = found
    most_private = Parameters(n, colluding, min_sites, t, 0, degree, threat, _majority(n, colluding))
    drops = min(n - most_private.least_survivors, _live_drops(n, degree, t))
    return Parameters(n, colluding, min_sites, t, drops, degree, threat, most_private.quorum)


@lru_cache(maxsize=256)
def _private_drops(n: int, colluding: int, degree: int, threat: Threat) -> int:
    """The most sites that may be lost with the honest survivors still connected (condition 1)."""
    if threat == "malicious":
        return degree - 1 - colluding
    lost = range(n - colluding + 1)  # connection only gets less likely: bisect finds the first loss that is too many
    return bisect_left(lost, True, key=lambda d: not _connected(n, degree, colluding + d, SIGMA)) - 1


def _live_drops(n: int, degree: int, t: int) -> int:
    """The most sites that may be lost with t neighbours left to every site (condition 3)."""
    lost = range(n)
    return bisect_left(lost, True, key=lambda d: _live_threshold(n, d, degree, ETA) < t) - 1


def _search(
    n: int, corrupt: int, dropping: int, *, malicious: bool, sigma: int, eta: int, least_degree: int = 2
) -> tuple[int, int] | None:
    """`search` with absolute numbers, from `least_degree` upwards; None if no even k < n - 1 serves.

    It walks: in k the thresholds move in steps and the conditions are not monotone, so bisection could step over the
    smallest k. A step costs tens of microseconds.
    """
    for degree in range(least_degree + least_degree % 2, n - 1, 2):
        if not _connected(n, degree, corrupt + dropping, sigma):
            continue
        t1 = _corrupt_neighbours(n, corrupt, degree, sigma)
        if malicious:
            t1 = (t1 + degree) // 2  # ceil((t1 + k - 1.25) / 2), in integers: the next t has 2t > k + t1
        t = max(t1 + 1, 2)
        # The design asks for t2 > t1. That is the same, but for t1 = 0, where it would not promise the 2 that is used.
        if _live_threshold(n, dropping, degree, eta) >= t:
            return degree, t
    return None


def _connected(n: int, degree: int, bad: int, sigma: int) -> bool:
    """Condition 1. To disconnect a circle on which each site is joined to k/2 on either side, two whole runs of k/2
    must be `bad` (colluding or lost): n (n - k - 1) / 2 pairs of runs, each bad with probability C(bad, k) / C(n, k)."""
    if degree > bad:
        return True
    pairs = n * (n - degree - 1) / 2
    if pairs <= 0:
        return True
    log_probability = math.log(pairs) + _log_choose(bad, degree) - _log_choose(n, degree)
    return log_probability < -(sigma + 1) * math.log(2)


def _corrupt_neighbours(n: int, corrupt: int, degree: int, sigma: int) -> int:
    """Condition 2: the smallest x such that with probability 1 - 2^-(sigma+1) no site has more than x corrupt neighbours.

    A site is no neighbour of its own: an honest one draws k of n - 1 others. (The design writes n. The check values are
    the same, and this is the exact and stricter count.)
    """
    density = _hypergeometric(n - 1, min(corrupt, n - 1), degree)
    above = np.append(np.cumsum(density[::-1])[::-1][1:], 0.0)  # Pr[X > x]; summed from the small end, so not cancelled
    return int(np.argmax(above <= 2.0 ** -(sigma + 1) / n))


def _live_threshold(n: int, dropping: int, degree: int, eta: int) -> int:
    """Condition 3: the largest t that, with probability 1 - 2^-eta, every site's surviving neighbours reach.

    A survivor has the worst of it: one of the survivors is itself.
    """
    density = _hypergeometric(n - 1, n - dropping - 1, degree)
    below = np.append(0.0, np.cumsum(density[:-1]))  # Pr[X < t], t = 0 .. degree
    return int(np.flatnonzero(below <= 2.0**-eta / n)[-1])


def _hypergeometric(total: int, marked: int, drawn: int) -> NDArray[np.float64]:
    """Pr[X = x], (drawn + 1,): x marked ones among `drawn` of `total` without replacement. In log space, 1e-9 relative."""
    log = _log_factorials()
    density = np.zeros(drawn + 1)
    x = np.arange(max(0, drawn - (total - marked)), min(marked, drawn) + 1)
    ways = (log[marked] - log[x] - log[marked - x]) + (
        log[total - marked] - log[drawn - x] - log[total - marked - drawn + x]
    )
    density[x] = np.exp(ways - _log_choose(total, drawn))
    return density


def _log_choose(n: int, k: int) -> float:
    log = _log_factorials()
    return float(log[n] - log[k] - log[n - k])


@lru_cache(maxsize=1)
def _log_factorials() -> NDArray[np.float64]:
    """ln(i!) for i up to `MAX_SITES`: a table of 256 KiB, made in milliseconds when first needed."""
    table = np.array([math.lgamma(i + 1) for i in range(MAX_SITES + 1)])
    table.setflags(write=False)
    return table


def _counts(n: int, gamma: float, delta: float, malicious: bool) -> tuple[int, int] | None:
    """(floor(gamma n), floor(delta n)), of the decimal that was written (0.29 x 100 is 29); None if out of range."""
    if not (1 <= n <= MAX_SITES and 0 <= gamma < 1 and 0 <= delta < 1):
        return None
    corrupt, dropping = Fraction(str(gamma)) * n, Fraction(str(delta)) * n
    return (int(corrupt), int(dropping)) if _searchable(n, corrupt, dropping, malicious) else None


def _searchable(n: int, corrupt: Fraction, dropping: Fraction, malicious: bool) -> bool:
    """The preconditions of the analysis: gamma + delta <= 0.9, malicious gamma + 2 delta <= 0.9."""
    return corrupt + (2 if malicious else 1) * dropping <= Fraction(9, 10) * n
