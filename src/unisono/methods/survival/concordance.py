"""Harrell's concordance within one site: of the pairs in which one is known to have had the event first, how many had the
higher risk score? Exact, in O(n log n).

Harrell, Califf, Pryor, Lee & Rosati (1982). A pair (i, j) is comparable if i had the event while j was at risk, and j
stayed event-free beyond that time (a censoring at the same time counts as beyond).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.design import Vector
from unisono.methods.survival.risk_sets import RiskData

Ints = NDArray[np.integer[Any]]

_DECIMALS = 10
"""Equal covariates may give scores that differ in the last bits (summation order); these are ties."""


@dataclass(frozen=True)
class Pairs:
    """Numbers of comparable pairs."""

    concordant: float
    discordant: float
    tied: float

    @property
    def index(self) -> float | None:
        """(concordant + tied / 2) / comparable; None without a comparable pair."""
        total = self.concordant + self.discordant + self.tied
        return float((self.concordant + self.tied / 2) / total) if total else None


def pairs(data: RiskData, scores: Vector) -> Pairs:
    """Counts over the site's patients; `scores` (n,), higher means an earlier event is expected. Case weights are not used."""
    _, rank = np.unique(np.round(scores, _DECIMALS), return_inverse=True)
    rank = rank.astype(np.int32)
    key = (2 * data.exit + ~data.event).astype(np.int32)  # a censoring is after the events of its time
    event_key, event_rank = key[data.rows], rank[data.rows]
    counts = np.array(_later(event_key, event_rank, key, rank), np.float64)
    if data.entry is not None:  # those who came under observation at or after i's event are no partners of i
        counts -= np.array(_later(event_key, event_rank, (2 * data.entry + 1).astype(np.int32), rank), np.float64)
    lower, same, total = counts
    return Pairs(float(lower), float(total - lower - same), float(same))


def _later(query_key: Ints, query_rank: Ints, point_key: Ints, point_rank: Ints) -> tuple[int, int, int]:
    """Over all (query, point) with the point's key above the query's: how many have a lower rank, the same rank, any rank.

    Items are kept in order of key while they are split by the bits of their rank, highest first: two ranks differ first at
    exactly one bit, and there the pair is in one block, counted by a cumulated sum.
    """
    bits = max(int(point_rank.max(initial=0)), int(query_rank.max(initial=0))).bit_length()
    key = np.concatenate([query_key, point_key])
    order = np.argsort(key, kind="stable")
    rank = np.concatenate([query_rank, point_rank])[order]
    query = (np.arange(len(key)) < len(query_key))[order]
    key = key[order]
    everything = _after(key, np.zeros_like(rank), query, ~query)
    lower = 0
    for bit in range(bits - 1, -1, -1):
        block, one = rank >> (bit + 1), (rank >> bit) & 1 == 1
        lower += _after(key, block, query & one, ~query & ~one)
        split = np.argsort(rank >> bit, kind="stable")
        key, rank, query = key[split], rank[split], query[split]
    return lower, _after(key, rank, query, ~query), everything


def _after(key: Ints, block: Ints, query: NDArray[Any], point: NDArray[Any]) -> int:
    """Pairs of a query and a point of one block with a larger key. Items are in order of (block, key)."""
    if not len(key):
        return 0
    below = np.concatenate([[0], np.cumsum(point)])
    new_block = np.diff(block, append=block[-1] + 1) != 0
    run_ends = np.flatnonzero((np.diff(key, append=key[-1] + 1) != 0) | new_block)
    block_ends = np.flatnonzero(new_block)
    at = np.flatnonzero(query)
    end_of_run = run_ends[np.searchsorted(run_ends, at)]
    end_of_block = block_ends[np.searchsorted(block_ends, at)]
    return int((below[end_of_block + 1] - below[end_of_run + 1]).sum())
