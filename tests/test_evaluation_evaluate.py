"""`evaluate`: a score that hospitals already have, against an outcome: the pooled metrics, a table, a sentence, figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lifelines.utils import concordance_index
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, r2_score, roc_auc_score

from tests.support import scores
from tests.support.plain import PlainFederation, answer
from unisono.errors import MethodError
from unisono.methods.evaluation.evaluate import Evaluate
from unisono.methods.evaluation.evaluate_result import EvaluateResult
from unisono.methods.registry import build, check, find
from unisono.protection.disclosure import suppress_small
from unisono.study.checks import problems
from unisono.study.document import Study
from unisono.study.table import Table, stack

VARIABLES = {
    "died30": {"type": "boolean", "label": "death within 30 days"},
    "alarm": {"type": "boolean"},
    "risk": {"type": "number", "min": 0, "max": 1, "label": "risk score"},
    "points": {"type": "integer", "min": 0, "max": 24},
    "stage": {"type": "category", "levels": ["I", "II", "III"]},
    "stage_ct": {"type": "category", "levels": ["I", "II", "III"]},
    "grade": {"type": "category", "levels": ["low", "high"]},
    "days": {"type": "number", "unit": "d", "min": 0, "max": 90},
    "expected": {"type": "number", "unit": "d", "min": 0, "max": 200},
    "months": {"type": "number", "unit": "mo", "min": 0, "max": 39},
    "died": {"type": "boolean"},
    "hazard": {"type": "number", "min": -6, "max": 6},
    "s12": {"type": "number", "min": 0, "max": 1},
    "s24": {"type": "number", "min": 0, "max": 1},
}
FOLLOWED = {"time": "months", "event": "died", "score": "hazard", "grid": {"step": 1, "unit": "mo"}}
WITH_SURVIVAL = {**FOLLOWED, "survival": [{"at": 12, "variable": "s12"}, {"at": 24, "variable": "s24"}]}


def study(min_count: int = 10, **parameters: object) -> Study:
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "is-the-score-any-good",
            "question": "Does the score still hold?",
            "variables": VARIABLES,
            "analyses": {"score": {"method": "evaluate", **parameters}},
            "release": {"min_count": min_count},
        }
    )


def patients(seed: int = 1, n: int = 900) -> list[Table]:
    """At three hospitals."""
    rng = np.random.default_rng(seed)
    p, y = scores.binary(seed, n)
    risk, target = scores.survival(seed, n)
    stage = rng.integers(0, 3, n)
    days = rng.gamma(4, 4, n).clip(0, 90)
    columns = {
        "died30": y,
        "alarm": (p + rng.normal(0, 0.2, n) > 0.6).astype(float),
        "risk": p,
        "points": np.floor(24 * p),
        "stage": stage.astype(float),
        "stage_ct": np.where(rng.random(n) < 0.7, stage, rng.integers(0, 3, n)).astype(float),
        "grade": (rng.random(n) < 0.5).astype(float),
        "days": days,
        "expected": (days + rng.normal(0, 4, n)).clip(0, 200),
        "months": target[:, 0],
        "died": target[:, 1],
        "hazard": risk.clip(-6, 6),
        "s12": np.exp(-np.exp(0.6 * risk) * 12 / 15),
        "s24": np.exp(-np.exp(0.6 * risk) * 24 / 15),
    }
    places = scores.split(n, rng)
    return [Table({k: v[place] for k, v in columns.items()}, len(place)) for place in places]


def run(document: Study, tables: list[Table]) -> EvaluateResult:
    assert problems(document) == [] and check(document) == []
    method = build(document, "score")
    result = answer(method, tables)
    assert isinstance(method, Evaluate) and isinstance(result, EvaluateResult)
    json.dumps(result.estimates, allow_nan=False)
    return result


def test_a_probability_against_an_outcome_is_ranked_calibrated_and_scored() -> None:
    tables = patients()
    result = run(study(outcome="died30", score="risk"), tables)
    pool, found = stack(tables), result.estimates
    y, p = pool["died30"], pool["risk"]
    binned = build(result.study, "score").evaluation.scale.index(p)
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(y, binned), abs=1e-12)
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(y, p), abs=5e-4)
    assert found["average_precision"]["value"] == pytest.approx(average_precision_score(y, binned), abs=1e-12)
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(y, p), abs=1e-9)
    assert "death within 30 days: AUROC 0." in result.headline() and "900 patients" in result.headline()
    table = result.summary()
    assert table.loc["AUROC", "low"] < table.loc["AUROC", "value"] < table.loc["AUROC", "high"]
    assert {"calibration slope", "Brier score", "sensitivity", "accuracy"} <= set(table.index)
    assert len(result.plot().axes) == 2


def test_a_score_of_whole_points_is_ranked_exactly_and_cut_at_the_threshold() -> None:
    tables = patients(2)
    result = run(study(outcome="died30", score="points", threshold=12), tables)
    pool = stack(tables)
    assert result.estimates["auroc"]["value"] == pytest.approx(roc_auc_score(pool["died30"], pool["points"]), abs=1e-12)
    tn, fp, fn, tp = confusion_matrix(pool["died30"], pool["points"] >= 12).ravel()
    confusion = result.estimates["confusion"]
    assert [confusion[k] for k in ("true_negative", "false_positive", "false_negative", "true_positive")] == [
        tn,
        fp,
        fn,
        tp,
    ]
    assert "brier" not in result.estimates and len(result.plot().axes) == 1


@pytest.mark.parametrize(("outcome", "predicted"), [("stage", "stage_ct"), ("died30", "alarm")])
def test_a_class_against_a_class_is_a_confusion_matrix(outcome: str, predicted: str) -> None:
    tables = patients(3)
    result = run(study(outcome=outcome, predicted=predicted), tables)
    pool = stack(tables)
    assert result.estimates["confusion"]["matrix"] == confusion_matrix(pool[outcome], pool[predicted]).T.tolist()
    assert result.estimates["accuracy"]["value"] == pytest.approx((pool[outcome] == pool[predicted]).mean())
    assert "accuracy 0." in result.headline()
    assert result.plot().axes[0].get_xlabel() == "True"


def test_a_number_against_a_number_has_errors_in_its_unit() -> None:
    tables = patients(4)
    result = run(study(outcome="days", predicted="expected"), tables)
    pool = stack(tables)
    assert result.estimates["r2"]["value"] == pytest.approx(
        r2_score(pool["days"], pool["expected"].clip(0, 90)), abs=1e-9
    )
    assert "days" in result.headline().split("absolute error")[1]
    assert result.plot().axes


def test_a_risk_against_follow_up_has_lifelines_concordance_over_pairs_of_all_hospitals() -> None:
    tables = patients(5)
    result = run(study(**WITH_SURVIVAL), tables)
    pool, found = stack(tables), result.estimates
    binned = build(result.study, "score").evaluation.scale.index(pool["hazard"])
    assert found["concordance"]["value"] == pytest.approx(
        concordance_index(pool["months"], -binned, pool["died"]), abs=1e-12
    )
    assert [s["time"] for s in found["brier"]] == [12.0, 24.0]
    assert found["integrated_brier"]["value"] == pytest.approx(np.mean([s["value"] for s in found["brier"]]), abs=1e-12)
    assert "C-index 0." in result.headline() and "integrated Brier" in result.headline()
    assert "Brier score at 12" in result.summary().index
    assert result.plot().axes[0].get_xlabel() == "Time (months)"
    assert run(study(**FOLLOWED), tables).plot().axes[0].get_yticklabels()[0].get_text() == "C-index"


def test_each_hospital_finds_the_metrics_of_its_own_patients_in_its_own_folder_and_nobody_else_does() -> None:
    import asyncio

    tables = patients(6)
    method = build(study(outcome="died30", score="risk"), "score")
    federation = PlainFederation(method, tables)
    result = asyncio.run(method.run(federation))  # type: ignore[arg-type]
    assert federation.steps == ["tallies"]
    (sheets,) = federation.told
    for sheet, table in zip(sheets, tables, strict=True):
        assert sheet["n"] == table.n and sheet["events"] == int(table["died30"].sum())
        if 0 < sheet["events"] < table.n:
            assert sheet["auroc"]["value"] == pytest.approx(roc_auc_score(table["died30"], table["risk"]), abs=5e-3)
        json.dumps(sheet, allow_nan=False)
        assert str(sheet["brier"]["value"]) not in json.dumps(result.estimates)


def test_histograms_with_small_cells_left_out_are_not_taken_for_everybody() -> None:
    class Suppressing(PlainFederation):
        async def sum(self, contribution, *arguments):  # type: ignore[no-untyped-def]
            total = await super().sum(contribution, *arguments)
            return {k: suppress_small(v, 10)[0] if k.endswith("outcome") else v for k, v in total.items()}

    import asyncio

    method = build(study(outcome="died30", score="risk"), "score")
    with pytest.raises(MethodError) as refused:
        asyncio.run(method.run(Suppressing(method, patients())))  # type: ignore[arg-type]
    assert refused.value.rule == "complete-histograms"


def test_notes_say_what_is_not_shown() -> None:
    tables = [Table({"died30": np.r_[np.ones(4), np.zeros(96)], "risk": np.linspace(0, 1, 100)}, 100)]
    result = run(study(outcome="died30", score="risk"), tables)
    assert result.estimates["events"] is None and len(result.notes) == 2
    assert "not shown" in result.headline()
    assert result.plot().axes
    stages = np.repeat([0.0, 1.0, 2.0], [50, 40, 30])
    wrong = stages.copy()
    wrong[:3] = 1.0
    result = run(study(outcome="stage", predicted="stage_ct"), [Table({"stage": stages, "stage_ct": wrong}, 120)])
    assert "fewer than 10" in result.notes[0] and result.plot().axes


def test_the_result_is_rebuilt_from_its_estimates() -> None:
    result = run(study(outcome="died30", score="risk"), patients(7))
    again = find("evaluate").result(result.study, "score", json.loads(json.dumps(result.estimates)), notes=result.notes)
    assert again.summary().equals(result.summary()) and again.headline() == result.headline()


def test_the_disclosure_sheet_has_two_histograms_and_four_sums() -> None:
    method = build(study(outcome="died30", score="risk"), "score")
    (ask,) = method.plan()
    from unisono.federation.contribution import Facts

    leaves = ask.contribution.declaration(Facts(patients=900)).leaves
    assert {name: leaf.rule for name, leaf in leaves.items()} == {
        "with_outcome": "count",
        "without_outcome": "count",
        "brier": "moment",
        "brier_squares": "moment",
        "log_loss": "moment",
        "log_loss_squares": "moment",
    }
    assert all(leaf.meaning.endswith(".") for leaf in leaves.values())


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({"score": "risk"}, "evaluation-outcome"),
        ({"outcome": "died30"}, "evaluation-score"),
        ({"outcome": "died30", "score": "risk", "predicted": "alarm"}, "evaluation-score"),
        ({"outcome": "dead", "score": "risk"}, "known-variables"),
        ({"outcome": "died30", "score": "riks"}, "known-variables"),
        ({"outcome": "died30", "score": "stage"}, "variable-type"),
        ({"outcome": "stage", "score": "risk"}, "variable-type"),
        ({"outcome": "stage", "predicted": "risk"}, "variable-type"),
        ({"outcome": "stage", "predicted": "grade"}, "same-levels"),
        ({"outcome": "stage", "predicted": "stage_ct", "threshold": 0.5}, "evaluation-keys"),
        ({"outcome": "died30", "score": "risk", "threshold": 1.5}, "threshold"),
        ({"outcome": "died30", "score": "risk", "survival": [{"at": 12, "variable": "s12"}]}, "evaluation-keys"),
        ({**FOLLOWED, "outcome": "died30"}, "evaluation-keys"),
        ({k: v for k, v in FOLLOWED.items() if k != "score"}, "evaluation-keys"),
        ({**FOLLOWED, "event": "months"}, "variable-type"),
        ({**FOLLOWED, "survival": [{"at": 12, "variable": "hazard"}]}, "probabilities"),
        ({**FOLLOWED, "survival": [{"at": 400, "variable": "s12"}]}, "times-in-follow-up"),
        (
            {**FOLLOWED, "survival": [{"at": 12.2, "variable": "s12"}, {"at": 12.6, "variable": "s24"}]},
            "increasing-times",
        ),
        ({**FOLLOWED, "grid": {"step": 0.01, "unit": "mo"}, "bins": 1000}, "histogram-size"),
        ({"outcome": "died30", "score": "risk", "bin": 20}, "known-keys"),
    ],
)
def test_a_wrong_parameter_is_found_when_the_study_is_checked(parameters: dict, rule: str) -> None:
    assert [problem.rule for problem in check(study(**parameters))] == [rule]
