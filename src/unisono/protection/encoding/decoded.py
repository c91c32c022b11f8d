"""What an opened sum says: the tree of totals, and how many values the sites had clipped."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Decoded:
    """tree: the leaves' totals, float64 of the declared shapes. clipped: values of update leaves, over all sites, that
    were outside their leaf's bound and went in at the bound."""

    tree: dict[str, NDArray[np.float64]] = field(repr=False)
    clipped: int
