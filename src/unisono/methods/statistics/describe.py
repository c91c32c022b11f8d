"""Table 1: numbers by mean, standard deviation and quantiles, categories by counts, by group and overall; in one sum.

Means and standard deviations equal the pooled ones; quantiles come from a histogram on the declared bounds and are right
to within its bin width, which is reported. Missing values are counted, not filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.federation.contribution import Declaration, Facts, contribution
from unisono.methods.base import Method, PlannedAsk, Spec
from unisono.methods.design import image_problem, unknown_variable
from unisono.methods.registry import method
from unisono.methods.statistics.describe_result import DescribeResult
from unisono.methods.statistics.suppression import hide_cells, hide_groups, hide_values
from unisono.protection.leaves import Leaf, count, moment
from unisono.study.document import BooleanVariable, CategoryVariable, ImageVariable, NumberVariable, Study
from unisono.study.problems import Problem
from unisono.study.table import Column, Table

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Vector = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


ROUNDING = 1e-13
"""Sum of squared deviations of z (within [-1, 1]) and patient of the cohort, below which values are the same within what
the encoding carries: its quantum grows with the cohort, not with the group."""

WHOLE = 200
"""An integer with at most so many values in its declared range has a bin for each, whatever `bins` says."""


class DescribeSpec(Spec):
    """variables: those to describe (default: all of the study but its images). by: a category or boolean whose levels are the columns.
    bins: of a number's histogram over its declared range (an integer of at most 200 values has a bin for each).
    quantiles: to report, each strictly between 0 and 1."""

    variables: list[str] | None = Field(default=None, min_length=1)
    by: str | None = None
    bins: int = Field(default=50, ge=2, le=1000)
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default=[0.25, 0.5, 0.75], min_length=1, max_length=20)

    def problems(self, study: Study) -> list[Problem]:
        found: list[Problem] = []
        names = self.variables or []
        for i, name in enumerate(names):
            if name not in study.variables:
                found.append(unknown_variable(("variables", i), name, study))
            elif name in names[:i]:
                found.append(
                    Problem(("variables", i), f"{name!r} is there twice.", "distinct-variables", "Remove one.")
                )
            elif isinstance(study.variables[name], ImageVariable):
                found.append(image_problem(("variables", i), name, "described in a table"))
        if self.by is not None and self.by not in study.variables:
            found.append(unknown_variable(("by",), self.by, study))
        elif self.by is not None and isinstance(study.variables[self.by], NumberVariable):
            what, remedy = (
                f"{self.by!r} is a number, not groups.",
                "Name a category or a boolean, or derive a category.",
            )
            found.append(Problem(("by",), what, "groups", remedy))
        elif self.by is not None and isinstance(study.variables[self.by], ImageVariable):
            found.append(image_problem(("by",), self.by, "groups"))
        if not self.described(study):
            what = "There is nothing to describe."
            found.append(Problem(("variables",), what, "described-variables", "Name a variable other than `by`."))
        return found

    def described(self, study: Study) -> tuple[str, ...]:
        """The variables of the table's rows."""
        described = [name for name, v in study.variables.items() if not isinstance(v, ImageVariable)]
        names = self.variables if self.variables is not None else described
        return tuple(name for name in names if name != self.by)


@dataclass(frozen=True)
class Bins:
    """A number's histogram: `edges` (b + 1,), equally wide. An integer's edges lie halfway between its values; where
    each value has a bin of its own (`exact`), quantiles are exact and whole. top: the largest value there can be."""

    edges: Vector
    top: float
    exact: bool = False

    @staticmethod
    def of(variable: NumberVariable, most: int) -> Bins:
        """At most `most` bins over the declared range, or one for each value of an integer of at most `WHOLE` values."""
        if variable.type == "number":
            return Bins(np.linspace(variable.min, variable.max, most + 1), variable.max)
        first, last = float(np.ceil(variable.min)), float(np.floor(variable.max))
        values = last - first + 1
        width = 1.0 if values <= WHOLE else float(np.ceil(values / most))
        number = int(np.ceil(values / width))
        edges = first - 0.5 + width * np.arange(number + 1, dtype=np.float64)
        return Bins(edges, last, exact=width == 1)

    @property
    def number(self) -> int:
        return len(self.edges) - 1

    @property
    def width(self) -> float:
        return float(self.edges[1] - self.edges[0])

    def index(self, values: Column) -> Counts:
        """(n,) the bin of each value; the upper bound belongs to the last."""
        place: Counts = np.floor((values - self.edges[0]) / self.width).astype(np.int64)
        return np.minimum(place, self.number - 1)

    def quantile(self, counts: Counts, q: float) -> float:
        """The `q`-quantile. Where every value has its bin: the smallest that at least a share `q` do not exceed (type 1 of
        Hyndman & Fan 1996), a whole number that occurs. Else to within a bin of type 7 (linear between order statistics)."""
        if self.exact:
            until = np.cumsum(counts)
            b = int(np.searchsorted(until, q * int(until[-1]) * (1 - 1e-12), side="left"))
            return float(self.edges[b] + 0.5)
        rank = (int(counts.sum()) - 1) * q
        below = int(np.floor(rank))
        low, high = self._ordered(counts, below), self._ordered(counts, int(np.ceil(rank)))
        return min(low + (rank - below) * (high - low), self.top)

    def _ordered(self, counts: Counts, k: int) -> float:
        """The k-th smallest value (from 0), as if the values of a bin were spread evenly over it."""
        until = np.cumsum(counts)
        b = int(np.searchsorted(until, k, side="right"))
        within = (k - (int(until[b]) - int(counts[b])) + 0.5) / int(counts[b])
        return float(self.edges[b] + within * self.width)


@dataclass(frozen=True)
class GroupedData:
    """One site's eligible patients, with the group (n,) of each; the last group is those whose group is missing."""

    table: Table
    group: Counts


@method("describe", version=1, spec=DescribeSpec)
class Describe(Method[DescribeSpec]):
    """Summary statistics by group."""

    pooled = "exact"
    rows: ClassVar[Literal["all", "eligible", "cohort"]] = "eligible"

    def __init__(self, study: Study, analysis: str, spec: DescribeSpec) -> None:
        super().__init__(study, analysis, spec)
        self.described = spec.described(study)
        self.numbers: dict[str, NumberVariable] = {}
        self.levels: dict[str, tuple[str, ...]] = {}
        for name in self.described:
            variable = study.variables[name]
            if isinstance(variable, NumberVariable):
                self.numbers[name] = variable
            else:
                self.levels[name] = levels_of(study, name)
        self.bins = {name: Bins.of(variable, spec.bins) for name, variable in self.numbers.items()}
        self.groups = (*levels_of(study, spec.by), "missing") if spec.by else ("all",)

    def variables(self) -> tuple[str, ...]:
        return self.described if self.spec.by is None else (*self.described, self.spec.by)

    def prepare(self, table: Table) -> GroupedData:
        if self.spec.by is None:
            return GroupedData(table, np.zeros(table.n, np.int64))
        codes = table[self.spec.by]
        return GroupedData(table, np.where(np.isnan(codes), len(self.groups) - 1, codes).astype(np.int64))

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution
    def tallies(self, data: GroupedData) -> dict[str, NDArray[Any]]:
        """By group: how many patients; of each number how many have it, sum, sum of squares and histogram (scaled to
        [-1, 1] by the declared bounds); of each category how many have each level."""
        g = len(self.groups)
        tree: dict[str, NDArray[Any]] = {"group": np.bincount(data.group, minlength=g)}
        for name, variable in self.numbers.items():
            known = ~np.isnan(data.table[name])
            x, group, bins = data.table[name][known], data.group[known], self.bins[name]
            z = (x - _centre(variable)) / _half(variable)
            tree[f"{name}.sum"] = np.bincount(group, weights=z, minlength=g)
            tree[f"{name}.squares"] = np.bincount(group, weights=z * z, minlength=g)
            tree[f"{name}.histogram"] = _cross(group, bins.index(x), g, bins.number)
        for name, levels in self.levels.items():
            known = ~np.isnan(data.table[name])
            codes = data.table[name][known].astype(np.int64)
            tree[f"{name}.levels"] = _cross(data.group[known], codes, g, len(levels))
        return tree

    @tallies.declares
    def _(self, facts: Facts) -> Declaration:
        g, n = len(self.groups), float(facts.patients)
        leaves: dict[str, Leaf] = {"group": count((g,), n, "Number of patients in each group.")}
        for name in self.numbers:
            shape = (g, self.bins[name].number)
            leaves[f"{name}.sum"] = moment((g,), n, f"Sum of {name}, by group.")
            leaves[f"{name}.squares"] = moment((g,), n, f"Sum of squares of {name}, by group.")
            leaves[f"{name}.histogram"] = count(shape, n, f"Histogram of {name} on its declared range, by group.")
        for name, levels in self.levels.items():
            leaves[f"{name}.levels"] = count((g, len(levels)), n, f"Number of patients with each {name}, by group.")
        return Declaration(leaves)

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.tallies, (), 1),)

    # -- what the coordinator does with the sum -----------------------------------------------------------------------

    async def run(self, federation: Federation) -> DescribeResult:
        sums = await federation.sum(self.tallies)
        sizes = _whole(sums["group"])
        hidden = hide_groups(sizes, self.study.release.min_count)
        described = [
            self._number(name, sums, sizes, hidden)
            if name in self.numbers
            else self._category(name, sums, sizes, hidden)
            for name in self.described
        ]
        grouped = self.spec.by is not None
        found = {
            "n": int(sizes.sum()),
            "by": self.spec.by,
            "min_count": self.study.release.min_count,
            "groups": list(self.groups) if grouped else [],
            "group_n": [None if h else int(n) for n, h in zip(sizes, hidden, strict=True)] if grouped else [],
            "variables": described,
        }
        return DescribeResult(self.study, self.analysis, found, True, self._notes(hidden))

    def _number(self, name: str, sums: Mapping[str, Vector], sizes: Counts, hidden: Mask) -> dict[str, Any]:
        least, bins, variable = self.study.release.min_count, self.bins[name], self.numbers[name]
        histogram = _whole(sums[f"{name}.histogram"])
        observed = histogram.sum(axis=1)
        blank, blank_all = hide_cells(np.stack([observed, sizes - observed]), hidden, least)
        unsaid, unsaid_all = hide_values(observed, hidden, least)

        def entry(rows: list[int], shown: Mask, stated: bool) -> dict[str, Any]:
            n = int(observed[rows].sum())
            counts = {"n": n, "missing": int(sizes[rows].sum()) - n}
            visible = {key: None if no else value for (key, value), no in zip(counts.items(), shown, strict=True)}
            moments = float(sums[f"{name}.sum"][rows].sum()), float(sums[f"{name}.squares"][rows].sum())
            values = _statistics(n, moments, variable, ROUNDING * sizes.sum()) if stated else {"mean": None, "sd": None}
            tallied = histogram[rows].sum(axis=0)
            # A quantile with few patients on one side of it would place those few.
            wide = {q: stated and n > 0 and n * min(q, 1 - q) >= least - 1e-9 for q in self.spec.quantiles}
            at = {f"{q:g}": bins.quantile(tallied, q) if ok else None for q, ok in wide.items()}
            return {**visible, **values, "quantiles": at, "width": 0.0 if bins.exact else bins.width}

        everyone = list(range(len(self.groups)))
        overall = entry(everyone, blank_all, not unsaid_all)
        return {
            **self._about(name),
            "unit": variable.unit,
            "by_group": [entry([k], blank[:, k], not unsaid[k]) for k in everyone] if self.spec.by else [],
            "overall": overall,
            "histogram": _merged(bins, histogram.sum(axis=0), least) if not unsaid_all else None,
        }

    def _category(self, name: str, sums: Mapping[str, Vector], sizes: Counts, hidden: Mask) -> dict[str, Any]:
        least, levels = self.study.release.min_count, self.levels[name]
        cells = _whole(sums[f"{name}.levels"])
        absent = sizes - cells.sum(axis=1)
        everything = np.vstack([cells.T, absent])  # (levels and missing, groups)
        blank, blank_all = hide_cells(everything, hidden, least)

        def entry(column: Counts, shown: Mask, *, sized: bool) -> dict[str, Any]:
            n = int(column[:-1].sum())
            told = n > 0 and not shown[-1]  # a percentage of those with a value gives away how many have none
            rows = [
                {
                    "level": level,
                    **_cell(int(k), no, sized and 0 < k < least),
                    "percent": 100 * int(k) / n if told and not no else None,
                }
                for level, k, no in zip(levels, column[:-1], shown[:-1], strict=True)
            ]
            return {"n": None if shown.any() else n, "missing": None if shown[-1] else int(column[-1]), "levels": rows}

        groups = range(len(sizes)) if self.spec.by else range(0)
        return {
            **self._about(name),
            "unit": None,
            "by_group": [entry(everything[:, k], blank[:, k], sized=not hidden[k]) for k in groups],
            "overall": entry(everything.sum(axis=1), blank_all, sized=True),
        }

    def _about(self, name: str) -> dict[str, Any]:
        variable = self.study.variables[name]
        return {"name": name, "label": variable.label or name, "type": variable.type}

    def _notes(self, hidden: Mask) -> tuple[str, ...]:
        if not hidden.any():
            return ()
        names = ", ".join(name for name, h in zip(self.groups, hidden, strict=True) if h)
        least = self.study.release.min_count
        return (
            f"Not shown, because a group has fewer than {least} patients, or would give such a group away by subtraction: "
            f"{names}. An inclusion rule that leaves the small group out of the cohort brings the others back.",
        )

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> DescribeResult:
        return DescribeResult(study, analysis, estimates, **rest)


def levels_of(study: Study, name: str) -> tuple[str, ...]:
    """The names of a category's or boolean's values, by code."""
    variable = study.variables[name]
    if isinstance(variable, CategoryVariable):
        return tuple(variable.levels)
    assert isinstance(variable, BooleanVariable)
    return ("no", "yes")


def _centre(variable: NumberVariable) -> float:
    return (variable.min + variable.max) / 2


def _half(variable: NumberVariable) -> float:
    return (variable.max - variable.min) / 2


def _cross(group: Counts, code: Counts, groups: int, codes: int) -> Counts:
    """(groups, codes) numbers of patients."""
    return np.bincount(group * codes + code, minlength=groups * codes).reshape(groups, codes)


def _whole(counts: Vector) -> Counts:
    return np.rint(counts).astype(np.int64)


def _cell(k: int, hidden: np.bool_, small: bool) -> dict[str, Any]:
    """A count; a hidden one in a group that is shown says whether it is small itself, so that a table can print ``<10``."""
    return {"n": None, "small": bool(small)} if hidden else {"n": k}


def _statistics(
    n: int, moments: tuple[float, float], variable: NumberVariable, noise: float
) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1) in the study's unit, from sums of z and z^2 that are right to within `noise`."""
    if n == 0:
        return {"mean": None, "sd": None}
    mean = moments[0] / n
    spread = moments[1] - n * mean**2
    spread = spread if spread > noise else 0.0
    sd = _half(variable) * float(np.sqrt(spread / (n - 1))) if n > 1 else None
    return {"mean": _centre(variable) + _half(variable) * mean, "sd": sd}


def _merged(bins: Bins, counts: Counts, least: int) -> dict[str, list[float]] | None:
    """A histogram for the figure: neighbouring bins merged until each holds `least` patients; shares, not counts."""
    edges, held = [float(bins.edges[0])], []
    sofar = 0
    for b, k in enumerate(counts):
        sofar += int(k)
        if sofar >= least:
            edges.append(float(bins.edges[b + 1]))
            held.append(sofar)
            sofar = 0
    if not held:
        return None
    held[-1] += sofar  # what is left at the end belongs to the last bin
    edges[-1] = float(bins.edges[-1]) if sofar else edges[-1]
    total = sum(held)
    return {"edges": edges, "shares": [round(k / total, 3) for k in held]}
