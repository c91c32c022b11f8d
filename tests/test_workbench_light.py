"""The light federation opens what the real one opens: the same statistics to the last digit, the same training up to the rounding of
updates; and its references are what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from unisono.engines.embedded.run import Settings, SiteData, run_study
from unisono.federation.contribution import Facts
from unisono.methods.registry import build, check
from unisono.methods.training.training import Training
from unisono.study.document import Study
from unisono.study.load import load
from unisono.study.table import stack
from unisono.workbench.light import Cohort, cohort
from unisono.workbench.references import alone, curve_of, federated, merged, pooled


def study(method: str = "fedavg", **settings: Any) -> Study:
    """Two numbers, one of them with gaps, and a yes or no that follows from them."""
    return load(
        {
            "unisono": 1,
            "id": "light",
            "question": "Does the light federation find what the real one finds?",
            "variables": {
                "a": {"type": "number", "min": -6, "max": 6},
                "b": {"type": "number", "min": -6, "max": 6},
                "ill": {"type": "boolean"},
            },
            "cohort": {"missing": {"default": "complete-cases", "b": "mean"}},
            "analyses": {
                "model": {
                    "method": method,
                    "outcome": "ill",
                    "features": ["a", "b"],
                    "model": {"kind": "mlp", "hidden": [8]},
                    "local": {"epochs": 1, "batch": 16, "rate": 0.2},
                    "rounds": {"most": 4},
                    "validate": {"fraction": 0.25},
                    "seed": 3,
                    **settings,
                }
            },
            "release": {"min_count": 1},
        },
        check,
    )


def frames(sites: int = 3, n: int = 80) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(11)
    found = {}
    for k in range(sites):
        a, b = rng.normal(k - 1, 1, n), rng.normal(0, 1, n)
        ill = (a + b + rng.normal(0, 0.5, n) > 0).astype(float)
        gaps = np.where(rng.random(n) < 0.1, np.nan, b)
        found[f"site-{k + 1}"] = pd.DataFrame({"a": a, "b": gaps, "ill": ill.astype(bool)})
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Cohort]:
    """The engine's run, under secure aggregation, and the cohort as the light federation opens it."""
    data = {name: SiteData(frame) for name, frame in frames().items()}
    run = run_study(study(), data, tmp_path_factory.mktemp("light"), Settings())
    tables = {name: snapshot.table for name, snapshot in run.snapshots.items()}
    return run, cohort(study(), "model", tables)


def test_the_cohort_is_opened_as_in_a_run(both: tuple[Any, Cohort]) -> None:
    run, opened = both
    answer = run.outcomes["model"].answer
    assert opened.facts == answer.cohort.facts
    assert opened.facts.imputed["b"] == pytest.approx(0.0, abs=0.2)
    assert sum(table.n for table in opened.tables.values()) == opened.facts.patients == 240


def test_a_training_here_is_the_engine_s_up_to_the_rounding_of_updates(both: tuple[Any, Cohort]) -> None:
    run, opened = both
    real = curve_of(run.outcomes["model"].answer.result)
    light = federated(study(), "model", opened).curve
    assert len(real) == len(light) == 5
    assert real[0].loss == pytest.approx(light[0].loss, rel=1e-9)  # before any update
    for a, b in zip(real, light, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.metric == pytest.approx(b.metric)


def test_the_same_seed_rounds_alike(both: tuple[Any, Cohort]) -> None:
    _, opened = both
    first, again = (federated(study(), "model", opened, seed=5) for _ in range(2))
    assert first.curve == again.curve
    assert first.metrics == again.metrics


def test_pooling_keeps_everybody_on_their_side_and_is_measured_on_the_same_patients(both: tuple[Any, Cohort]) -> None:
    _, opened = both
    method = build(study(), "model")
    assert isinstance(method, Training)
    sites = [method.prepare(table) for _, table in sorted(opened.tables.items())]
    whole = merged(sites)
    assert whole.table.n == 240
    assert whole.valid.sum() == sum(site.valid.sum() for site in sites)
    np.testing.assert_array_equal(whole.table["a"], stack([site.table for site in sites])["a"])
    trial = pooled(study(), "model", opened)
    assert set(trial.by_site) == {"site-1", "site-2", "site-3"}
    sizes = [int(site.valid.sum()) for site in sites]
    mean = np.average([m["accuracy"] for m in trial.by_site.values()], weights=sizes)
    assert trial.metrics["accuracy"] == pytest.approx(mean)


def test_one_site_s_federation_is_that_site_alone(both: tuple[Any, Cohort]) -> None:
    _, opened = both
    name, table = next(iter(opened.tables.items()))
    single = Cohort({name: table}, Facts(table.n, opened.facts.imputed))
    by_itself, everybody = alone(study(), "model", single), pooled(study(), "model", single)
    one_patient = 1 / round(0.2 * table.n)  # updates are rounded: somebody at the threshold may fall on its other side
    assert by_itself.metrics["accuracy"] == pytest.approx(everybody.metrics["accuracy"], abs=1.01 * one_patient)
    assert by_itself.metrics["accuracy_everywhere"] == by_itself.metrics["accuracy"]


def test_a_model_learned_alone_is_measured_on_everybody_s_patients_too(both: tuple[Any, Cohort]) -> None:
    _, opened = both
    trial = alone(study(), "model", opened)
    assert 0 <= trial.metrics["accuracy_everywhere"] <= 1
    assert trial.metrics["accuracy_everywhere"] != trial.metrics["accuracy"]


def test_what_is_sent_is_four_bytes_a_parameter_and_round_and_the_statistics(both: tuple[Any, Cohort]) -> None:
    _, opened = both
    method = build(study(), "model")
    assert isinstance(method, Training)
    trial = federated(study(), "model", opened)
    updates = 4 * method.p * 4
    assert updates < trial.sent_bytes < updates + 100_000
