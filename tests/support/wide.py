"""A method whose one sum is large: an update of a million float32, some megabytes on the line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unisono.federation.contribution import Declaration, Facts, contribution, within
from unisono.methods import registry
from unisono.methods.base import Method, PlannedAsk, Result, Spec
from unisono.protection.leaves import update
from unisono.study.document import Study
from unisono.study.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unisono.federation.federation import Federation

SIZE = 1_000_000


class WideSpec(Spec):
    """variable: any number variable."""

    variable: str


class Found(Result):
    """How far the sum is from what it should be."""

    def summary(self) -> pd.DataFrame:
        return pd.DataFrame(self.estimates, index=[0])

    def headline(self) -> str:
        return str(self.estimates)

    def plot(self) -> Figure:
        raise NotImplementedError


class Wide(Method[WideSpec]):
    """Every site sends the same line from -1/2 to 1/2."""

    name = "test-wide"
    version = 1
    spec_type = WideSpec

    def variables(self) -> tuple[str, ...]:
        return (self.spec.variable,)

    def prepare(self, table: Table) -> NDArray[np.float64]:
        return table[self.spec.variable]

    @contribution
    def line(self, _data: NDArray[np.float64], at: float) -> dict[str, NDArray[np.float32]]:
        """(SIZE,) float32."""
        return {"line": np.linspace(-at, at, SIZE, dtype=np.float32)}

    @line.declares
    def _(self, _facts: Facts, at: float) -> Declaration:
        return Declaration({"line": update((SIZE,), 1.0, "A line.")}, {"at": within((), 1.0)})

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.line, (0.5,), 1),)

    async def run(self, federation: Federation) -> Result:
        found = await federation.sum(self.line, 0.5)
        mean = np.asarray(found["line"]) / len(federation.sites)
        error = float(np.abs(mean - np.linspace(-0.5, 0.5, SIZE)).max())
        return self.result(self.study, self.analysis, {"error": error})

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> Found:
        return Found(study, analysis, estimates, **rest)


def install() -> None:
    """For good, in this process."""
    registry.methods()  # the built-in ones first
    registry._registered[Wide.name] = Wide


@contextmanager
def installed() -> Iterator[None]:
    """For a while."""
    install()
    try:
        yield
    finally:
        del registry._registered[Wide.name]
