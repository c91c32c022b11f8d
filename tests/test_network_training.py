"""Training over the real network: what was trained in one process is trained by hospitals that are processes of their own, over
sockets, under their default policy; also when somebody is killed, late or abstains."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tests.support import held, training
from tests.support.ward import CENTRE, At, Drill, Ward
from unisono.cli.console import out as console
from unisono.cli.main import main
from unisono.cli.study_watch import WatchView
from unisono.errors import PolicyRefusal
from unisono.network.researcher import Client
from unisono.site.policy import Policy
from unisono.study.document import Study

THREE, FOURTH = training.SITES, "utrecht"
FOUR = (*THREE, FOURTH)
NETWORK = {"rounds": {"most": 4, "snapshot": 2}, "local": {"epochs": 1, "batch": "all", "rate": 0.3}}
TREES = {"objective": "logistic", "outcome": "malignant", "features": list(training.FEATURES), "depth": 2, "bins": 16}
ANALYSES: dict[str, dict[str, Any]] = {
    "scaffold": {**training.BASE, **NETWORK, "method": "scaffold"},
    "ditto": {**training.BASE, **NETWORK, "method": "ditto"},
    "hist": {**TREES, "method": "hist-boosting", "trees": 2},
    "bagged": {**TREES, "method": "bagged-boosting", "trees": 2},
    # A hundred steps on one site's doses, which vary, and on the others', which do not: there alone the weights overflow.
    "unstable": {
        **training.BASE,
        "outcome": "radius",
        "features": ["dose"],
        "model": {"kind": "linear"},
        "local": {"steps": 100, "batch": "all", "rate": 1.2},
        "rounds": {"most": 2},
    },
    # Other features than the first three hospitals answered without the fourth: a near-twin is refused.
    "late": {
        **training.BASE,
        **NETWORK,
        "method": "scaffold",
        "features": ["texture", "concavity"],
        "rounds": {"most": 10, "deadline": "10 s"},
    },
}


def study(name: str, *analyses: str, threat: str = "malicious") -> Study:
    """These of `ANALYSES`, under what a hospital's default policy asks for."""
    whole = training.study().model_dump(by_alias=True, exclude_unset=True)
    document: dict[str, Any] = {
        **whole,
        "id": name,
        "variables": {**whole["variables"], "dose": {"type": "number", "min": -100, "max": 100}},
        "analyses": {analysis: ANALYSES[analysis] for analysis in analyses},
        "release": {"min_sites": 3, "min_count": 10},
        "protection": {"hide": "secagg", "threat": threat},
    }
    return training.load(document, training.check)


@cache
def frames() -> dict[str, pd.DataFrame]:
    found = training.frames(FOUR, 60)
    for site, frame in found.items():
        frame["dose"] = np.random.default_rng(1).normal(0, 20.0 if site == FOURTH else 0.01, len(frame)).clip(-99, 99)
    return found


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """One network for all of this file."""
    with Ward(tmp_path_factory.mktemp("t"), watched=True, frames=frames(), training=True) as opened:
        yield opened
        held.logs(opened)
    assert opened.left() == []


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A command, which must do what it is told; what it said."""
    monkeypatch.setattr(console, "_width", 300)

    def run(*words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        heard = capsys.readouterr()
        assert stopped.value.code == 0, heard
        return heard.out

    return run


@cache
def embedded(analysis: str) -> dict[str, Any]:
    """Estimates of the same question over the first three, in one process."""

    def run(folder: Path) -> Any:
        data = {site: frames()[site] for site in THREE}
        return training.run(study("embedded", analysis), folder, data).outcomes[analysis]

    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:  # it has an event loop of its own
        found = beside.submit(run, Path(folder)).result()
    assert found.error is None
    return dict(json.loads(json.dumps(found.answer.result.estimates)))


def same_as_embedded(files: Mapping[str, bytes], analysis: str) -> None:
    """The same training, but for the random rounding of its updates (about 1e-9 a round)."""
    mine, there = embedded(analysis), estimates(files, analysis)
    assert mine["preprocessing"] == there["preprocessing"]
    assert [entry["validation"] for entry in there["rounds"]] == pytest.approx(
        [entry["validation"] for entry in mine["rounds"]], abs=1e-6
    )
    assert all(entry["counted"] == list(THREE) for entry in there["rounds"][1:])


def estimates(files: Mapping[str, bytes], analysis: str) -> dict[str, Any]:
    return dict(json.loads(files[f"{analysis}/result.json"])["estimates"])


def again(ward: Ward, site: str, *at: Any) -> None:
    """An agent is started anew."""
    ward.kill(site)
    ward.start(site, *at)


# -- consent ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("analysis", "threat", "rule", "words"),
    [
        ("scaffold", "semi-honest", "least-protection", "trains a model"),
        ("bagged", "malicious", "allowed-operations", "would show the coordinator this site's own part"),
    ],
)
def test_a_hospital_s_default_policy_refuses_what_would_show_its_part_when_it_is_to_be_approved(
    analysis: str, threat: str, rule: str, words: str, ward: Ward
) -> None:
    asked = study(f"refused-{analysis}", analysis, threat=threat)
    ward.submit(asked, THREE)
    with pytest.raises(PolicyRefusal, match=words) as refused:
        ward.approve("padua", asked)
    assert refused.value.rule == rule
    assert "threat: malicious" in refused.value.remedy or "`collect`" in refused.value.remedy
    ward.client.call("cancel", study=asked.digest())


# -- a whole study, in worker processes -----------------------------------------------------------------------------------


def test_networks_and_trees_are_trained_in_worker_processes_while_the_coordinator_is_killed_and_reach_everybody(
    ward: Ward, tmp_path: Path, say: Callable[..., str]
) -> None:
    for site in THREE:
        policy = Policy(operations=frozenset({"sum", "mean", "tell", "collect"}))
        (ward.folder(site).path / "policy.json").write_text(policy.model_dump_json(), "utf-8")
        ward.apart.add(site)
        again(ward, site)
    asked = study("cells", "scaffold", "ditto", "hist", "bagged")
    killed = Drill(CENTRE, [At("after journal pending", 4), At("after journal opened", 3)])
    ward.drill(killed)
    files = ward.answered(asked, THREE)
    assert not killed.left
    for analysis in ("scaffold", "ditto"):
        same_as_embedded(files, analysis)
    trees = "model.xgboost.json"
    assert estimates(files, "hist")["model"][trees] == embedded("hist")["model"][trees]
    assert estimates(files, "bagged")["model"][trees] == embedded("bagged")["model"][trees]

    out, home = tmp_path / "results", ward.path / "rossi"
    say("study", "result", "cells", "--out", out, "--home", home)
    for analysis, model in (("scaffold", "model.safetensors"), ("ditto", "model.safetensors"), ("hist", trees), ("bagged", trees)):  # fmt: skip
        for name in (model, "model.json"):
            assert (out / analysis / name).read_bytes() == files[f"{analysis}/{name}"]
        written = tmp_path / f"{analysis}.csv"
        say("predict", out / analysis, ward.path / "data" / f"{FOURTH}.csv", "--out", written)
        assert len(written.read_text("utf-8").splitlines()) == 1 + len(frames()[FOURTH])

    said = say("site", "results", "cells", "--home", ward.folder("padua").path).replace("\n", "")
    own = [Path(path) for path in re.findall(r"stays here: (\S+?\.(?:json|safetensors))", said)]
    assert {path.name for path in own} == {
        *(f"{name}.json" for name in asked.analyses),
        "model.json",
        "model.safetensors",
    }
    sheet = json.loads(next(path for path in own if path.name == "scaffold.json").read_text("utf-8"))
    assert {"joint", "alone", "difference"} <= set(sheet)
    personal = next(path for path in own if path.suffix == ".safetensors")
    assert personal.read_bytes() != files["ditto/model.safetensors"]
    say("predict", personal.parent, ward.path / "data" / "padua.csv", "--out", tmp_path / "own.csv")
    for site in THREE:
        ward.apart.discard(site)
        again(ward, site)


# -- hospitals that are killed, late or abstain -----------------------------------------------------------------------------


def test_a_hospital_killed_between_its_memory_and_its_answer_goes_on_as_if_nothing_had_been(ward: Ward) -> None:
    moments = [At("after remember vector", 4), At("before close step", 2)]
    killed = Drill("padua", moments)
    ward.drill(killed)
    files = ward.answered(study("killed", "scaffold"), THREE)
    assert killed.done == moments
    same_as_embedded(files, "scaffold")


def test_a_late_hospital_is_left_out_and_back_and_one_that_abstains_is_shown_with_its_reason(ward: Ward) -> None:
    ward.kill("turin")
    ward.start("turin", At("before remember vector", 4), signal.SIGSTOP)  # cohort, preprocessing, a round, a round
    asked = study("four", "late", "unstable")
    digest = asked.digest()
    ward.submit(asked)
    shown = StringIO()
    watching = threading.Thread(target=watch, args=(ward, digest, shown), daemon=True)
    watching.start()
    for site in FOUR:
        ward.approve(site, asked)

    def without() -> dict[str, str]:
        return dict((ward.client.call("status", study=digest)["progress"] or {}).get("without", {}))

    ward.until("a round without the hospital that is late", lambda: without().get("turin") == "late")
    os.kill(ward.pids["turin"], signal.SIGCONT)
    files = ward.finished(asked)
    watching.join(60)

    counted = [set(entry["counted"]) for entry in estimates(files, "late")["rounds"][1:]]
    assert "turin" in counted[0]
    assert "turin" not in counted[1]
    assert "turin" in counted[-1]
    assert all(len(sites) >= 3 for sites in counted)
    assert all(set(entry["counted"]) == set(THREE) for entry in estimates(files, "unstable")["rounds"][1:])

    run = json.loads(files["run.json"])["analyses"]
    assert "turin" in {site for step in run["late"]["steps"] for site in step["late"]}
    assert [step["abstained"] for step in run["unstable"]["steps"] if step["name"] == "fedavg.update"] == [[FOURTH]] * 2
    for words in (
        "turin was late: this sum goes on without it",
        "turin is back",
        f"{FOURTH} abstains (finite-contribution)",
        f"{FOURTH} is back",
    ):
        assert shown.getvalue().count(words) == 1
    for name in ("log.jsonl", "audit.jsonl"):
        lines = map(json.loads, (ward.folder(FOURTH).path / name).read_text("utf-8").splitlines())
        abstained = [line for line in lines if line["event"] == "abstained"]
        assert [line["rule"] for line in abstained] == ["finite-contribution"] * 2
        assert all("after" in line["what"] and "local steps" in line["what"] for line in abstained)


def watch(ward: Ward, digest: str, text: StringIO) -> None:
    """As `unisono study watch`, not on a terminal."""
    with Client(ward.person) as client, WatchView(Console(file=text, width=200)) as view:
        for seen in client.watch(digest):
            view.show(seen)
