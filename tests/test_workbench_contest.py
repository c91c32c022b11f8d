"""`unisono compare`: the same budget for all, references beside them, a table that says what was found; finished runs are kept."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.test_workbench_light import frames, study
from unisono.cli.main import main
from unisono.engines.embedded.run import SiteData
from unisono.errors import JournalError, StudyError
from unisono.workbench.contest import Contest
from unisono.workbench.contest_page import columns, legend, remarks, row, write
from unisono.workbench.standings import Aim, Estimate, gains, rounds_to, standings
from unisono.workbench.trial import ALONE, POOLED, Point, Trial


def trial(method: str, seed: int, accuracy: float, sites: dict[str, float], curve: list[float]) -> Trial:
    points = tuple(Point(k, 1.0 - value, value) for k, value in enumerate(curve))
    metrics = {"accuracy": accuracy, "log_loss": 1 - accuracy}
    return Trial(method, seed, metrics, {name: {"accuracy": v} for name, v in sites.items()}, points, 2.0, 1000)


TRIALS = [
    trial(POOLED, 1, 0.90, {"a": 0.9, "b": 0.9}, [0.5, 0.9]),
    trial(ALONE, 1, 0.70, {"a": 0.8, "b": 0.6}, [0.5, 0.7]),
    trial("slow", 1, 0.86, {"a": 0.85, "b": 0.87}, [0.5, 0.6, 0.7, 0.86]),
    trial("fast", 1, 0.88, {"a": 0.78, "b": 0.98}, [0.5, 0.88, 0.88]),
    trial(POOLED, 2, 0.92, {"a": 0.9, "b": 0.94}, [0.5, 0.92]),
    trial(ALONE, 2, 0.72, {"a": 0.8, "b": 0.64}, [0.5, 0.7]),
    trial("slow", 2, 0.80, {"a": 0.8, "b": 0.8}, [0.5, 0.8]),
    trial("fast", 2, 0.90, {"a": 0.9, "b": 0.9}, [0.5, 0.7, 0.9]),
]


def test_the_references_come_first_and_then_the_best() -> None:
    assert [s.method for s in standings(TRIALS, Aim("accuracy"))] == [POOLED, ALONE, "fast", "slow"]


def test_rounds_to_the_target_are_counted_against_the_pooled_run_of_the_same_seed() -> None:
    aim = Aim("accuracy")
    found = {s.method: s for s in standings(TRIALS, aim)}
    assert (found["fast"].rounds, found["fast"].reached) == (1.5, 2)  # 0.855 after round 1, 0.874 after round 2
    assert (found["slow"].rounds, found["slow"].reached) == (3, 1)
    assert rounds_to(TRIALS[2], aim, None) is None


def test_a_site_s_gain_is_over_that_site_alone_with_the_same_seed() -> None:
    found = gains(TRIALS[3], TRIALS, Aim("accuracy"))
    assert found == {"a": pytest.approx(-0.02), "b": pytest.approx(0.38)}
    fast = next(s for s in standings(TRIALS, Aim("accuracy")) if s.method == "fast")
    assert fast.worst == ("a", pytest.approx(0.04))
    assert fast.gain is not None and fast.gain.mean == pytest.approx(0.18)


def test_an_interval_needs_two_seeds_and_is_student_s() -> None:
    assert Estimate.of([0.5]) == Estimate(0.5)
    assert Estimate.of([]) is None
    found = Estimate.of([0.8, 0.9, 1.0])
    assert found is not None
    assert (found.low, found.high) == (
        pytest.approx(0.9 - 4.30265 * 0.1 / 3**0.5, rel=1e-4),
        pytest.approx(1.1484, rel=1e-4),
    )


def test_where_there_are_no_classes_rounds_are_counted_by_the_loss() -> None:
    aim = Aim("concordance")
    curve = tuple(Point(k, loss, None) for k, loss in enumerate((1.0, 0.6, 0.52)))
    pooled = Trial(POOLED, 1, {"concordance": 0.7}, {}, curve)
    assert aim.target(pooled) == pytest.approx(0.52 / 0.95)
    assert rounds_to(pooled, aim, aim.target(pooled)) == 2


def test_the_table_is_written_as_csv_json_and_one_page(tmp_path: Path) -> None:
    failed = Trial("broken", 1, failed="It diverged (rule: diverged)")
    write([*TRIALS, failed], Aim("accuracy"), {"study": "x"}, tmp_path)
    lines = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert [line["method"] for line in lines] == [POOLED, ALONE, "fast", "slow", "broken"]
    assert float(lines[2]["accuracy_mean"]) == pytest.approx(0.89)
    assert lines[4]["accuracy_mean"] == ""
    assert json.loads((tmp_path / "comparison.json").read_text())["targets"] == {"1": 0.855, "2": pytest.approx(0.874)}
    page = (tmp_path / "comparison.html").read_text()
    assert "It diverged" in page and "data:image/png;base64," in page and "http" not in page
    assert len(row(standings(TRIALS, Aim("accuracy"))[0], Aim("accuracy"))) == len(columns(Aim("accuracy")))


def test_what_is_scaled_says_so_and_no_training_at_all_is_a_word() -> None:
    survival = [
        Trial(POOLED, 1, {"concordance": 0.712, "loss": 2.5}, {}, (Point(0, 1.0, None), Point(1, 0.9, None))),
        Trial(ALONE, 1, {"concordance": 0.69, "loss": 2.6, "concordance_everywhere": 0.61}),
        Trial("slow", 1, {"concordance": 0.70, "loss": 2.55}, {}, (Point(0, 0.9, None),)),
        Trial("slow", 2, {"concordance": 0.70, "loss": 2.55}, {}, ()),
    ]
    aim = Aim("concordance")
    assert columns(aim)[1:3] == ("concordance × 100", "loss")  # a partial likelihood is no log-loss
    found = standings(survival, aim)
    slow = dict(zip(columns(aim), row(found[-1], aim), strict=True))
    assert slow["concordance × 100"].startswith("70.0") and slow["loss"].startswith("2.550")
    assert slow["rounds"] == "0 (untrained, 1 of 2 seeds)"
    assert "worth 61.0 (concordance × 100) on everybody's" in remarks(found, aim)[0]
    assert columns(Aim("accuracy"))[1:3] == ("accuracy, %", "log-loss")
    assert "in points" in legend(aim) and "in points" not in legend(Aim("r2"))


@pytest.fixture
def contest(tmp_path: Path) -> Contest:
    data = {name: SiteData(frame) for name, frame in frames(n=60).items()}
    asked = study(rounds={"most": 2})
    return Contest(asked, "model", ("fedavg",), (1,), data, tmp_path / "out")


def test_two_tiny_runs_give_a_table_and_are_not_repeated(contest: Contest) -> None:
    told: list[tuple[str, str]] = []
    trials = contest.run(lambda method, _, opened: told.append((method, opened)))
    assert [t.method for t in trials] == [POOLED, ALONE, "fedavg"]
    assert all(len(t.curve) == 3 and not t.failed for t in trials)
    fedavg = trials[2]
    assert set(fedavg.by_site) == {"site-1", "site-2", "site-3"}
    assert fedavg.sent_bytes > 0
    assert set(gains(fedavg, trials, contest.aim)) == set(fedavg.by_site)
    assert ("fedavg", "fedavg.update") in told
    told.clear()
    assert contest.run(lambda method, _, opened: told.append((method, opened))) == trials
    assert not [opened for _, opened in told if opened]
    with pytest.raises(JournalError, match="another study"):
        replace(contest, study=study(rounds={"most": 3})).run()


def test_the_curve_of_the_engine_is_that_of_the_same_study_run_by_hand(contest: Contest) -> None:
    variant = contest.variant("fedavg", 1)
    assert variant.analyses["model"].parameters["seed"] == 1
    assert variant.analyses["model"].parameters["rounds"] == {"most": 2}
    assert variant.release.min_count == 1
    assert contest.study.analyses["model"].parameters["seed"] == 3


def test_a_method_that_cannot_run_is_refused_before_anything_runs(contest: Contest) -> None:
    told: list[str] = []
    with pytest.raises(StudyError, match=r"fedbn cannot be compared\. .*norm layers") as refused:
        replace(contest, methods=("fedavg", "fedbn")).run(lambda method, *_: told.append(method))
    assert refused.value.rule == "shared-part" and not told
    assert not contest.out.exists()
    assert list(replace(contest, methods=("fedavg", "fedbn")).unable()) == ["fedbn"]
    with pytest.raises(StudyError, match="No method to compare"):
        replace(contest, methods=())


def test_methods_that_are_compared_later_join_those_that_were_compared_before(contest: Contest) -> None:
    for method, seed, failed in (("ditto", 1, ""), ("ditto", 2, ""), ("fedrep", 1, "It diverged.")):
        Trial(method, seed, {"accuracy": 0.5}, failed=failed).save(contest.out / "trials")
    for method in (POOLED, ALONE, "fedavg"):
        Trial(method, 1, {"accuracy": 0.9}).save(contest.out / "trials")
    trials = contest.run()
    assert [(t.method, t.seed) for t in trials] == [(POOLED, 1), (ALONE, 1), ("fedavg", 1), ("ditto", 1)]
    assert contest.about(trials)["methods"] == ["fedavg", "ditto"]


def test_what_does_not_train_is_not_compared(contest: Contest) -> None:
    with pytest.raises(StudyError, match="no federated optimiser"):
        replace(contest, methods=("describe",))
    with pytest.raises(StudyError, match="no analysis 'other'"):
        replace(contest, analysis="other")


def test_the_command_prints_the_table_and_names_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, frame in frames(n=50).items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    sites = {name: {"data": f"{name}.csv"} for name in frames(n=50)}
    (tmp_path / "sites.yaml").write_text(yaml.safe_dump({"sites": sites}))
    asked = study(rounds={"most": 1}).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(asked))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:  # in this process: PyTorch is loaded here already
        main(["compare", "study.yaml", "--sites", "sites.yaml", "--methods", "fedavg", "--seeds", "1", "--out", "c"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "pooled" in said and "alone" in said and "fedavg" in said
    assert "on everybody's patients" in said
    assert (tmp_path / "c" / "comparison.html").exists()
    assert list((tmp_path / "c" / "runs" / "fedavg-seed1" / "sites" / "site-1").glob("kept/*/model.json"))
    with pytest.raises(SystemExit) as ended:
        main(["compare", "study.yaml", "--sites", "sites.yaml", "--methods", "", "--out", "d"])
    assert ended.value.code == 1
    assert "No method to compare was named" in capsys.readouterr().err
