"""What happened, counted over many schedules: sums, aborts, attacks, and the bytes of masked vectors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from unisono.protection.prg import Words

KINDS = ("single vectors", "differences between attempts of a step", "differences between steps")
"""Of honest sites' masked vectors: each must look like uniform noise."""

LEAST_P = 1e-6
"""A uniform sample falls below it once in a million runs."""


@dataclass
class Tally:
    """Counts that add up, whatever the order. failures: (schedule, what broke), sorted."""

    schedules: int = 0
    federations: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    aborts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    attacks: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind, how it ended): ``refused: RULE``, ``answered``, ``nobody there``."""
    culprits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(misdeed, ``named`` / ``not named`` / ``no effect``)."""
    beyond: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    bytes_seen: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {kind: np.zeros(256, np.int64) for kind in KINDS}
    )
    failures: list[tuple[int, str]] = field(default_factory=list)

    def see(self, kind: str, words: Words) -> None:
        """Count the bytes of masked words."""
        self.bytes_seen[kind] += np.bincount(words.view(np.uint8), minlength=256)

    def add(self, other: Tally) -> None:
        """Take over another range's counts."""
        self.schedules += other.schedules
        self.operations += other.operations
        for mine, theirs in zip(self._counters(), other._counters(), strict=True):
            mine.update(theirs)
        for kind in KINDS:
            self.bytes_seen[kind] += other.bytes_seen[kind]
        self.failures = sorted(self.failures + other.failures)

    def uniformity(self) -> dict[str, tuple[int, float, float]]:
        """For each kind: bytes seen, chi-square of the 256 byte values against uniform (255 degrees of freedom), and the
        probability of one so large. Too few bytes (under 5 of each value expected) say nothing: p = 1."""
        found = {}
        for kind, counts in self.bytes_seen.items():
            total = int(counts.sum())
            if total < 5 * 256:
                found[kind] = (total, 0.0, 1.0)
                continue
            expected = total / 256
            statistic = float(((counts - expected) ** 2 / expected).sum())
            found[kind] = (total, statistic, float(gammaincc(255 / 2, statistic / 2)))
        return found

    @property
    def uniform(self) -> bool:
        """Whether masked vectors look like noise, all kinds of them."""
        return all(p >= LEAST_P for _, _, p in self.uniformity().values())

    @property
    def holds(self) -> bool:
        """Whether every invariant held in every schedule."""
        return not self.failures and self.uniform

    def to_tree(self) -> dict[str, Any]:
        """For `--json`: the same bytes for the same seed, whatever the machine or the number of jobs."""
        return {
            "schedules": self.schedules,
            "operations": self.operations,
            "holds": self.holds,
            "federations": _sorted(self.federations),
            "sums": _sorted(self.sums),
            "aborts": _sorted(self.aborts),
            "faults": _sorted(self.faults),
            "attacks": _nested(self.attacks),
            "culprits": _nested(self.culprits),
            "beyond_what_is_promised": _sorted(self.beyond),
            "uniformity": {
                kind: {"bytes": seen, "chi_square": round(statistic, 3), "p": round(p, 6)}
                for kind, (seen, statistic, p) in self.uniformity().items()
            },
            "failures": [{"schedule": index, "what": what} for index, what in self.failures],
        }

    def _counters(self) -> tuple[Counter[Any], ...]:
        return (self.federations, self.sums, self.aborts, self.faults, self.attacks, self.culprits, self.beyond)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts)}


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    names = sorted({kind for kind, _ in counts})
    return {name: {how: n for (kind, how), n in sorted(counts.items()) if kind == name} for name in names}
