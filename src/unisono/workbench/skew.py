"""Who is where: every patient at exactly one site, by label skew and by quantity skew.

Pure functions of counts, labels and a generator.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unisono.errors import StudyError

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


def sizes(n: int, sites: int, least: int, concentration: float | None, rng: Generator) -> Counts:
    """(sites,) patients of each site, adding up to n: `least` each, and of the rest a share drawn from a Dirichlet with
    `concentration` (equal shares, if None). The smaller the concentration, the more one site has of the rest."""
    rest = n - sites * least
    if rest < 0:
        raise StudyError(
            f"{n} patients are too few for {sites} sites of at least {least}.",
            rule="least-patients",
            remedy=f"Split over at most {max(n // max(least, 1), 1)} sites, or lower --least.",
        )
    shares = np.full(sites, 1 / sites) if concentration is None else _dirichlet(np.full(sites, concentration), rng)
    return least + whole(shares * rest, rest)


def by_label(labels: Counts, site_sizes: Counts, concentration: float | None, rng: Generator) -> tuple[Counts, Shares]:
    """(n,) the site of each patient; (sites, classes) the mix that each site drew.

    Each site draws a mix of classes from a Dirichlet around the prevalences, with `concentration` times the prevalence as its
    parameters (Hsu, Qi & Brown 2019, arXiv:1909.06335, section 3); None: the prevalences themselves. Patients are then dealt one at
    a time, in random turns, as many to each site as `site_sizes` says: a class from the site's mix, and of that class the next
    patient. A class of which nobody is left falls out of every mix; so all are dealt, and no site has only what others left.
    """
    classes = int(labels.max()) + 1
    prevalence = np.bincount(labels, minlength=classes) / len(labels)
    sites = len(site_sizes)
    mixes = np.tile(prevalence, (sites, 1))
    if concentration is not None:
        mixes = np.stack([_dirichlet(concentration * prevalence, rng) for _ in range(sites)])
    piles = [rng.permutation(np.flatnonzero(labels == c)).tolist() for c in range(classes)]
    turns = rng.permutation(np.repeat(np.arange(sites), site_sizes))
    chances = rng.random(len(labels))
    place = np.empty(len(labels), np.int64)
    ladders = _ladders(mixes, piles)
    for site, chance in zip(turns.tolist(), chances.tolist(), strict=True):
        c = int(np.searchsorted(ladders[site], chance, side="right"))
        place[piles[c].pop()] = site
        if not piles[c]:
            ladders = _ladders(mixes, piles)
    return place, mixes


def whole(shares: Shares, total: int) -> Counts:
    """Shares that add up to `total`, as whole numbers that do: rounded down, and one more where the most was cut off."""
    floor = np.floor(shares + 1e-9).astype(np.int64)
    left = total - int(floor.sum())
    most = np.argsort(-(shares - floor), kind="stable")[:left]
    floor[most] += 1
    return floor


def _dirichlet(concentration: Shares, rng: Generator) -> Shares:
    """One draw. Far below 1 the usual way (gammas divided by their sum) gives 0 / 0: so by logarithms, from
    gamma(a) = gamma(a + 1) * uniform^(1/a)."""
    logs = np.log(rng.gamma(concentration + 1)) + np.log(rng.random(len(concentration))) / concentration
    weights = np.exp(logs - logs.max())
    shares: Shares = weights / weights.sum()
    return shares


def _ladders(mixes: Shares, piles: list[list[int]]) -> Shares:
    """(sites, classes) the mixes over the classes that are left, added up along them: the last rung is 1. A site whose mix holds
    nothing any more draws from all that is left, by how many there are."""
    left = np.array([len(pile) for pile in piles], np.float64)
    if not left.any():
        return np.cumsum(mixes, axis=1)
    weights = np.where(left > 0, mixes, 0.0)
    none = weights.sum(axis=1) < 1e-12
    weights[none] = left
    ladders: Shares = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    last = int(np.flatnonzero(left)[-1])
    ladders[:, last:] = 1.0
    return ladders
