"""The worker's half of a site: data and method code, and neither keys nor network.

It is given a frozen snapshot and asks without anything secret in them, and gives back raw arrays, which the agent checks.
Warm: the cohort of an analysis is selected and prepared once and kept for every step of the fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DataError, UnisonoError
from unisono.federation.ask import Ask
from unisono.federation.contribution import BoundContribution, BoundReceipt, Kept, Memory, Part
from unisono.methods.base import Method
from unisono.methods.cohort import COHORT, CohortFlow, CohortSpec
from unisono.methods.registry import build
from unisono.site.data.snapshot import Snapshot, row_hashes
from unisono.study.cohort import select
from unisono.study.document import Study

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class CohortView:
    """What the agent may know of the patients an ask is answered on: how many, and sorted keyed hashes of them; of a method that
    splits its cohort, the places (row numbers in the data, sorted) of those who are held out, and the digest of the data."""

    n: int
    rows: Hashes
    held_out: Hashes | None = None
    source: str = ""


class Worker(Protocol):
    """What the agent needs of a worker; in this process here, in a process of its own in a hospital."""

    def digest(self) -> str:
        """Of the frozen snapshot; `DataError` if its file was changed since."""
        ...

    def cohort(self, ask: Ask) -> CohortView:
        """The patients that the ask's analysis is answered on."""
        ...

    def contribution(self, ask: Ask, memory: Memory) -> Part:
        """This site's part, unmasked, and what the site is to remember if it counts."""
        ...

    def receipt(self, ask: Ask, memory: Memory) -> Kept:
        """What the site keeps of a `tell`."""
        ...


@dataclass(frozen=True)
class _Prepared:
    method: Method[Any]
    data: Any
    view: CohortView


class LocalWorker:
    """A worker in this process."""

    def __init__(self, study: Study, snapshot: Snapshot, secret: bytes) -> None:
        self.study = study
        self.snapshot = snapshot
        self._secret = secret
        self._prepared: dict[tuple[str, str], tuple[dict[str, float], _Prepared]] = {}
        self._hashed: dict[tuple[str, ...], Hashes] = {}

    def digest(self) -> str:
        """Of the frozen snapshot; `DataError` if its file was changed since."""
        self.snapshot.unchanged()
        return self.snapshot.digest

    def cohort(self, ask: Ask) -> CohortView:
        """The patients that the ask's analysis is answered on (for the cohort step: those the target analysis will use)."""
        return self._prepare(ask).view

    def contribution(self, ask: Ask, memory: Memory) -> Part:
        """This site's part, unmasked, and what the site is to remember if it counts."""
        prepared = self._prepare(ask)
        bound: BoundContribution[..., Any] = getattr(prepared.method, ask.contribution)
        with _naming(ask):
            return bound.part(prepared.data, memory, *ask.arguments)

    def receipt(self, ask: Ask, memory: Memory) -> Kept:
        """What the site keeps of a `tell`."""
        prepared = self._prepare(ask)
        bound: BoundReceipt[...] = getattr(prepared.method, ask.contribution)
        with _naming(ask):
            return bound.kept(prepared.data, memory, *ask.arguments)

    def _prepare(self, ask: Ask) -> _Prepared:
        key, imputed = (ask.analysis, ask.method), dict(ask.facts.imputed)
        cached = self._prepared.get(key)
        if cached is not None and cached[0] == imputed:
            return cached[1]
        method = method_of(self.study, ask)
        selection = select(self.snapshot.table, self.study, method.variables(), method.rows, imputed)
        # The cohort step is counted as the patients of the analysis that it opens.
        counted, keep = method, selection.keep
        if ask.method == COHORT:
            counted = build(self.study, ask.analysis)
            filled_in = dict.fromkeys(self.study.variables, 0.0)  # only who is selected matters here
            bare = self.snapshot.table.without_images()
            keep = select(bare, self.study, counted.variables(), counted.rows, filled_in).keep
        rows = np.sort(self._hashes(counted.variables())[keep])
        data = method.prepare(selection.table)
        chosen = method.held_out(data)
        held_out = None if chosen is None else np.flatnonzero(selection.keep)[chosen].astype(np.uint64)
        prepared = _Prepared(method, data, CohortView(len(rows), rows, held_out, self.snapshot.source_digest))
        self._prepared[key] = (imputed, prepared)
        return prepared

    def _hashes(self, variables: tuple[str, ...]) -> Hashes:
        """Of every row's values of these variables: two studies that ask the same of a patient see the same hash."""
        if variables not in self._hashed:
            table = self.snapshot.table.only(variables)
            self._hashed = {variables: row_hashes(table, np.ones(table.n, np.bool_), self._secret)}
        return self._hashed[variables]


def method_of(study: Study, ask: Ask) -> Method[Any]:
    """The method instance that an ask names: the analysis's own, or its cohort step."""
    if ask.method == COHORT:
        return CohortFlow(study, ask.analysis, CohortSpec())
    return build(study, ask.analysis)


@contextmanager
def _naming(ask: Ask) -> Iterator[None]:
    """A fault of a method becomes an error that names the method and shows no value."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused by the encoding, by leaf name
            yield
    except UnisonoError:
        raise
    except Exception as error:  # a method may be anybody's package: whatever it raises must not show data
        raise DataError(
            f"{ask.method}.{ask.contribution} failed at this site ({type(error).__name__}).",
            rule="method-fault",
            remedy="Nothing left the site. Report it to the method's author, with the version of the package.",
        ) from error
