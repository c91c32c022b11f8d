"""A contribution is a tree of typed leaves: what each array may disclose, how large it is, and what bounds it.

The leaf is what encoding (its bound fixes the quantum), disclosure control (its rule) and the disclosure sheet
(its name, shape and meaning) all read. Bounds may be arrays: one bound for each element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError

Rule = Literal["count", "curve", "moment", "update", "blob"]
"""What kind of thing a leaf is, and so which disclosure rule holds for it:

- ``count``: numbers of patients or events in cells; integers, exact; small cells are blanked in what is released.
- ``curve``: counts along a declared grid; integers, exact; merged until no released interval is small; tails cut.
- ``moment``: sums of bounded functions of patients (scores, information matrices, sums of squares).
- ``update``: a clipped difference of model parameters.
- ``blob``: bytes of one site, which cannot be summed: for `collect` alone, where the coordinator sees them.
"""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Leaf:
    """One array of a contribution.

    shape: of the array; ``()`` for a number.
    bound: the largest absolute value one site's part can have, > 0; a scalar or an array of `shape`.
    meaning: one plain sentence for the disclosure sheet.
    """

    rule: Rule
    shape: tuple[int, ...]
    bound: float | Float
    meaning: str

    @property
    def integer(self) -> bool:
        """Counts and curves are whole numbers and are summed without any rounding."""
        return self.rule in ("count", "curve")

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


def count(shape: tuple[int, ...], bound: float, meaning: str) -> Leaf:
    """Numbers of patients or events, at most `bound` at one site in one cell."""
    return Leaf("count", shape, bound, meaning)


def curve(shape: tuple[int, ...], bound: float, meaning: str) -> Leaf:
    """Numbers of patients or events along a grid (last axis), at most `bound` at one site in one cell."""
    return Leaf("curve", shape, bound, meaning)


def moment(shape: tuple[int, ...], bound: float | Float, meaning: str) -> Leaf:
    """Sums over a site's patients of a bounded function; `bound` holds for the whole site's sum."""
    return Leaf("moment", shape, bound, meaning)


def update(shape: tuple[int, ...], bound: float, meaning: str) -> Leaf:
    """A difference of model parameters, clipped element by element to [-bound, bound]: one bound for the whole leaf.

    Unlike the other kinds, a value outside the bound is clipped (and counted), not refused. `MethodError` if the bound is
    no positive number.
    """
    leaf = Leaf("update", shape, bound, meaning)
    update_bound(leaf)
    return leaf


def blob(most: int, meaning: str) -> Leaf:
    """At most `most` bytes, of any length (uint8)."""
    return Leaf("blob", (most,), 255.0, meaning)


def update_bound(leaf: Leaf) -> float:
    """The bound of an update leaf; `MethodError` unless it is one positive number."""
    bound = np.asarray(leaf.bound, np.float64)
    if bound.ndim != 0 or not np.isfinite(bound) or bound <= 0:
        raise MethodError(
            "The bound of an update is not one positive number.",
            rule="update-bound",
            remedy="Declare one clipping bound for the leaf; parameters of different size go into different leaves.",
        )
    return float(bound)
