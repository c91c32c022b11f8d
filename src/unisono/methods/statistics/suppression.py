"""Which cells of a table of counts may be shown, when rows, columns and their totals let a reader subtract.

A cell of fewer than `min_count` patients is hidden; then others are, until no row or column gives a hidden one back
(secondary suppression; Hundepool et al., *Statistical Disclosure Control*, 2012, section 4.2). The columns are groups of
patients, the rows the levels of one variable (with "missing" as the last), and the grand total is public.
"""

from __future__ import annotations

from typing import Any

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
    no hidden cell, or at least two (the overall cell is hidden before another group's); and no small cell follows from
    several rows and columns together.
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
        if int(blank.sum()) + int(overall.sum()) > before:
            continue
        found = _determined(cells, blank, overall, hidden, min_count)
        if not len(found) or not _hide_one_more(cells, blank, overall, found[0]):
            return blank, overall


def _determined(cells: Counts, blank: Mask, overall: Mask, hidden: Mask, min_count: int) -> Counts:
    """The hidden small cells (k, 2) that follow from everything shown, as (row, column) with column g for overall: those
    on which all solutions of the reader's linear equations agree."""
    r, g = cells.shape
    unknown = np.column_stack([blank, overall])
    places = np.argwhere(unknown).astype(np.int64)
    if not len(places):
        return places
    row, column = places.T
    sign = np.where(column == g, -1.0, 1.0)
    public = np.append(np.flatnonzero(~hidden), g)  # the sizes of shown groups, and of the cohort
    equations = np.vstack([(row == np.arange(r)[:, None]) * sign, (column == public[:, None]) * 1.0])
    values = np.column_stack([cells, cells.sum(axis=1)])[unknown]
    told: Counts = places[solved(equations) & (values > 0) & (values < min_count)]
    return told


def solved(equations: NDArray[Any]) -> Mask:
    """(u,) the unknowns that linear equations (e, u) fix: those whose own unit vector is a combination of the equations.
    Its share in the space that they span (the leverage) is then 1, and below 1 for all others."""
    matrix = np.asarray(equations, np.float64)
    values, directions = np.linalg.eigh(matrix @ matrix.T)
    kept = values > 1e-9 * max(float(values.max(initial=0.0)), 1.0)
    share = ((directions[:, kept].T @ matrix) ** 2 / values[kept, None]).sum(axis=0)
    return np.asarray(share > 1 - 1e-9)


def _hide_one_more(cells: Counts, blank: Mask, overall: Mask, place: Counts) -> bool:
    """Hide, in place, what loosens the equations of a determined cell: the overall cell of its row, or another of its row,
    of its column, or of the overall column. False where all of these are hidden."""
    i, j = int(place[0]), int(place[1])
    total = cells.sum(axis=1)
    if not overall[i]:
        overall[i] = True
        return True
    column = total if j == cells.shape[1] else cells[:, j]
    mask = overall if j == cells.shape[1] else blank[:, j]
    for counts, shown in ((cells[i], blank[i]), (column, mask), (total, overall)):
        left = (counts > 0) & ~shown
        if left.any():
            shown[_smallest(np.where(left, counts, 0))] = True
            return True
    return False


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
