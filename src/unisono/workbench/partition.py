"""A collection split over sites on purpose: who is where, what each site's instruments make of the values, and the record of it.

Pure: a collection, a plan and its seed in, frames out. Each kind of difference draws from a stream of its own, so that adding one
does not move the others: with and without feature shift, the same patients are at the same sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from unisono.errors import StudyError
from unisono.study.units import convert
from unisono.workbench.collection import Collection
from unisono.workbench.scanners import Scanner
from unisono.workbench.shift import OTHER_UNIT, Instrument, relabelled
from unisono.workbench.skew import by_label, sizes

_STREAMS = ("sizes", "labels", "instruments", "units", "missing", "scanners", "noise")
_MOST_SITES = 200


@dataclass(frozen=True)
class Plan:
    """What a split is to be like. A skew that is None, and a shift of 0, is none at all.

    label_skew: Dirichlet concentration of the sites' mixes of classes; 0.1 is strong, 10 nearly even.
    quantity_skew: Dirichlet concentration of the sites' sizes.
    feature_shift: strength of each site's gain and offset (of its scanner, where there are images); 0.5 is strong.
    unit_drift: in how many columns about half of the sites record another unit. declared: their mappings say so; if not, the
        values are simply wrong by a factor, as when a laboratory changes its unit and nobody notices.
    concept_groups: in how many groups of sites the same label means something else.
    missing: share of the features that a site does not record at all, another choice at each.
    least: patients at every site, at least.
    """

    sites: int = 5
    seed: int = 1
    label_skew: float | None = None
    quantity_skew: float | None = None
    feature_shift: float = 0.0
    unit_drift: int = 0
    declared: bool = True
    concept_groups: int = 1
    missing: float = 0.0
    least: int = 20

    def __post_init__(self) -> None:
        wrong = [said for said, holds in self._demands() if not holds]
        if wrong:
            raise StudyError(
                f"This cannot be split: {'; '.join(wrong)}.",
                rule="partition-plan",
                remedy="Correct the options; `unisono simulate partition --help` says what each means.",
            )

    def _demands(self) -> list[tuple[str, bool]]:
        return [
            (f"the number of sites is from 1 to {_MOST_SITES}", 1 <= self.sites <= _MOST_SITES),
            ("the seed is not negative", self.seed >= 0),
            ("label skew is above 0", self.label_skew is None or self.label_skew > 0),
            ("quantity skew is above 0", self.quantity_skew is None or self.quantity_skew > 0),
            ("feature shift is from 0 to 5", 0 <= self.feature_shift <= 5),
            ("unit drift is a number of columns", self.unit_drift >= 0),
            ("concept groups are from 1 to the number of sites", 1 <= self.concept_groups <= self.sites),
            ("the missing share is from 0 to below 1", 0 <= self.missing < 1),
            ("a site has at least 1 patient", self.least >= 1),
        ]

    def stream(self, name: str) -> Generator:
        """The random numbers of one kind of difference."""
        return np.random.default_rng([self.seed, _STREAMS.index(name)])

    def differences(self) -> list[str]:
        """What differs between sites, in words."""
        said = [
            (self.label_skew is not None, f"label skew {self.label_skew:g}" if self.label_skew else ""),
            (self.quantity_skew is not None, f"quantity skew {self.quantity_skew:g}" if self.quantity_skew else ""),
            (self.feature_shift > 0, f"feature shift {self.feature_shift:g}"),
            (self.unit_drift > 0, f"{'declared' if self.declared else 'undeclared'} unit drift, {self.unit_drift} columns"),
            (self.concept_groups > 1, f"concept shift, {self.concept_groups} groups"),
            (self.missing > 0, f"missing features, {self.missing:.0%}"),
        ]  # fmt: skip
        return [words for there, words in said if there] or ["nothing: the same distribution everywhere"]


@dataclass(frozen=True)
class Split:
    """One site: its patients' rows in the collection (n,), its frame, the units that are not the collection's, the scanner of its
    images, and all that was done to it (for the record)."""

    name: str
    rows: NDArray[np.int64] = field(repr=False)
    frame: pd.DataFrame = field(repr=False)
    units: Mapping[str, str]
    scanner: Scanner | None
    record: Mapping[str, Any]


def split(collection: Collection, plan: Plan) -> tuple[Split, ...]:
    """The collection over ``plan.sites`` sites. `StudyError` or `DataError` if the plan does not fit the collection."""
    place, mixes = _places(collection, plan)
    measured = _measured(collection, plan, place)
    units = _units(collection, plan)
    absent = _absent(collection, plan)
    scanners = _scanners(collection, plan)
    splits = []
    for site in range(plan.sites):
        rows = np.flatnonzero(place == site)
        frame, instruments = measured[site]
        for name, unit in units[site].items():
            frame[name] = convert(frame[name].to_numpy(np.float64), collection.units.get(name, "1"), unit)
        frame[absent[site]] = np.nan
        group = site % plan.concept_groups
        record = {
            "patients": len(rows),
            "classes": _tally(collection, rows),
            "drawn_mix": None if mixes is None else [round(float(x), 6) for x in mixes[site]],
            "concept_group": group,
            "instruments": {name: asdict(instrument) for name, instrument in instruments.items()},
            "units": dict(units[site]),
            "units_declared": plan.declared,
            "not_recorded": absent[site],
            "scanner": _said(scanners[site]),
        }
        if group:
            frame[collection.label] = _concept(collection, rows, group)
        declared = units[site] if plan.declared else {}
        splits.append(Split(_name(site, plan.sites), rows, frame, declared, scanners[site], record))
    return tuple(splits)


def _places(collection: Collection, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """(n,) the site of each patient, and what mix of classes each site drew, if any did."""
    numbers = sizes(len(collection), plan.sites, plan.least, plan.quantity_skew, plan.stream("sizes"))
    rng = plan.stream("labels")
    if plan.label_skew is None:
        return rng.permutation(np.repeat(np.arange(plan.sites), numbers)), None
    labels, _ = collection.classes()
    return by_label(labels, numbers, plan.label_skew, rng)


def _measured(
    collection: Collection, plan: Plan, place: NDArray[np.int64]
) -> list[tuple[pd.DataFrame, dict[str, Instrument]]]:
    """Each site's frame as its instruments measure it. Only numbers drift; the outcome does not."""
    rng = plan.stream("instruments")
    whole = collection.frame
    spread = {name: (float(whole[name].mean()), float(whole[name].std(ddof=0))) for name in collection.numbers}
    found = []
    for site in range(plan.sites):
        frame = whole[place == site].reset_index(drop=True)
        instruments: dict[str, Instrument] = {}
        if plan.feature_shift and collection.image is None:
            for name, (mean, sd) in spread.items():
                instruments[name] = Instrument.drawn(plan.feature_shift, rng)
                frame[name] = instruments[name].measure(frame[name].to_numpy(np.float64), mean, sd)
        found.append((frame, instruments))
    return found


def _units(collection: Collection, plan: Plan) -> list[dict[str, str]]:
    """By site, the columns that it records in another unit: the drawn columns, at a coin's toss each, but never at all sites."""
    rng = plan.stream("units")
    able = [name for name in collection.numbers if collection.units.get(name, "1") in OTHER_UNIT]
    if plan.unit_drift > len(able):
        raise StudyError(
            f"Only {len(able)} columns are numbers in a unit that has another in daily use; {plan.unit_drift} were to drift.",
            rule="unit-drift",
            remedy="Say columns' units with --unit NAME=UNIT, or let fewer drift.",
        )
    drifting = [able[k] for k in sorted(rng.choice(len(able), plan.unit_drift, replace=False))] if able else []
    found: list[dict[str, str]] = [{} for _ in range(plan.sites)]
    for name in drifting:
        other = rng.random(plan.sites) < 0.5
        other[int(rng.integers(plan.sites))] = False
        if plan.sites > 1 and not other.any():
            other[int(rng.integers(plan.sites))] = True
        for site in np.flatnonzero(other):
            found[site][name] = OTHER_UNIT[collection.units.get(name, "1")]
    return found


def _absent(collection: Collection, plan: Plan) -> list[list[str]]:
    """By site, the features that it does not record. Every feature is recorded somewhere."""
    rng = plan.stream("missing")
    features = collection.features
    number = int(plan.missing * len(features))
    found = [sorted(rng.choice(features, number, replace=False).tolist()) if number else [] for _ in range(plan.sites)]
    for name in features:
        if found and all(name in gone for gone in found):
            found[int(rng.integers(plan.sites))].remove(name)
    return found


def _scanners(collection: Collection, plan: Plan) -> list[Scanner | None]:
    if collection.image is None or not plan.feature_shift:
        return [None] * plan.sites
    rng = plan.stream("scanners")
    return [Scanner.drawn(plan.feature_shift, rng) for _ in range(plan.sites)]


def _said(scanner: Scanner | None) -> dict[str, float] | None:
    return None if scanner is None else asdict(scanner)


def _concept(collection: Collection, rows: NDArray[np.int64], group: int) -> Any:
    """The labels of these patients as their group of sites gives them."""
    if collection.kinds[collection.label] == "number":
        raise StudyError(
            f"{collection.label} is a number: its meaning cannot be turned as that of classes can.",
            rule="concept-shift",
            remedy="Use concept shift with an outcome of classes, or feature shift with a number.",
        )
    codes, _ = collection.classes()
    values = sorted(collection.frame[collection.label].unique())
    return np.asarray(values, dtype=object if isinstance(values[0], str) else np.float64)[
        relabelled(codes[rows], len(values), group)
    ]


def _tally(collection: Collection, rows: NDArray[np.int64]) -> dict[str, int]:
    """Patients of each class, as they were before any concept shift."""
    codes, names = collection.classes()
    return dict(zip(names, np.bincount(codes[rows], minlength=len(names)).tolist(), strict=True))


def _name(site: int, sites: int) -> str:
    return f"site-{site + 1:0{len(str(sites))}d}"
