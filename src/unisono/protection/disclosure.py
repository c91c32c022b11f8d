"""Disclosure control: which cells and which points of a curve may be shown, and when a site is too small to answer.

Pure functions. `blank_cells`, `release_points` and `say_count` work on *opened totals*, before a result is written;
`suppress_small`, `enough_patients` and `enough_for_parameters` work at a site, before anything leaves.
(design/architecture.md, *small cells* and *parameters against n*.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DisclosureRefusal

Counts = NDArray[Any] | Sequence[int]
"""Whole numbers, 1-d where a function says so; opened totals come as float64 and are taken as they are."""


def blank_cells(counts: Counts, min_count: int, *, total_known: bool = True) -> list[int | None]:
    """The cells of one table margin, (k,), with `None` for each that may not be shown. Zeros stay.

    A cell in 1..min_count-1 is blanked. Where the margin's total is known (the default), whatever is blanked can be
    got back as total minus the rest, so the blanked cells *together* must hold `min_count` patients too: the next
    smallest non-zero cells are blanked until they do. (Secondary suppression; Hundepool et al., Statistical Disclosure
    Control, 2012, section 4.2.)
    """
    cells = _whole(counts)
    blank = (cells > 0) & (cells < min_count)
    if total_known and blank.any():
        for k in np.argsort(cells, kind="stable"):
            if cells[blank].sum() >= min_count:
                break
            blank[k] = blank[k] or cells[k] > 0
    return [None if hidden else int(n) for n, hidden in zip(cells, blank, strict=True)]


def release_points(changes: Counts, at_risk: Counts, min_count: int) -> NDArray[np.int64]:
    """Indices of the grid times at which a survival curve may be released, increasing, (r,).

    changes: (g,) events plus censorings at each grid time. at_risk: (g,) patients at risk just before it.
    Between two released points at least `min_count` patients changed state, so that no step of the curve belongs to
    fewer; and the tail is cut where fewer than `min_count` are still at risk. With delayed entry the risk set may also
    be small at the start: nothing is released before it has grown.
    """
    moved, left = _whole(changes), _whole(at_risk)
    if moved.shape != left.shape:
        raise ValueError(f"changes has shape {moved.shape}, at_risk {left.shape}")
    enough = left >= min_count
    released: list[int] = []
    since = 0
    begun = False
    for k in range(len(moved)):
        if begun and not enough[k]:
            break
        begun = begun or bool(enough[k])
        since += int(moved[k])
        if enough[k] and since >= min_count:
            released.append(k)
            since = 0
    return np.array(released, np.int64)


def say_count(n: int, min_count: int) -> str:
    """A number of patients as text: ``"<10"`` where the number itself may not be shown; zero is shown."""
    return f"<{min_count}" if 0 < n < min_count else str(n)


def suppress_small(counts: NDArray[Any], min_count: int) -> tuple[NDArray[Any], int]:
    """For ``hide: none``, at the site: a copy with every cell in 1..min_count-1 set to 0, and how many were."""
    cells = np.asarray(counts)
    small = (cells > 0) & (cells < min_count)
    return np.where(small, np.zeros((), cells.dtype), cells), int(small.sum())


def enough_patients(n: int, min_patients: int) -> None:
    """`DisclosureRefusal` if a site has fewer than `min_patients` in the cohort. The number itself is not said."""
    if n < min_patients:
        raise DisclosureRefusal(
            f"This site has fewer than {min_patients} patients in the cohort.",
            rule="enough-patients",
            remedy="Widen the cohort (inclusion criteria, missing-data rule), or leave this site out of the study.",
        )


def enough_for_parameters(n: int, p: int, fraction: float = 0.2) -> None:
    """`DisclosureRefusal` if `p` fitted parameters are more than `fraction` of `n` patients: so many sums about so few
    patients come close to the patients themselves."""
    if p > fraction * n + 1e-9:  # 0.2 is not exact in binary
        needed = int(np.ceil(p / fraction - 1e-9))
        raise DisclosureRefusal(
            f"The analysis fits {p} parameters, more than {fraction:g} of the number of patients.",
            rule="parameters-against-patients",
            remedy=f"Use fewer covariates or levels, or a cohort of at least {needed} patients.",
        )


def _whole(counts: Counts) -> NDArray[np.int64]:
    cells = np.asarray(counts)
    if cells.ndim != 1:
        raise ValueError(f"expected one dimension, got shape {cells.shape}")
    whole: NDArray[np.int64] = np.rint(cells).astype(np.int64)
    return whole
