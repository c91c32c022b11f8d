"""A federation without sites, network or masks: each table's contribution is encoded, added and decoded. For method tests.

The real federation opens exactly the same sums (`tests/test_engines_*` prove it), so a method that equals its pooled
reference here equals it everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.federation.contribution import BoundContribution, BoundReceipt, Facts
from unisono.methods.base import Method, Result
from unisono.protection.encoding import exact
from unisono.study.table import Table


class PlainFederation:
    """The part of `Federation` that methods use, over tables in memory."""

    def __init__(self, method: Method[Any], tables: Sequence[Table]) -> None:
        self.data = [method.prepare(t.only(method.variables())) for t in tables]
        self.weights = [t.n for t in tables]
        self.facts = Facts(patients=sum(self.weights))
        self.steps: list[str] = []
        self.told: list[list[dict[str, Any]]] = []

    async def sum(self, contribution: BoundContribution[..., Any], *arguments: Any) -> Any:
        leaves = contribution.declaration(self.facts, *arguments).leaves
        parts = [exact.encode(contribution.compute(data, *arguments), leaves) for data in self.data]
        self.steps.append(contribution.name)
        return contribution.rebuild(exact.decode(np.add.reduce(parts), leaves))

    async def tell(self, receipt: BoundReceipt[...], *arguments: Any) -> None:
        self.told.append([receipt.compute(data, *arguments) for data in self.data])


def answer(method: Method[Any], tables: Sequence[Table]) -> Result:
    """Run a method's coordinator half over tables."""
    return asyncio.run(method.run(PlainFederation(method, tables)))  # type: ignore[arg-type]
