"""Which grid times of a curve may be written: no step of it may belong to fewer than `min_count` patients.

The estimates are computed on the full grid; this decides, on the opened totals, at which of its times they are shown.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unisono.protection.disclosure import release_points

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """One curve's opened totals. changes: (k,) events plus censorings. at_risk: (k,) just before each grid time."""

    changes: Float
    at_risk: Float
    min_count: int

    @cached_property
    def _before(self) -> list[float]:
        """(k + 1,) how many changed before each grid time; whole numbers, so differences are exact."""
        return [0.0, *np.cumsum(self.changes).tolist()]

    @cached_property
    def span(self) -> tuple[int, int]:
        """[begin, end): the grid times with enough patients at risk, without the tail after them."""
        enough = np.flatnonzero(self.at_risk >= self.min_count)
        if not enough.size:
            return 0, 0
        begin = int(enough[0])
        small = np.flatnonzero(self.at_risk[begin:] < self.min_count)
        return begin, begin + int(small[0]) if small.size else len(self.at_risk)

    def holds(self, k: int | None) -> bool:
        """Whether one time (a median) may be shown: enough patients were still at risk there."""
        begin, end = self.span
        return k is not None and begin <= k < end

    def between(self, i: int, j: int, *, none_too: bool) -> bool:
        """Whether i and j may be neighbours in what is shown: enough patients changed in (i, j], and the numbers at risk
        of the two are equal or differ by as many, so that neither subtraction isolates a few. `none_too`: nobody at all
        in (i, j] is as good (only where the two times were fixed by the study and not by the data)."""
        before = self._before
        changed = before[j + 1] - before[i + 1]
        left = before[j] - before[max(i, 0)]
        steps = changed >= self.min_count or (none_too and changed == 0)
        return steps and (left >= self.min_count or left == 0)


MOST_POINTS = 1000
"""Of one curve, about: more cannot be seen in a figure, and a hundred thousand would only swell the files."""


def shown(counts: Counts, wanted: Iterable[int], ticks: Iterable[int] = ()) -> tuple[list[int], set[int]]:
    """The grid positions at which a curve is shown, increasing; and those of `wanted` and `ticks` that are among them.

    Times that the study itself names (`wanted`) come first; round times (`ticks`) are fitted in between them, and only
    then the data's own steps.
    """
    _, end = counts.span
    fixed: list[int] = []
    for k in [*sorted(set(wanted)), *sorted(set(ticks))]:
        place = bisect(fixed, k)
        if counts.holds(k) and _fits(counts, fixed[place - 1] if place else -1, k, fixed[place : place + 1]):
            fixed.insert(place, k)
    points: list[int] = []
    for a, b in zip([-1, *fixed], [*fixed, None], strict=True):
        points += _fill(counts, a, b, end)
        points += [] if b is None else [b]
    asked_for = set(fixed)
    every = max(1, -(-len(points) // MOST_POINTS))
    return [k for i, k in enumerate(points) if i % every == 0 or k in asked_for], asked_for


def _fits(counts: Counts, before: int, k: int, after: list[int]) -> bool:
    """Whether `k`, named by the study or a round time, may stand between its neighbours in what is shown."""
    return counts.between(before, k, none_too=True) and all(counts.between(k, b, none_too=True) for b in after)


def _fill(counts: Counts, a: int, b: int | None, end: int) -> list[int]:
    """The points strictly between two fixed ones (`b` None: up to the tail)."""
    window = slice(a + 1, end if b is None else b)
    found: list[int] = []
    last = a
    for k in release_points(counts.changes[window], counts.at_risk[window], counts.min_count) + a + 1:
        point = int(k)
        if counts.between(last, point, none_too=False) and (b is None or counts.between(point, b, none_too=True)):
            found.append(point)
            last = point
    return found


_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_NICE_MONTHS = (1.0, 2.0, 3.0, 6.0, 12.0, 24.0, 36.0, 60.0, 120.0)


def round_positions(last: int, step: float, unit: str, at_most: int = 7) -> list[int]:
    """A handful of round grid positions from 0 up to `last`, for the table of numbers at risk."""
    if last < 1:
        return [0]
    length = last * step
    wish = length / (at_most - 1)
    steps: Sequence[float] = _NICE_MONTHS if unit == "mo" and 1 <= wish <= 120 else _powers(wish)
    spacing = max(1, round(next(s for s in steps if s >= wish * (1 - 1e-9)) / step))
    return list(range(0, last + 1, spacing))


def _powers(wish: float) -> list[float]:
    size = 10.0 ** np.floor(np.log10(wish))
    return [float(size * s) for s in _NICE]
