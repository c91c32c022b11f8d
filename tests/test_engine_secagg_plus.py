"""Forty hospitals under SecAgg+ against a malicious coordinator; and how many round trips a sum costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.datasets import load_kidney_transplant

from tests.support import engine
from tests.support.engine import estimates, records, run
from unisono.engines.embedded.exchange import EmbeddedExchange
from unisono.engines.embedded.run import Fault, SiteData
from unisono.federation.exchange import Message
from unisono.methods.registry import check
from unisono.study.document import Study
from unisono.study.load import load

SITES = tuple(f"h{k:02d}" for k in range(40))
COVARIATES = ["age", "black", "male"]
STEP = 30.0


def patients() -> pd.DataFrame:
    """The kidney transplant data of Klein and Moeschberger (863 patients), on the study's grid."""
    raw = load_kidney_transplant()
    black = raw["black_male"] + raw["black_female"]
    male = raw["black_male"] + raw["white_male"]
    months = np.ceil(np.maximum(raw["time"], 1) / STEP) * STEP
    return pd.DataFrame({"time": months, "died": raw["death"], "age": raw["age"], "black": black, "male": male})


def hospitals(sites: tuple[str, ...] = SITES) -> dict[str, SiteData]:
    whole = patients()
    return {name: SiteData(whole.iloc[k :: len(sites)].reset_index(drop=True)) for k, name in enumerate(sites)}


def kidney(**protection: Any) -> Study:
    number = {"type": "number", "min": 0, "max": 1}
    document = {
        "unisono": 1,
        "id": "kidney",
        "question": "Who lives longer after a kidney transplant?",
        "variables": {
            "time": {"type": "number", "unit": "d", "min": 0, "max": 3450},
            "died": {"type": "boolean"},
            "age": {"type": "number", "unit": "a", "min": 0, "max": 100},
            "black": number,
            "male": number,
        },
        "analyses": {
            "effect": {
                "method": "cox",
                "time": "time",
                "event": "died",
                "covariates": COVARIATES,
                "ties": "efron",
                "baseline": "common",
                "grid": {"step": STEP, "unit": "d"},
                "ph_check": "none",
            }
        },
        "protection": protection,
    }
    return load(document, check)


def test_forty_sites_malicious_four_lost_after_masking_equal_the_full_pooled_fit(tmp_path: Path) -> None:
    asked = kidney(hide="secagg+", threat="malicious", colluding=1)
    lost = [
        Fault("h03", "agree", "drop", "before", occurrence=4, seconds=0.05),
        Fault("h11", "agree", "drop", "after", occurrence=4, seconds=0.05),
        Fault("h22", "unmask", "drop", "before", occurrence=4, seconds=0.05),
        Fault("h37", "unmask", "crash", "after", occurrence=4, seconds=0.05),
    ]
    finished = run(asked, tmp_path, data=hospitals(), faults=lost)
    found = estimates(finished)["effect"]
    pooled = CoxPHFitter().fit(patients(), "time", "died", fit_options={"precision": 1e-12})
    for row in found["coefficients"]:
        assert row["coef"] == pytest.approx(pooled.params_[row["name"]], rel=1e-7)
        assert row["se"] == pytest.approx(pooled.standard_errors_[row["name"]], rel=1e-7)
    recovered = {e.site for e in finished.events if e.kind == "recovered" and e.step == 3}
    assert recovered == {"h03", "h11", "h22", "h37"} & recovered
    assert {"h22", "h37"} <= recovered
    assert all(set(r.body["participants"]) == set(SITES) for r in records(tmp_path, "effect", "opened") if r.body)
    # One graph for the whole run, drawn from everyone's nonces and written down.
    (graph,) = records(tmp_path, "effect", "graph")
    assert graph.body is not None
    assert len(graph.body["commitments"]) == 40


def test_a_result_names_graph_threshold_and_threat(tmp_path: Path) -> None:
    from unisono.report.record import protection_of

    told = protection_of(kidney(hide="secagg+", threat="malicious", colluding=1), 40)
    assert (told.graph, told.threshold, told.must_stay, told.threat) == ("10-regular graph", 6, 32, "malicious")
    assert told.tolerated_drop_outs == 4
    assert "10-regular graph, t = 6" in told.sentence


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """(site, phase) of every message that a site was sent."""
    sent: list[tuple[str, str]] = []
    carry = EmbeddedExchange.request

    async def request(self: EmbeddedExchange, site: str, message: Message) -> object:
        sent.append((site, message.phase))
        return await carry(self, site, message)

    monkeypatch.setattr(EmbeddedExchange, "request", request)
    yield sent


@pytest.mark.parametrize(
    ("protection", "set_up", "each"),
    [
        ({"hide": "secagg"}, ["advertise", "share"], ["mask", "unmask"]),
        ({"hide": "secagg", "threat": "malicious"}, ["advertise", "share"], ["mask", "agree", "unmask"]),
        ({"hide": "none"}, [], ["plain"]),
    ],
)
def test_in_steady_state_a_sum_takes_two_round_trips_and_three_if_survivors_are_signed(
    protection: dict[str, str], set_up: list[str], each: list[str], trips: list[tuple[str, str]], tmp_path: Path
) -> None:
    asked = engine.study("odds", protection=protection)
    run(asked, tmp_path)
    sums = len(records(tmp_path, "odds", "opened"))
    assert sums == 7
    for site in engine.SITES:
        assert [phase for at, phase in trips if at == site] == [*set_up, *each * sums, "close"]


def test_a_random_graph_costs_one_round_trip_more_once(trips: list[tuple[str, str]], tmp_path: Path) -> None:
    run(kidney(hide="secagg+"), tmp_path, data=hospitals())
    sums = len(records(tmp_path, "effect", "opened"))
    counted = Counter(phase for at, phase in trips if at == "h00")
    assert counted == {"commit": 1, "advertise": 1, "share": 1, "mask": sums, "unmask": sums, "tell": 1, "close": 1}


@pytest.mark.parametrize(("phase", "when"), [("mask", "before"), ("unmask", "before"), ("unmask", "after")])
def test_a_lost_link_and_its_return_cost_no_one_else_new_keys(
    phase: Any, when: Any, trips: list[tuple[str, str]], tmp_path: Path
) -> None:
    run(engine.study("odds"), tmp_path, faults=[Fault("turin", phase, "drop", when, occurrence=3, seconds=0.01)])
    for site in set(engine.SITES) - {"turin"}:
        assert [phase for at, phase in trips if at == site].count("advertise") == 1


def test_a_restarted_site_costs_one_new_slot(trips: list[tuple[str, str]], tmp_path: Path) -> None:
    undisturbed = estimates(run(engine.study("odds"), tmp_path / "undisturbed"))
    del trips[:]
    crash = [Fault("turin", "unmask", "crash", "after", occurrence=3, seconds=0.0)]
    assert estimates(run(engine.study("odds"), tmp_path / "crash", faults=crash)) == undisturbed
    for site in engine.SITES:
        assert [phase for at, phase in trips if at == site].count("advertise") == 2
    assert len(records(tmp_path / "crash", "odds", "waited")) <= 1
