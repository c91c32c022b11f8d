"""Table 1 as a reader sees it: ``62.4 (9.1)``, ``90 (39.8%)``, ``<10``; and small figures of each variable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unisono.methods.base import Result
from unisono.methods.figures import COLOURS, INK, new_figure
from unisono.methods.wording import say_number, say_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNSAID = "not shown"


@dataclass(frozen=True)
class DescribeResult(Result):
    """Summary statistics; in `estimates` what may not be shown is None (docs/methods/describe.md)."""

    def summary(self) -> pd.DataFrame:
        """Table 1: a row a number (mean (SD), and median [quartiles] where asked for), a row a level, a column a group."""
        columns = self._columns()
        least = self.estimates["min_count"]
        rows: dict[str, list[str]] = {"n": [_count(n) for n in self._sizes()]}
        for variable in self.estimates["variables"]:
            entries = [variable["overall"] if k is None else variable["by_group"][k] for k in columns.values()]
            rows |= _number_rows(variable, entries) if "mean" in entries[0] else _level_rows(variable, entries, least)
            gaps = [entry["missing"] for entry in entries]
            if any(gap != 0 for gap in gaps):
                rows[f"{variable['label']}: missing"] = [_count(gap) for gap in gaps]
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))

    def headline(self) -> str:
        """Who was described, in one sentence."""
        said = [text for text in map(_in_words, self.estimates["variables"]) if text][:2]
        by = self.estimates["by"]
        groups = f", by {self.study.variables[by].label or by}" if by else ""
        number = len(self.estimates["variables"])
        about = f": {', '.join(said)}" if said else ""
        variables = "variable" if number == 1 else "variables"
        return f"{self.estimates['n']} patients described in {number} {variables}{groups}{about}."

    def plot(self) -> Figure:
        """Small multiples, overall: a histogram of each number (small bins merged), bars of each category."""
        variables = self.estimates["variables"]
        ratios = tuple(1.0 if "mean" in v["overall"] else 0.3 + 0.25 * len(v["overall"]["levels"]) for v in variables)
        figure, axes = new_figure(height=0.8 + 1.6 * sum(ratios), rows=len(variables), ratios=ratios)
        for ax, variable in zip(axes, variables, strict=True):
            if "mean" in variable["overall"]:
                _histogram(ax, variable)
            else:
                _bars(ax, variable)
        return figure

    def _columns(self) -> dict[str, int | None]:
        """Column titles and the group of each (None: overall); a ``missing`` group that is empty is left out."""
        found: dict[str, int | None] = {}
        sizes = self.estimates["group_n"]
        for k, name in enumerate(self.estimates["groups"]):
            last = k == len(sizes) - 1
            if not (last and sizes[k] == 0):
                found["(missing)" if last else name] = k
        return {**found, "overall": None}

    def _sizes(self) -> list[int | None]:
        return [self.estimates["n"] if k is None else self.estimates["group_n"][k] for k in self._columns().values()]


def _count(n: int | None) -> str:
    return UNSAID if n is None else str(n)


def _number_rows(variable: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, list[str]]:
    unit = "" if variable["unit"] in (None, "1") else f" ({say_unit(variable['unit'])})"
    rows = {f"{variable['label']}{unit}, mean (SD)": [_mean(entry) for entry in entries]}
    asked = list(entries[0]["quantiles"])
    if {"0.25", "0.5", "0.75"} <= set(asked):
        rows[f"{variable['label']}{unit}, median [quartiles]"] = [_median(entry) for entry in entries]
        asked = [q for q in asked if q not in ("0.25", "0.5", "0.75")]
    for q in asked:
        at = [(entry["quantiles"][q], entry["width"]) for entry in entries]
        rows[f"{variable['label']}{unit}, quantile {q}"] = [UNSAID if x is None else say_quantile(x, w) for x, w in at]
    return rows


def _mean(entry: dict[str, Any]) -> str:
    if entry["mean"] is None:
        return "-" if entry["n"] == 0 else UNSAID
    return f"{say_number(entry['mean'])} ({_deviation(entry)})"


def _deviation(entry: dict[str, Any]) -> str:
    """The standard deviation with the decimals of its mean, as tables are printed; more where it would be 0."""
    mean, sd = say_number(entry["mean"]), entry["sd"]
    rounded = f"{sd:.{len(mean.partition('.')[2])}f}" if sd is not None and "e" not in mean else say_number(sd)
    return rounded if sd is None or sd == 0 or float(rounded) > 0 else say_number(sd)


def _median(entry: dict[str, Any]) -> str:
    low, middle, high = (entry["quantiles"][q] for q in ("0.25", "0.5", "0.75"))
    width = entry["width"]
    if middle is None:
        return "-" if entry["n"] == 0 else UNSAID
    if low is None or high is None:
        return say_quantile(middle, width)
    return f"{say_quantile(middle, width)} [{say_quantile(low, width)} to {say_quantile(high, width)}]"


def say_quantile(value: float, width: float) -> str:
    """A quantile from a histogram with bins of this width (0: exact), rounded to the coarsest power of ten that moves it by
    no more than one bin: ``45``, not ``45.2``, for bins 1.44 wide."""
    if width == 0:
        return f"{value:.0f}"
    power = math.floor(math.log10(2 * width) + 1e-9)
    rounded = round(value, -power) + 0.0  # no "-0"
    text = say_number(rounded)
    return text if "e" in text else f"{rounded:.{min(len(text.partition('.')[2]), max(-power, 0))}f}"


def _level_rows(variable: dict[str, Any], entries: list[dict[str, Any]], least: int) -> dict[str, list[str]]:
    names = [row["level"] for row in entries[0]["levels"]]
    chosen = range(1, 2) if variable["type"] == "boolean" else range(len(names))
    rows = {}
    for k in chosen:
        title = variable["label"] if variable["type"] == "boolean" else f"{variable['label']}: {names[k]}"
        rows[f"{title}, n (%)"] = [_level(entry["levels"][k], least) for entry in entries]
    return rows


def _level(row: dict[str, Any], least: int) -> str:
    if row["n"] is None:
        return f"<{least}" if row["small"] else UNSAID
    return f"{row['n']}" if row["percent"] is None else f"{row['n']} ({row['percent']:.1f}%)"


def _in_words(variable: dict[str, Any]) -> str | None:
    """``mean age 62.4 a (SD 9.1)``, ``sex female 39.8%``; None where that may not be said."""
    overall = variable["overall"]
    if "mean" in overall:
        unit = "" if variable["unit"] in (None, "1") else f" {say_unit(variable['unit'])}"
        if overall["mean"] is None:
            return None
        return f"mean {variable['label']} {say_number(overall['mean'])}{unit} (SD {_deviation(overall)})"
    last = overall["levels"][-1]
    if last["n"] is None or last["percent"] is None:
        return None
    return f"{variable['label']}{'' if variable['type'] == 'boolean' else ' ' + last['level']} {last['percent']:.1f}%"


def _histogram(ax: Axes, variable: dict[str, Any]) -> None:
    shown = variable["histogram"]
    unit = "" if variable["unit"] in (None, "1") else f" ({say_unit(variable['unit'])})"
    ax.set_xlabel(f"{variable['label']}{unit}", color=INK, fontsize=9)
    ax.set_yticks([])
    if shown is None:
        ax.annotate(UNSAID, (0.5, 0.5), xycoords="axes fraction", ha="center", color=INK, fontsize=9)
        return
    edges = np.array(shown["edges"])
    width = np.diff(edges)
    ax.bar(
        edges[:-1], np.array(shown["shares"]) / width, width=width, align="edge", color=COLOURS[0], edgecolor="white"
    )


def _bars(ax: Axes, variable: dict[str, Any]) -> None:
    rows = variable["overall"]["levels"]
    places = range(len(rows))
    ax.barh(places, [row["n"] or 0 for row in rows], color=COLOURS[0], height=0.6)
    for place, row in zip(places, rows, strict=True):
        share = "" if row["percent"] is None else f" ({row['percent']:.0f}%)"
        text = UNSAID if row["n"] is None else f"{row['n']}{share}"
        ax.annotate(text, (row["n"] or 0, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_yticks(places, [row["level"] for row in rows])
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set_xlabel(f"{variable['label']} (patients)", color=INK, fontsize=9)
