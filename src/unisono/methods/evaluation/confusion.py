"""Confusion matrices: sensitivity, specificity, predictive values, accuracy and F1, with Wilson's intervals.

A cell of fewer than `min_count` patients is hidden, and further cells until no hidden one follows from those shown, the
totals and the accuracy; a rate that would give a hidden cell away is hidden with it. Accuracy and mean F1 are over all
patients, and shown unless they alone would tell a small cell. A class that nobody has has no F1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.evaluation.base import Counts, Rules
from unisono.methods.evaluation.intervals import HIDDEN, Metric, metric, wilson
from unisono.methods.statistics.suppression import hide_cells, hide_groups, solved

Mask = NDArray[np.bool_]


def binary(positive: tuple[int, int], negative: tuple[int, int], threshold: float, rules: Rules) -> dict[str, Any]:
    """positive, negative: (at or above the threshold, below it), of patients with and without the outcome."""
    cells = np.array([[positive[0], negative[0]], [positive[1], negative[1]]])
    hidden = bool(hidden_cells(cells, rules.min_count)[0].any())
    tells = hidden and not cells.sum(axis=0).all()  # of one outcome only: the accuracy is its one rate
    (tp, fp), (fn, tn) = cells.tolist()
    names = ("true_positive", "false_negative", "false_positive", "true_negative")
    rates = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "positive_predictive_value": (tp, tp + fp),
        "negative_predictive_value": (tn, tn + fn),
    }
    return {
        "threshold": threshold,
        **{name: None if hidden else n for name, n in zip(names, (tp, fn, fp, tn), strict=True)},
        **{k: dict(HIDDEN) if hidden else wilson(a, b, rules.confidence) for k, (a, b) in rates.items()},
        "f1": dict(HIDDEN) if hidden or not tp + fn else metric(_f1(cells)[0]),
        "accuracy": dict(HIDDEN) if tells else wilson(tp + tn, tp + fn + fp + tn, rules.confidence),
    }


def multiclass(matrix: Counts, classes: tuple[str, ...], rules: Rules) -> dict[str, Any]:
    """matrix: (k, k) patients by predicted class (rows) and true class (columns)."""
    blank, rows, columns, tells = hidden_cells(matrix, rules.min_count)
    right = np.diag(matrix)
    f1 = _f1(matrix)
    truly = matrix.sum(axis=0)
    present = truly > 0

    def rate(k: int, of: int, hide: bool) -> Metric:
        return dict(HIDDEN) if hide or blank[k, k] else wilson(int(right[k]), of, rules.confidence)

    return {
        "classes": list(classes),
        "matrix": [[None if no else int(n) for n, no in zip(*r, strict=True)] for r in zip(matrix, blank, strict=True)],
        "per_class": [
            {
                "class": name,
                "n": None if columns[k] else int(truly[k]),
                "recall": rate(k, int(truly[k]), bool(columns[k])),
                "precision": rate(k, int(matrix[k].sum()), bool(rows[k])),
                "f1": metric(None if not truly[k] or blank[k].any() or blank[:, k].any() else f1[k]),
            }
            for k, name in enumerate(classes)
        ],
        "accuracy": dict(HIDDEN) if tells else wilson(int(right.sum()), int(matrix.sum()), rules.confidence),
        "macro_f1": _mean_f1(f1, present, blank, tells),
        "weighted_f1": _mean_f1(f1, truly, blank, tells),
    }


def _mean_f1(f1: NDArray[np.float64], weights: NDArray[Any], blank: Mask, tells: bool) -> Metric:
    """To two decimals where cells are hidden: with all of its digits, one number can tell which whole cells made it."""
    if tells or not weights.any():
        return dict(HIDDEN)
    mean = float((f1 * weights).sum() / weights.sum())
    return metric(round(mean, 2) if blank.any() else mean)


def hidden_cells(matrix: Counts, min_count: int) -> tuple[Mask, Mask, Mask, bool]:
    """Which cells (k, k), row totals (k,) and column totals (k,) are hidden, and whether the accuracy must be too.

    Beside what `suppression.hide_cells` guards against, the accuracy tells the sum of the diagonal: further cells are hidden, the
    smallest first and those of nobody last, until no small one follows. A class that nobody has is known to have no cells;
    if therefore one still follows, the accuracy goes.
    """
    columns = hide_groups(matrix.sum(axis=0), min_count)
    blank, rows = hide_cells(matrix, columns, min_count)
    there = matrix.sum(axis=0) > 0
    while _follows(matrix, blank, rows, columns, min_count):
        left = np.argwhere(~blank & (matrix > 0))
        if len(left):
            i, j = left[np.argmin(matrix[tuple(left.T)])]
            blank[i, j] = True
        elif not (rows.all() and blank[:, there].all()):
            rows[:] = True
            blank[:, there] = True
        else:
            return blank, rows, columns, True
    return blank, rows, columns, False


def _follows(matrix: Counts, blank: Mask, rows: Mask, columns: Mask, min_count: int) -> bool:
    """Whether a hidden small cell is the same in all solutions of a reader's linear equations: then the equation that says
    what it is lies in the space that theirs span."""
    places = np.argwhere(blank)
    small = (matrix[blank] > 0) & (matrix[blank] < min_count)
    if not small.any():
        return False
    k = np.arange(len(matrix))[:, None]
    row, column = places.T
    known = [(row == k)[~rows], (column == k)[~columns], (row == column)[None, :], np.ones((1, len(places)), bool)]
    return bool((small & solved(np.vstack(known))).any())


def _f1(matrix: Counts) -> NDArray[np.float64]:
    """(k,) 2 right / (predicted + true); 0 for a class that is neither."""
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.asarray(np.divide(2.0 * np.diag(matrix), both, out=np.zeros(len(matrix)), where=both > 0), np.float64)
