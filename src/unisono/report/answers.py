"""Each analysis's section of the report: what a clinician wants to see of a method, in the order in which it is read.

The built-in methods have a view of their own; any other method is shown by its summary table and its figure.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unisono.methods.base import Result
from unisono.methods.wording import say_one, say_p, say_unit
from unisono.report import words
from unisono.report.figures import Drawn
from unisono.report.isolated import fault
from unisono.report.views import Block, Picture, Text, frame_grid, grid
from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable, Study

Draw = Callable[[Result], Drawn]


@dataclass(frozen=True)
class Section:
    """One analysis as it is read: title, the answer in a sentence, tables and figures, and what to know about them."""

    anchor: str
    title: str
    headline: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    converged: bool = True


ORDER = ("describe", "kaplan-meier", "cox", "glm")
"""Who was studied, what happened to them, and what made a difference."""

TELLING = ("cox", "glm", "kaplan-meier")
"""Whose headline answers the question, if there are several."""


def section(result: Result, method: str, drawn: Drawn | None) -> Section:
    """The section of one analysis. drawn: None if its figure could not be drawn."""
    try:
        blocks = _VIEWS.get(method, _any)(result, drawn)
    except Exception as error:  # noqa: BLE001  (its numbers are in its files; the other analyses are shown)
        blocks = [Text(f"This analysis has an answer, but its tables could not be laid out. {fault(error)}")]
    title = _TITLES.get(method, result.analysis)
    return Section(
        f"analysis-{result.analysis}",
        title,
        words.together(headline(result)),
        tuple(blocks),
        result.notes,
        result.converged,
    )


def headline(result: Result) -> str:
    """The answer in a sentence; if that cannot be made, why."""
    try:
        return result.headline()
    except Exception as error:  # noqa: BLE001  (as above)
        return fault(error)


def _any(result: Result, drawn: Drawn | None) -> list[Block]:
    return [frame_grid(result.summary()), _picture(drawn, result, f"{result.analysis}.")]


def _describe(result: Result, _: Drawn | None) -> list[Block]:
    by = result.estimates.get("by")
    caption = "Table 1. The patients" + (f", by {_label(result.study, by)}." if by else ".")
    note = "Quantiles are read from a histogram on the declared bounds, and are exact to one of its bins."
    return [frame_grid(result.summary(), caption, note if "quartiles" in str(result.summary().index) else "")]


def _kaplan_meier(result: Result, drawn: Drawn | None) -> list[Block]:
    found, least = result.estimates, result.study.release.min_count
    unit, level = say_unit(found["time"]["unit"]), _confidence(found)
    heads = ("", "patients", "events", f"median survival ({unit})", level, f"median follow-up ({unit})")
    rows = [
        (
            _group(result.study, found["by"], g["name"]),
            words.count(g["n"]),
            words.count(g["events"]),
            words.time(g["median"]),
            _limits(g["median_low"], g["median_high"]),
            words.time(g["follow_up_median"]),
        )
        for g in found["groups"]
    ]
    events = grid(heads, rows, "Events and follow-up.", "Follow-up by the reverse Kaplan-Meier estimator.")
    caption = (
        f"Kaplan-Meier curves with pointwise {level}, and the number at risk below. The marked points are exact; steps"
        f" between them are not shown where they would be of fewer than {least} patients."
    )
    if any(
        n is None and not few for g in found["groups"] for n, few in zip(g["at_risk"], g["few_at_risk"], strict=True)
    ):
        caption += f" A dash: fewer than {least} patients changed since the number before."
    picture = _picture(drawn, result, caption)
    survival = _at(result, [(_group(result.study, found["by"], g["name"]), g["at"]) for g in found["groups"]], unit)
    return [events, picture, *_logrank(found["logrank"]), *survival]


def _logrank(test: dict[str, Any] | None) -> list[Block]:
    """The test of the groups; nothing where there are none."""
    if test is None:
        return []
    statistic, df, p = words.number(test["statistic"]), _df(test["df"]), say_p(test["p"])
    return [Text(f"Log-rank test of the groups: chi-squared {statistic}, {df}, {p}.")]


def _cox(result: Result, drawn: Drawn | None) -> list[Block]:
    found, study = result.estimates, result.study
    level = _confidence(found)
    rows = [
        (
            term(study, row["name"]),
            words.number(row["hr"]),
            words.interval(row["ci_low"], row["ci_high"]),
            words.p_cell(row["p"]),
        )
        for row in found["coefficients"]
    ]
    note = f"Above 1: the event comes sooner; below 1: later.{_adjusted(len(rows))}"
    ratios = grid(("", "hazard ratio", level, "p"), rows, "Hazard ratios.", note)
    profiles: dict[str, list[dict[str, Any]]] = {}
    for row in found["survival_at"]:
        profiles.setdefault(row["profile"], []).append(row)
    unit = say_unit(found["time"]["unit"])
    survival = _at(result, [(_profile(study, name), at) for name, at in profiles.items()], unit)
    absolute = [*survival, Text(_reference(result))] if survival else []
    return [
        ratios,
        _picture(drawn, result, f"Hazard ratios with {level}, on a logarithmic axis."),
        *absolute,
        *_cox_checks(result),
    ]


def _cox_checks(result: Result) -> list[Block]:
    """The checks of a Cox regression: proportional hazards, discrimination, the fit as a whole."""
    found, study = result.estimates, result.study
    blocks: list[Block] = []
    check = found["ph_check"]
    if check:
        rows = [
            (
                "all together" if r["name"] == "global" else _names(study, r["name"]),
                words.number(r["chi2"]),
                str(r["df"]),
                words.p_cell(r["p"]),
            )
            for r in check["tests"]
        ]
        note = "A small p means that a ratio changes with time, and that one number for it is an average over time."
        blocks.append(grid(("", "chi-squared", "df", "p"), rows, "Are the hazard ratios constant over time?", note))
    test = found["tests"]["likelihood_ratio"]
    said = f"{words.count(found['n'])} patients, {words.count(found['events'])} events. Likelihood-ratio test of all covariates:"
    said += f" chi-squared {words.number(test['statistic'])}, {_df(test['df'])}, {say_p(test['p'])}."
    if found["c_index"] is not None:
        said += (
            f" C-index {words.number(found['c_index'])}: of two patients of one hospital, how often the one with the higher"
            " predicted risk had the event first (0.5 is chance)."
        )
    return [*blocks, Text(said)]


def _glm(result: Result, drawn: Drawn | None) -> list[Block]:
    found, study = result.estimates, result.study
    with_ratio = "ratio" in found["coefficients"][0]
    keys = ("ratio", "ratio_low", "ratio_high") if with_ratio else ("coef", "ci_low", "ci_high")
    level = _confidence(found)
    rows = [
        (term(study, r["name"]), words.number(r[keys[0]]), words.interval(r[keys[1]], r[keys[2]]), words.p_cell(r["p"]))
        for r in found["coefficients"]
        if not (with_ratio and r["name"] == "intercept")  # its exponential is the odds or rate of nobody
    ]
    name = {"binomial": "odds ratio", "poisson": "rate ratio"}.get(found["family"], "coefficient")
    table = grid(("", name, level, "p"), rows, f"{name.capitalize()}s.", _adjusted(len(rows)).strip())
    counted = f", {words.count(found['events'])} events" if found.get("events") is not None else ""
    said = (
        f"{words.count(found['n'])} patients{counted}. Deviance {words.number(found['deviance'], 5)} on {found['df_residual']:,}"
        f" degrees of freedom (null {words.number(found['null_deviance'], 5)}); AIC {words.number(found['aic'], 5)}."
    )
    return [table, _picture(drawn, result, f"{name.capitalize()}s with {level}."), Text(said)]


_VIEWS: dict[str, Callable[[Any, Drawn | None], list[Block]]] = {
    "describe": _describe,
    "kaplan-meier": _kaplan_meier,
    "cox": _cox,
    "glm": _glm,
}
_TITLES = {
    "describe": "Who was studied",
    "kaplan-meier": "Survival",
    "cox": "What made a difference",
    "glm": "What made a difference",
}


def term(study: Study, column: str) -> str:
    """A column of a design in words: ``sex female (against male)``, ``age (for each a more)``; interactions with ×."""
    return " × ".join(_factor(study, part) for part in column.split(":"))


def _names(study: Study, written: str) -> str:
    """A covariate as written in the study, by its label."""
    return " × ".join(_label(study, name.strip()) for name in written.split(":"))


def _factor(study: Study, part: str) -> str:
    name, _, level = part.rstrip("]").partition("[")
    variable = study.variables.get(name)
    label = _label(study, name)
    if isinstance(variable, CategoryVariable):
        return f"{label}: {level} (against {variable.reference})" if level else label
    if isinstance(variable, BooleanVariable):
        return f"{label}: yes (against no)"
    if isinstance(variable, NumberVariable):
        return f"{label} (for each {say_one(variable.unit)} more)"
    return part


def _adjusted(number: int) -> str:
    return " Each adjusted for the others." if number > 1 else ""


def _label(study: Study, name: str) -> str:
    variable = study.variables.get(name)
    return (variable.label if variable is not None else None) or name


def _group(study: Study, by: str | None, name: str) -> str:
    if by is None:
        return "all patients"
    return f"{_label(study, by)}: {name}" if isinstance(study.variables[by], BooleanVariable) else name


def _profile(study: Study, name: str) -> str:
    """``sex = female`` as the study's label says it."""
    variable, equals, level = name.partition(" = ")
    return f"{_label(study, variable)}: {level}" if equals else "reference patient"


def _reference(result: Result) -> str:
    """Who the reference patient is."""
    baseline = result.estimates["baseline"]
    of = baseline["of"] if baseline else {}
    said = []
    for name, value in of.items():
        variable = result.study.variables[name]
        code = "" if not isinstance(variable, NumberVariable) or variable.unit == "1" else f" {say_unit(variable.unit)}"
        said.append(f"{_label(result.study, name)} {value if isinstance(value, str) else words.number(value) + code}")
    return f"The reference patient: {', '.join(said)}; the others differ from it in what is named." if said else ""


def _at(result: Result, groups: list[tuple[str, list[dict[str, Any]]]], unit_code: str) -> list[Block]:
    """Absolute survival at the declared times, if there are any."""
    rows = [
        (
            name if k == 0 else "",
            words.time(at["time"]),
            words.percent(at["survival"]),
            _shares(at["low"], at["high"]),
            f"<{result.study.release.min_count}" if at.get("few") else words.count(at["at_risk"]),
        )
        for name, times in groups
        for k, at in enumerate(times)
    ]
    if not rows:
        return []
    level = _confidence(result.estimates)
    note = (
        "–: not shown, because too few patients were at risk, or changed since a time that is shown"
        f" (rule: {result.study.release.min_count})."
        if any(words.NOTHING in r for r in rows)
        else ""
    )
    return [grid(("", f"at ({unit_code})", "survival", level, "at risk"), rows, "Absolute survival.", note)]


def _limits(low: float | None, high: float | None) -> str:
    if low is None:
        return words.NOTHING
    return f"{words.time(low)} to {'not reached' if high is None else words.time(high)}"


def _shares(low: float | None, high: float | None) -> str:
    return words.NOTHING if low is None or high is None else f"{words.percent(low)} to {words.percent(high)}"


def _confidence(estimates: dict[str, Any]) -> str:
    return f"{100 * estimates['confidence']:.10g}% CI"


def _df(df: int) -> str:
    return f"{df} degree of freedom" if df == 1 else f"{df} degrees of freedom"


def _picture(drawn: Drawn | None, result: Result, caption: str) -> Block:
    """The SVG as a data URI: it cannot run anything, and its ids meet no other figure's."""
    if drawn is None:
        return Text("Its figure could not be drawn.")
    encoded = base64.b64encode(drawn.svg).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{encoded}", result.headline(), caption)
