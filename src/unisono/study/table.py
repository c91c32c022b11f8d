"""A site's patients in the study's variables: one float64 column a variable, NaN where missing; and their images.

Numbers are in the study's unit; booleans are 0/1; a category is the index of its level. An image's column says whether
there is one and which: the first 52 bits of its file's SHA-256, NaN where missing. So rules about missing values, and
the fingerprints of rows, hold for images as they do for numbers. This is what the data floor makes of a hospital's
files, and what the methods read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
Images = NDArray[np.float32]
"""(n, channels, height, width) within [0, 1]; all zero where a patient has none."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length `n`, by variable name; of an image variable its pictures too."""

    columns: Mapping[str, Column] = field(repr=False)  # patients do not get into a log by way of a message
    n: int
    images: Mapping[str, Images] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def rows(self, keep: NDArray[np.bool_]) -> Table:
        """The rows where `keep` (n,) is true."""
        if keep.all():
            return self
        return Table(
            {name: column[keep] for name, column in self.columns.items()},
            int(keep.sum()),
            {name: images[keep] for name, images in self.images.items()},
        )

    def only(self, names: Sequence[str]) -> Table:
        """The named columns, with their images."""
        return Table(
            {name: self.columns[name] for name in names},
            self.n,
            {name: self.images[name] for name in names if name in self.images},
        )

    def without_images(self) -> Table:
        """The columns alone: which patients have images is in them, and images are large."""
        return Table(self.columns, self.n)

    def having(self, columns: Mapping[str, Column]) -> Table:
        """The same patients and images, with these columns."""
        return Table(columns, self.n, self.images)


def stack(tables: Sequence[Table]) -> Table:
    """All patients in one table: what pooling would give. For references in tests and the demo's comparison only."""
    return Table(
        {name: np.concatenate([t[name] for t in tables]) for name in tables[0].columns},
        sum(t.n for t in tables),
        {name: np.concatenate([t.images[name] for t in tables]) for name in tables[0].images},
    )
