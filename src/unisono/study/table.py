"""A site's patients in the study's variables: one float64 column a variable, NaN where missing.

Numbers are in the study's unit; booleans are 0/1; a category is the index of its level. This is what the data floor
makes of a hospital's file, and what the methods read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Columns of equal length `n`, by variable name."""

    columns: Mapping[str, Column] = field(repr=False)  # patients do not get into a log by way of a message
    n: int

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def rows(self, keep: NDArray[np.bool_]) -> Table:
        """The rows where `keep` (n,) is true."""
        if keep.all():
            return self
        return Table({name: column[keep] for name, column in self.columns.items()}, int(keep.sum()))

    def only(self, names: Sequence[str]) -> Table:
        """The named columns."""
        return Table({name: self.columns[name] for name in names}, self.n)


def stack(tables: Sequence[Table]) -> Table:
    """All patients in one table: what pooling would give. For references in tests and the demo's comparison only."""
    names = list(tables[0].columns)
    return Table({k: np.concatenate([t[k] for t in tables]) for k in names}, sum(t.n for t in tables))
