"""Which cells of a table of counts may be shown, when rows, columns and their totals let a reader subtract.

A cell of fewer than `min_count` patients is hidden; then others are, until no row or column gives a hidden one back
(secondary suppression; Hundepool et al., *Statistical Disclosure Control*, 2012, section 4.2). The columns are groups of
patients, the rows the levels of one variable (with "missing" as the last), and the grand total is public.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


def hide_groups(sizes: Counts, min_count: int) -> Mask:
    """Which groups (g,) may not be shown at all. Together the hidden ones hold no patient, or `min_count` at least:
    their sum is what the public total gives away. Empty groups are never hidden."""
    return _complement(sizes, (sizes > 0) & (sizes < min_count), min_count)


def hide_values(observed: Counts, hidden: Mask, min_count: int) -> tuple[Mask, bool]:
    """For sums over patients (means, quantiles): which groups (g,) are hidden, and whether the overall value is.

    observed (g,): patients with a value. hidden (g,): groups hidden anyway. Overall minus the groups that are shown must
    be a sum over `min_count` patients, or over none.
    """
    blank = _complement(observed, hidden | ((observed > 0) & (observed < min_count)), min_count)
    left = int(observed[blank].sum())
    return blank, 0 < left < min_count or 0 < int(observed.sum()) < min_count


def hide_cells(cells: Counts, hidden: Mask, min_count: int) -> tuple[Mask, Mask]:
    """For counts: which cells (r, g), and which of the overall column (r,), are hidden.

    cells (r, g): patients by level and group. hidden (g,): groups hidden anyway, whose sizes are unknown. Until nothing
    changes: a column whose size is public has no hidden cell, or at least two that hold `min_count` together; a row has
    no hidden cell, or at least two (the overall cell is hidden before another group's).
    """
    blank: Mask = ((cells > 0) & (cells < min_count)) | hidden[None, :]
    total = cells.sum(axis=1)
    overall: Mask = (total > 0) & (total < min_count)
    while True:
        before = int(blank.sum()) + int(overall.sum())
        for g in np.flatnonzero(~hidden):
            blank[:, g] = _several(cells[:, g], blank[:, g], min_count)
        for r in range(len(cells)):
            held = int(cells[r, blank[r]].sum())
            overall[r] |= 0 < held < min_count or (held > 0 and int(blank[r].sum()) == 1)
            if overall[r] and not blank[r].any():
                blank[r, _smallest(cells[r])] = True
        overall = _several(total, overall, min_count)
        if int(blank.sum()) + int(overall.sum()) == before:
            return blank, overall


def _complement(counts: Counts, blank: Mask, min_count: int) -> Mask:
    """`blank` with the next smallest added until the blank ones hold `min_count` together (or nobody)."""
    blank = blank.copy()
    for k in np.argsort(counts, kind="stable"):
        if not 0 < int(counts[blank].sum()) < min_count:
            break
        blank[k] = blank[k] or counts[k] > 0
    return blank


def _several(counts: Counts, blank: Mask, min_count: int) -> Mask:
    """As `_complement`, and two blank cells at least that hold someone, where there are two."""
    blank = _complement(counts, blank, min_count)
    for k in np.argsort(counts, kind="stable"):
        if int((blank & (counts > 0)).sum()) != 1:
            break
        blank[k] = blank[k] or counts[k] > 0
    return blank


def _smallest(counts: Counts) -> int:
    """Index of the smallest count that is not 0."""
    return int(np.argmin(np.where(counts > 0, counts, np.iinfo(np.int64).max)))
