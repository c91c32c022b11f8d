"""A federated answer beside the answer that pooling would have given: for simulations, where pooling is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Row:
    """One number both ways, in the quantity's own unit; `difference` is what the reader should look at (the demo gives it
    relative to the pooled value)."""

    quantity: str
    federated: float
    pooled: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they show, in one sentence."""

    rows: tuple[Row, ...]
    sentence: str

    @staticmethod
    def of(rows: list[tuple[str, float, float]], sentence: str) -> Comparison:
        """From (quantity, federated, pooled): `difference` relative to the pooled value, absolute where that is 0."""
        made = []
        for quantity, federated, pooled in rows:
            gap = abs(federated - pooled)
            made.append(Row(quantity, federated, pooled, gap / abs(pooled) if pooled else gap))
        return Comparison(tuple(made), sentence)

    @property
    def largest(self) -> float:
        """The largest difference, 0 without rows."""
        return max((row.difference for row in self.rows), default=0.0)

    def frame(self) -> pd.DataFrame:
        """One line a quantity."""
        columns = ["quantity", "federated", "pooled", "difference"]
        return pd.DataFrame([vars(row) for row in self.rows], columns=columns).set_index("quantity")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"sentence": self.sentence, "rows": [vars(row).copy() for row in self.rows]}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Comparison:
        """What `to_dict` gave."""
        return Comparison(tuple(Row(**row) for row in data["rows"]), str(data["sentence"]))
