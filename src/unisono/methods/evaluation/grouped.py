"""Which neighbouring bins of a score are shown as one, so that no small cell is: the cuts of what is released.

A cell is the patients with, or without, the outcome between two cuts. The ROC curve, the reliability table and the
confusion matrix of one score all use cuts of one set: two sets could be subtracted, and leave a patient between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unisono.methods.evaluation.base import Counts


def fits(cells: Counts, min_count: int) -> bool:
    """Whether these cells may be shown: each holds nobody, or `min_count` patients."""
    return bool(((cells == 0) | (cells >= min_count)).all())


def cuts(positive: Counts, negative: Counts, min_count: int, fixed: Sequence[int] = (), most: int = 100) -> list[int]:
    """Edges (0 < e < b, increasing) between groups of neighbouring bins; each group's two cells may be shown, and a group
    holds at least 1 / `most` of the patients.

    fixed: edges wanted in any case (a threshold); one at which the cells on both sides may not be shown is left out.
    """
    table = np.stack([positive, negative])
    before = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(table, axis=1)], axis=1)
    kept = [0]
    for edge in sorted({*fixed}):
        if 0 < edge < len(positive) and fits(before[:, edge] - before[:, kept[-1]], min_count):
            kept.append(edge)
    while len(kept) > 1 and not fits(before[:, -1] - before[:, kept[-1]], min_count):
        kept.pop()
    least = max(min_count, int(np.ceil(int(before[:, -1].sum()) / most)))
    found: list[int] = []
    for first, last in zip(kept, [*kept[1:], len(positive)], strict=True):
        found += [*([first] if first else []), *_between(before, first, last, min_count, least)]
    return found


def _between(before: Counts, first: int, last: int, min_count: int, least: int) -> list[int]:
    """Cuts strictly between two edges, greedily from below; the rest joins the last groups until it may be shown."""
    found: list[int] = []
    since = first
    for edge in range(first + 1, last):
        cells = before[:, edge] - before[:, since]
        if int(cells.sum()) >= least and fits(cells, min_count):
            found.append(edge)
            since = edge
    while found:
        cells = before[:, last] - before[:, found[-1]]
        if int(cells.sum()) >= least and fits(cells, min_count):
            break
        found.pop()
    return found


def summed(counts: Counts, edges: Sequence[int]) -> Counts:
    """(len(edges) + 1,) of (b,): the number of patients in each group."""
    return np.add.reduceat(counts, np.array([0, *edges])) if len(counts) else counts
