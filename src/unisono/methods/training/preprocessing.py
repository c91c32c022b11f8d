"""Preprocessing from sums, before training: scales of numbers, vocabularies of categories, balance of classes.

Opened once, over all sites' training patients, then a broadcast argument of every later ask and a part of the model file. Its
size follows from the study alone, so that the model's does: a category has an entry for each declared level and one for
"other" (index 0), into which levels with fewer than `release: min_count` patients go. Imputation is the cohort step's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.methods.training.spec import CLASSES, TrainingSpec
from unisono.protection.leaves import Leaf, count, moment
from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable, Study
from unisono.study.table import Column, Table

Vector = NDArray[np.float64]

CONSTANT = 1e-6
"""Standard deviation, in half declared ranges, below which a number is constant for all that the sums can tell: their
squares carry 13 digits."""


@dataclass(frozen=True)
class Columns:
    """What a study's features and outcome are: names of the numbers, booleans and categories among the features, of the
    image, of the outcome's classes, of an outcome that is a number, and of the event of a follow-up."""

    study: Study
    numbers: tuple[str, ...]
    booleans: tuple[str, ...]
    categories: tuple[str, ...]
    image: str | None
    outcome: str | None
    classes: tuple[str, ...]
    target: str | None
    event: str | None = None

    @staticmethod
    def of(study: Study, spec: TrainingSpec) -> Columns:
        """As the study declares them."""

        def kind(*kinds: type[Any]) -> tuple[str, ...]:
            return tuple(name for name in spec.features if isinstance(study.variables[name], kinds))

        task, outcome = spec.task_of(study), spec.outcome
        numbers, booleans, categories = kind(NumberVariable), kind(BooleanVariable), kind(CategoryVariable)
        rest = [name for name in spec.features if name not in (*numbers, *booleans, *categories)]
        classes: tuple[str, ...] = ()
        if task in CLASSES:
            variable = study.variables[outcome or ""]
            classes = tuple(variable.levels) if isinstance(variable, CategoryVariable) else ("false", "true")
        target = outcome if task == "number" else None
        image = rest[0] if rest else None
        return Columns(study, numbers, booleans, categories, image, outcome, classes, target, spec.event)

    @property
    def scaled(self) -> tuple[str, ...]:
        """The numbers whose mean and variance are opened: features, and an outcome that is a number."""
        return (*self.numbers, *(name for name in (self.target,) if name))

    def levels(self, name: str) -> tuple[str, ...]:
        """The declared levels of a category."""
        variable = self.study.variables[name]
        assert isinstance(variable, CategoryVariable)
        return tuple(variable.levels)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Of each category: its declared levels, and "other"."""
        return tuple(len(self.levels(name)) + 1 for name in self.categories)

    def range(self, name: str) -> tuple[float, float]:
        """Centre and half of a number's declared range."""
        variable = self.study.variables[name]
        assert isinstance(variable, NumberVariable)
        return (variable.min + variable.max) / 2, (variable.max - variable.min) / 2

    @property
    def size(self) -> int:
        """Length of the prepared vector."""
        levels = sum(len(self.levels(name)) for name in self.categories)
        return 2 * len(self.scaled) + levels + len(self.classes)

    # -- the sums -----------------------------------------------------------------------------------------------------

    def sums(self, table: Table) -> dict[str, NDArray[Any]]:
        """One site's part: of z (scaled to [-1, 1] by the declared range) sum and sum of squares; numbers of patients."""
        tree: dict[str, NDArray[Any]] = {"patients": np.asarray(table.n)}
        if self.scaled:
            z = np.stack([self._declared(name, table[name]) for name in self.scaled])
            tree |= {"sum": z.sum(axis=1), "squares": (z * z).sum(axis=1)}
        for name in self.categories:
            tree[f"levels_{name}"] = np.bincount(table[name].astype(np.int64), minlength=len(self.levels(name)))
        if self.classes:
            assert self.outcome is not None
            tree["classes"] = np.bincount(table[self.outcome].astype(np.int64), minlength=len(self.classes))
        if self.event:
            tree["events"] = np.asarray(np.count_nonzero(table[self.event] == 1.0))
        return tree

    def leaves(self, patients: float) -> dict[str, Leaf]:
        """The declaration of `sums`."""
        found = {"patients": count((), patients, "Number of patients that are trained on.")}
        if self.scaled:
            k, names = (len(self.scaled),), ", ".join(self.scaled)
            found["sum"] = moment(k, patients, f"Sum of {names}, each scaled to [-1, 1].")
            found["squares"] = moment(k, patients, f"Sum of squares of {names}, each scaled to [-1, 1].")
        for name in self.categories:
            shape = (len(self.levels(name)),)
            found[f"levels_{name}"] = count(shape, patients, f"Number of patients with each {name}.")
        if self.classes:
            meaning = f"Number of patients with each {self.outcome}."
            found["classes"] = count((len(self.classes),), patients, meaning)
        if self.event:
            found["events"] = count((), patients, f"Number of patients with {self.event}.")
        return found

    def check_varies(self, sums: Mapping[str, NDArray[Any]]) -> None:
        """`MethodError` (``outcome-varies``) where the opened sums say that there is nothing to learn."""
        what = None
        if self.classes and np.count_nonzero(sums["classes"]) < 2:
            what = "Every patient has the same outcome: there is nothing to learn."
        elif self.target and _deviation(sums)[-1] < CONSTANT:
            what = "Every patient has the same outcome, as far as sums can tell on its declared range: there is nothing to learn."
        elif self.event and not sums["events"]:
            what = "No patient had the event."
        if what is not None:
            where = "event, or wait for longer follow-up" if self.event else "outcome, or widen the cohort"
            small = (
                " With `hide: none` hospitals leave out small cells: `hide: secagg` counts them." if self._bare else ""
            )
            raise MethodError(what, rule="outcome-varies", remedy=f"Check the mapping of the {where}.{small}")

    @property
    def _bare(self) -> bool:
        return self.study.protection.hide == "none"

    def prepared(
        self, sums: Mapping[str, NDArray[Any]], numbers: Literal["standardise", "declared"], least: int
    ) -> Vector:
        """(size,) the prepared vector, every element within [-1, 1], from the opened sums.

        Means and standard deviations of z (0 and 1 if numbers stay on their declared range, and for a number that is
        constant its mean and 1); for each level whether it has its own entry; the share of each class. A class with fewer
        than `least` patients counts as having so many: sites see the shares.
        """
        n, parts = float(sums["patients"]), []
        if self.scaled:
            mean, deviation = sums["sum"] / n, _deviation(sums)
            deviation = np.minimum(np.where(deviation < CONSTANT, 1.0, deviation), 1.0)
            kept = np.array([numbers == "declared" and name != self.target for name in self.scaled])
            parts += [np.where(kept, 0.0, mean), np.where(kept, 1.0, deviation)]
        parts += [(sums[f"levels_{name}"] >= max(least, 1)).astype(np.float64) for name in self.categories]
        if self.classes:
            known = np.where(sums["classes"] > 0, np.maximum(sums["classes"], least), 0.0)
            parts.append(known / max(known.sum(), 1.0))
        return np.concatenate([np.zeros(0), *parts])

    def read(self, vector: Vector) -> Prepared:
        """What a prepared vector says."""
        k, at = len(self.scaled), 2 * len(self.scaled)
        scales = {}
        for j, name in enumerate(self.scaled):
            centre, half = self.range(name)
            scales[name] = (centre + half * float(vector[j]), half * float(vector[k + j]))
        kept = {}
        for name in self.categories:
            levels = len(self.levels(name))
            kept[name] = np.asarray(vector[at : at + levels] > 0.5)
            at += levels
        return Prepared(self, scales, kept, np.array(vector[at : at + len(self.classes)], np.float64))

    def _declared(self, name: str, column: Column) -> Column:
        centre, half = self.range(name)
        return (column - centre) / half


def _deviation(sums: Mapping[str, NDArray[Any]]) -> Vector:
    """(k,) standard deviations of z, from the opened sums."""
    n = float(sums["patients"])
    return np.asarray(np.sqrt(np.maximum(sums["squares"] / n - (sums["sum"] / n) ** 2, 0.0)), np.float64)


@dataclass(frozen=True)
class Prepared:
    """The preprocessing of one analysis. scales: (centre, scale) of each number, in the study's unit; the model is given
    (x - centre) / scale. kept: of each category, which declared levels have an entry of their own; the others are 0.
    shares (C,): of the classes."""

    columns: Columns
    scales: Mapping[str, tuple[float, float]]
    kept: Mapping[str, NDArray[np.bool_]]
    shares: Vector

    def numbers(self, table: Table) -> NDArray[np.float32]:
        """(n, k) numbers and then booleans, as the model is given them."""
        columns = [(table[name] - self.scales[name][0]) / self.scales[name][1] for name in self.columns.numbers]
        columns += [table[name] for name in self.columns.booleans]
        return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((table.n, 0), np.float32)

    def categories(self, table: Table) -> NDArray[np.int64]:
        """(n, m) indices: 0 for a level without an entry of its own, else the level's index plus one."""
        found = np.zeros((table.n, len(self.columns.categories)), np.int64)
        for j, name in enumerate(self.columns.categories):
            codes = table[name].astype(np.int64)
            found[:, j] = np.where(self.kept[name][codes], codes + 1, 0)
        return found

    @property
    def target(self) -> tuple[float, float]:
        """Centre and scale of an outcome that is a number; (0, 1) for every other outcome."""
        return self.scales[self.columns.target] if self.columns.target else (0.0, 1.0)

    def class_weights(self, rule: Literal["none", "balanced"]) -> Vector | None:
        """(C,) ``1 / (C * share)`` for balance (a class that nobody has: 0), or None."""
        if rule == "none" or not len(self.shares):
            return None
        return np.where(self.shares > 0, 1.0 / (len(self.shares) * np.maximum(self.shares, 1e-12)), 0.0)

    def to_json(self) -> dict[str, Any]:
        """For the model file and the estimates."""
        study, columns = self.columns.study, self.columns
        numbers = []
        for name in columns.numbers:
            variable = study.variables[name]
            assert isinstance(variable, NumberVariable)
            centre, scale = self.scales[name]
            limits = {"min": float(variable.min), "max": float(variable.max)}
            numbers.append({"name": name, "unit": variable.unit, **limits, "centre": centre, "scale": scale})
        categories = [
            {
                "name": name,
                "levels": list(columns.levels(name)),
                "other": [level for level, kept in zip(columns.levels(name), self.kept[name], strict=True) if not kept],
            }
            for name in columns.categories
        ]
        found: dict[str, Any] = {
            "numbers": numbers,
            "booleans": list(columns.booleans),
            "categories": categories,
            "image": columns.image,
        }
        if columns.target:
            centre, scale = self.target
            found["target"] = {"name": columns.target, "centre": centre, "scale": scale}
        return found
