"""The demo's reference: the same patients pooled, which no hospital network could do, fitted by lifelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unisono.api import StudyResult
from unisono.report.comparison import Comparison

if TYPE_CHECKING:
    import pandas as pd

    from unisono.methods.base import Result
    from unisono.site.data.snapshot import Snapshot


def compare(answered: StudyResult) -> Comparison:
    """Federated and pooled, number by number."""
    results = {name: o.answer.result for name, o in answered.completed.outcomes.items() if o.answer is not None}
    return against_pooled(results, answered.completed.snapshots)


def against_pooled(results: Mapping[str, Result], snapshots: Mapping[str, Snapshot]) -> Comparison:
    """The results of the demo's study beside a fit of all hospitals' patients, pooled: Cox (stratified by hospital, Efron), the
    log-rank test and the medians."""
    from lifelines import CoxPHFitter, KaplanMeierFitter
    from lifelines.statistics import logrank_test

    pooled = _pooled(snapshots)
    rows: list[tuple[str, float, float]] = []
    if "effect" in results:
        complete = pooled.dropna(subset=["months", "died", "age", "sex", "ecog"])
        fit = CoxPHFitter().fit(
            complete[["months", "died", "age", "sex", "ecog", "hospital"]],
            "months",
            "died",
            strata=["hospital"],
            fit_options={"precision": 1e-14},
        )
        for mine in results["effect"].estimates["coefficients"]:
            name = mine["name"].split("[")[0]
            rows.append((f"log hazard ratio, {mine['name']}", mine["coef"], float(fit.params_[name])))
            rows.append((f"standard error, {mine['name']}", mine["se"], float(fit.standard_errors_[name])))
    if "curves" in results:
        known = pooled.dropna(subset=["months", "died", "sex", "ecog"])  # the cohort of every analysis: known(ecog)
        men, women = known[known["sex"] == 0], known[known["sex"] == 1]
        test = logrank_test(men["months"], women["months"], men["died"], women["died"])
        estimates: dict[str, Any] = results["curves"].estimates
        rows.append(("log-rank chi-squared", estimates["logrank"]["statistic"], float(test.test_statistic)))
        for group, patients in zip(estimates["groups"], (men, women), strict=True):
            curve = KaplanMeierFitter().fit(patients["months"], patients["died"])
            rows.append(
                (f"median survival (months), {group['name']}", group["median"], float(curve.median_survival_time_))
            )
    return Comparison(
        tuple(rows),
        "The federated numbers beside lifelines' on the pooled patients (same mapped data, same time grid).",
    )


def _pooled(snapshots: Mapping[str, Snapshot]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(
        [pd.DataFrame(dict(s.table.columns)).assign(hospital=name) for name, s in snapshots.items()], ignore_index=True
    )
