"""Risk sets on a grid without listing them: sums over who is at risk at each time, and weights that come back from there.

A patient is at risk at grid time k if entry < k <= exit. Sums over the risk sets of all times are then one pass over the
patients (by exit, less those not yet entered) and one backwards cumulated sum along the grid; no time-by-patient table and
no (n, p, p) array is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.methods.design import Design, Matrix, Vector
from unisono.methods.survival.follow_up import Axis, Flags, Index
from unisono.study.table import Table

_CHUNK = 1 << 14
"""Patients in one block of a weighted cross-product: p by this many numbers stay in the processor's cache."""


@dataclass(frozen=True)
class RiskData:
    """A site's patients in order of exit.

    z: (p, n) covariates within [-1, 1]. exit, entry: (n,) grid positions (entry None: at risk from the start).
    event: (n,). weight: (n,) case weights, None where all are 1. length: k, of the grid.
    starts, present: (e,) first patient of each distinct exit, and that exit.
    rows, at: (d,) the patients with the event, and its grid position. deaths: (k,) how many at each time.
    """

    z: Matrix
    exit: Index
    entry: Index | None
    event: Flags
    weight: Vector | None
    length: int
    starts: NDArray[np.int64]
    present: Index
    rows: NDArray[np.int64]
    at: Index
    deaths: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Patients."""
        return len(self.exit)

    def weighted(self, values: Vector) -> Vector:
        """(n,) `values` times the case weights."""
        return values if self.weight is None else values * self.weight

    def over_risk_sets(self, values: Vector) -> Vector:
        """(k,) sum of `values` (n,) over the patients at risk at each grid time."""
        by_exit = np.zeros(self.length)
        if self.n:
            by_exit[self.present] = np.add.reduceat(values, self.starts)
        if self.entry is not None:
            by_exit -= np.bincount(self.entry, values, self.length)
        return np.cumsum(by_exit[::-1])[::-1]

    def over_events(self, values: Vector) -> Vector:
        """(k,) sum of `values` (n,) over the patients with the event at each grid time."""
        return np.asarray(np.bincount(self.at, values[self.rows], self.length), np.float64)

    def spread(self, at_risk: Vector, at_event: Vector) -> Vector:
        """(n,) for each patient, the sum of `at_risk` (k,) over the times at risk, less `at_event` (k,) at the event."""
        cumulated = np.concatenate([[0.0], np.cumsum(at_risk)])
        a = np.repeat(cumulated[self.present + 1], np.diff(self.starts, append=self.n))
        if self.entry is not None:
            a -= cumulated[self.entry + 1]
        a[self.rows] -= at_event[self.at]
        return a


def risk_data(design: Design, axis: Axis, table: Table, weights: str | None) -> RiskData:
    """A site's cohort in order of exit; patients with weight 0 are left out. Never holds a second copy of the covariates."""
    if weights is not None:
        table = table.rows(table[weights] > 0)
    exit_ = axis.exits(table)
    entry, event = axis.entries(table), axis.events(table)
    order = np.argsort(exit_, kind="stable")
    z = np.empty((design.p, table.n))
    for j, column in enumerate(design.columns):
        np.take(column.values(table), order, out=z[j])
        z[j] -= column.centre
        z[j] /= column.half
    exit_, event = exit_[order], event[order]
    starts = np.flatnonzero(np.diff(exit_, prepend=-1))
    rows = np.flatnonzero(event)
    return RiskData(
        z=z,
        exit=exit_,
        entry=None if entry is None else entry[order],
        event=event,
        weight=None if weights is None else table[weights][order],
        length=axis.length,
        starts=starts,
        present=exit_[starts],
        rows=rows,
        at=exit_[rows],
        deaths=np.bincount(exit_[rows], minlength=axis.length),
    )


def weighted_gram(z: Matrix, weights: Vector) -> Matrix:
    """``z diag(weights) z^T`` (p, p), in blocks of patients."""
    total = np.zeros((z.shape[0], z.shape[0]))
    for start in range(0, z.shape[1], _CHUNK):
        block = z[:, start : start + _CHUNK]
        total += (block * weights[start : start + _CHUNK]) @ block.T
    return total


def pack_symmetric(matrix: Matrix) -> Vector:
    """The upper triangle, row by row: p (p + 1) / 2 numbers."""
    return np.asarray(matrix[np.triu_indices(matrix.shape[0])], np.float64)


def unpack_symmetric(packed: Vector, p: int) -> Matrix:
    """The symmetric matrix (p, p) of an upper triangle."""
    matrix = np.zeros((p, p))
    matrix[np.triu_indices(p)] = packed
    return np.asarray(matrix + np.triu(matrix, 1).T, np.float64)
