"""A federated answer beside the answer that pooling would have given: for simulations, where pooling is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

Row = tuple[str, float | None, float | None]
"""(quantity, federated, pooled), both in the quantity's own unit; None where a number may not be shown."""


@dataclass(frozen=True)
class Comparison:
    """Every compared number, and what was compared with what, in one sentence."""

    rows: tuple[Row, ...]
    sentence: str

    @property
    def differences(self) -> tuple[float | None, ...]:
        """For each row ``|federated - pooled| / |pooled|``; the plain difference where the pooled value is 0."""
        return tuple(_difference(federated, pooled) for _, federated, pooled in self.rows)

    @property
    def largest(self) -> float:
        """The largest difference; 0 without rows."""
        return max((d for d in self.differences if d is not None), default=0.0)

    def frame(self) -> pd.DataFrame:
        """One line a quantity: federated, pooled, relative difference."""
        rows = [(*row, gap) for row, gap in zip(self.rows, self.differences, strict=True)]
        return pd.DataFrame(rows, columns=["quantity", "federated", "pooled", "difference"]).set_index("quantity")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        keys = ("quantity", "federated", "pooled")
        return {"sentence": self.sentence, "rows": [dict(zip(keys, row, strict=True)) for row in self.rows]}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Comparison:
        """What `to_dict` gave."""
        rows = tuple((str(r["quantity"]), r["federated"], r["pooled"]) for r in data["rows"])
        return Comparison(rows, str(data["sentence"]))


def _difference(federated: float | None, pooled: float | None) -> float | None:
    if federated is None or pooled is None:
        return None
    gap = abs(federated - pooled)
    return gap / abs(pooled) if pooled else gap
