"""Methods that only tests know: a mean, a loop with snapshots, updates, a sum to a site, and some that no reviewer lets pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unisono.federation.contribution import Declaration, Facts, contribution, receipt, within
from unisono.methods import registry
from unisono.methods.base import Method, PlannedAsk, Result, Spec
from unisono.protection.leaves import count, moment, update
from unisono.study.document import Study
from unisono.study.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unisono.federation.federation import Federation

ROUNDS = 12
EVERY = 4
SIZE = 300
READER = "turin"


class OneVariable(Spec):
    variable: str


@dataclass(frozen=True)
class Found(Result):
    def summary(self) -> pd.DataFrame:
        return pd.DataFrame(self.estimates, index=[0])

    def headline(self) -> str:
        return str(self.estimates)

    def plot(self) -> Figure:
        raise NotImplementedError


class OfOne(Method[OneVariable]):
    """Over one number variable."""

    version = 1
    spec_type = OneVariable

    def variables(self) -> tuple[str, ...]:
        return (self.spec.variable,)

    def prepare(self, table: Table) -> NDArray[np.float64]:
        return table[self.spec.variable]

    @property
    def bound(self) -> float:
        variable = self.study.variables[self.spec.variable]
        return float(max(abs(variable.min), abs(variable.max)))  # type: ignore[union-attr]

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> Found:
        return Found(study, analysis, estimates, **rest)


class Averages(OfOne):
    """The patients' average and its square, by `mean`; and a sheet for each site."""

    name = "test-averages"

    @contribution
    def average(self, data: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """This site's own average, and average square."""
        return {"value": np.asarray(data.mean()), "square": np.asarray((data**2).mean())}

    @average.declares
    def _(self, _facts: Facts) -> Declaration:
        return Declaration(
            {"value": moment((), self.bound, "average"), "square": moment((), self.bound**2, "average square")}
        )

    @receipt
    def own(self, data: NDArray[np.float64], mean: float) -> dict[str, Any]:
        """How far this site's average is from everybody's."""
        return {"own": float(data.mean()), "difference": float(data.mean() - mean)}

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.average, (), 1),)

    async def run(self, federation: Federation) -> Result:
        found = await federation.mean(self.average)
        await federation.tell(self.own, float(found["value"]))
        return self.result(
            self.study, self.analysis, {"value": float(found["value"]), "square": float(found["square"])}
        )


class Loop(OfOne):
    """Many sums, each of which depends on the one before; every few of them a snapshot."""

    name = "test-loop"

    @contribution
    def pull(self, data: NDArray[np.float64], state: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Sums of this site's patients, bent by `state`."""
        return {"pull": np.array([np.tanh(data / self.bound + s).sum() for s in state])}

    @pull.declares
    def _(self, facts: Facts, state: NDArray[np.float64]) -> Declaration:
        return Declaration({"pull": moment((2,), max(facts.patients, 1), "pull")}, {"state": within((2,), 10.0)})

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.pull, (np.zeros(2),), ROUNDS),)

    async def run(self, federation: Federation) -> Result:
        saved = federation.restored()
        first, state = (0, np.zeros(2)) if saved is None else (saved["round"], saved["state"])
        for k in range(first, ROUNDS):
            total = await federation.sum(self.pull, state)
            state = 0.5 * state + total["pull"] / federation.facts.patients + np.array([0.0, 0.1])
            if (k + 1) % EVERY == 0:
                federation.snapshot({"round": k + 1, "state": state})
        return self.result(self.study, self.analysis, {"state": state.tolist()})


class Moody(Loop):
    """Asks what its mood says: not deterministic."""

    name = "test-moody"
    mood = 0.0

    async def run(self, federation: Federation) -> Result:
        total = await federation.sum(self.pull, np.full(2, Moody.mood))
        await federation.sum(self.pull, np.full(2, 1.0))
        return self.result(self.study, self.analysis, {"pull": total["pull"].tolist()})


class Curious(Loop):
    """Asks for single hospitals' parts, which no site gives by default. `want`: collect, align, or more: more sums than it
    planned."""

    name = "test-curious"
    want = "collect"

    async def run(self, federation: Federation) -> Result:
        if Curious.want == "more":
            for _ in range(ROUNDS + 1):
                await federation.sum(self.pull, np.zeros(2))
        await getattr(federation, Curious.want)(self.pull, np.zeros(2))
        return self.result(self.study, self.analysis, {})


class Wild(Loop):
    """Sends a number that is none."""

    name = "test-wild"

    async def run(self, federation: Federation) -> Result:
        await federation.sum(self.pull, float("nan"))  # type: ignore[arg-type]
        return self.result(self.study, self.analysis, {})


class Hasty(Loop):
    """Asks for two sums at once."""

    name = "test-hasty"

    async def run(self, federation: Federation) -> Result:
        await asyncio.gather(*(federation.sum(self.pull, np.full(2, k)) for k in (0.0, 1.0)))
        return self.result(self.study, self.analysis, {})


class Training(OfOne):
    """A model of `SIZE` parameters, trained for two rounds by means of clipped updates. clip: of an update's elements."""

    name = "test-training"
    clip = 0.5

    @contribution
    def round(self, data: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """This site's update, and its loss beside it."""
        pull = np.tanh(np.linspace(-1, 1, SIZE) * data.mean() / self.bound - weights)
        return {"delta": pull / 3, "loss": np.asarray((pull**2).sum())}

    @round.declares
    def _(self, _facts: Facts, weights: NDArray[np.float64]) -> Declaration:
        return Declaration(
            {"delta": update((SIZE,), self.clip, "update"), "loss": moment((), float(SIZE), "loss")},
            {"weights": within((SIZE,), 10.0)},
        )

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.round, (np.zeros(SIZE),), 2),)

    async def run(self, federation: Federation) -> Result:
        weights = np.zeros(SIZE)
        for _ in range(2):
            found = await federation.mean(self.round, weights)
            weights = weights + found["delta"]
        return self.result(self.study, self.analysis, {"weights": weights.tolist(), "loss": float(found["loss"])})


@dataclass(frozen=True)
class Moments:
    """Sums over patients."""

    n: NDArray[np.float64]
    total: NDArray[np.float64]


class ToOne(Training):
    """Two sums that one hospital, `READER`, reads alone: statistics and an update."""

    name = "test-to-one"

    @contribution
    def moments(self, data: NDArray[np.float64]) -> Moments:
        """This site's patients, and the sum over them."""
        return Moments(np.asarray(float(len(data))), np.asarray(data.sum()))

    @moments.declares
    def _(self, facts: Facts) -> Declaration:
        patients = max(facts.patients, 1)
        return Declaration(
            {"n": count((), patients, "patients"), "total": moment((), self.bound * patients, "sum over patients")}
        )

    @receipt
    def read(self, data: NDArray[np.float64], found: Moments) -> dict[str, Any]:
        """Everybody's average, and this site's own."""
        return {"n": float(found.n), "average": float(found.total / found.n), "own": float(data.mean())}

    @receipt
    def learned(self, _data: NDArray[np.float64], found: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
        """The sum of all updates."""
        return {"delta": found["delta"].tolist()}

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.moments, (), 2), *super().plan())

    async def run(self, federation: Federation) -> Result:
        await federation.sum_to(READER, self.read, self.moments)
        if ToOne.updates:
            await federation.sum_to(READER, self.learned, self.round, np.zeros(SIZE))
        return self.result(self.study, self.analysis, {})

    updates = False


METHODS: tuple[type[Method[Any]], ...] = (Averages, Loop, Moody, Curious, Wild, Hasty, Training, ToOne)


@contextmanager
def installed(*more: type[OfOne]) -> Iterator[None]:
    """These methods are installed for a while, as a site's administrator would install a package. more: of one test file."""
    registry.methods()  # the built-in ones first
    registry._registered.update({cls.name: cls for cls in (*METHODS, *more)})
    try:
        yield
    finally:
        for cls in (*METHODS, *more):
            del registry._registered[cls.name]
