"""A contribution is a tree of typed leaves: what each array may disclose, how large it is, and what bounds it.

The leaf is what encoding (its bound fixes the quantum), disclosure control (its rule) and the disclosure sheet
(its name, shape and meaning) all read. Bounds may be arrays: one bound for each element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["count", "curve", "moment", "update"]
"""What kind of thing a leaf is, and so which disclosure rule holds for it:

- ``count``: numbers of patients or events in cells; integers, exact; small cells are blanked in what is released.
- ``curve``: counts along a declared grid; integers, exact; merged until no released interval is small; tails cut.
- ``moment``: sums of bounded functions of patients (scores, information matrices, sums of squares).
- ``update``: a clipped difference of model parameters.
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
