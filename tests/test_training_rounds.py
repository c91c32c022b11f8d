"""The rounds of a training: resumed, late, abstaining, stopped early, exploding; in seconds; with what sites keep."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from tests.support import training
from tests.support.engine import records
from tests.support.training import frames, light, result, run, study, weights
from unisono.engines.embedded.run import Fault
from unisono.errors import Abstention, MethodError, ParticipationError, StorageError
from unisono.federation.contribution import Facts
from unisono.methods.training import local
from unisono.methods.training.progress import LIMIT
from unisono.methods.training.result import TrainingResult
from unisono.methods.training.training import Training
from unisono.methods.training.workplace import Workplace
from unisono.site.prediction import open_model

SECAGG = {"hide": "secagg", "threat": "malicious"}
Vector = NDArray[np.float32]


# -- the same again -------------------------------------------------------------------------------------------------------


def test_two_runs_differ_by_the_rounding_of_updates_alone_and_a_third_in_the_same_folder_is_the_first(
    tmp_path: Path,
) -> None:
    """The rounding of updates is random on purpose; with its seed, everything else is the study's."""
    asked = study({"rounds": {"most": 3}, "model": {"kind": "mlp", "hidden": [4], "dropout": 0.3}})
    assert light(asked).run().estimates == light(asked).run().estimates
    first = result(run(asked, tmp_path / "first"))
    again = result(run(asked, tmp_path / "first"))
    second = result(run(asked, tmp_path / "second"))
    assert again.estimates == first.estimates and again.files() == first.files()
    for name, tensor in weights(first).items():
        assert weights(second)[name] == pytest.approx(tensor, abs=1e-6)
    assert len(records(tmp_path / "first", "model", "told")) == 1


@pytest.mark.parametrize("name", ["scaffold", "fedrep"])
def test_a_run_that_broke_off_goes_on_from_its_last_round(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under masks. What was opened is not asked for again, and what sites remember is what they remembered."""
    asked = study({"method": name, "rounds": {"most": 5, "snapshot": 2}}, protection=SECAGG)
    step, before = Training._round, []

    async def breaks(self: Any, federation: Any, progress: Any) -> Any:
        before.append(progress)
        if progress.round == 3:
            raise KeyboardInterrupt
        return await step(self, federation, progress)

    monkeypatch.setattr(Training, "_round", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(asked, tmp_path)
    monkeypatch.setattr(Training, "_round", step)
    opened = {r.step for r in records(tmp_path, "model", "opened")}
    found = result(run(asked, tmp_path))
    rounds = found.estimates["rounds"]
    assert [entry["round"] for entry in rounds] == [0, 1, 2, 3, 4, 5]
    assert [entry["validation"] for entry in rounds[:3]] == pytest.approx(
        [entry["validation"] for entry in before[-1].history[:3]], rel=5e-3
    )
    steps = [r.step for r in records(tmp_path, "model", "opened")]
    assert len(steps) == len(set(steps)) and max(opened) in steps
    undisturbed = light(
        asked
    ).run()  # one that broke off differs from it by the random rounding of updates, and no more
    assert found.estimates["evaluation"]["loss"] == pytest.approx(undisturbed.estimates["evaluation"]["loss"], abs=1e-6)
    assert result(run(asked, tmp_path)).estimates == found.estimates


# -- sites that sit a round out ---------------------------------------------------------------------------------------------


def sitting_out(monkeypatch: pytest.MonkeyPatch, patients: Sequence[int], round_: int, reason: str) -> None:
    """Sites of so many patients have no part in a round, for a reason: their update is NaN, or memory does not suffice."""
    trained = Workplace.trained

    def full(parameters: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def sometimes(self: Workplace, start: Vector, round: int, **rest: Any) -> Any:
        if round != round_ or self.train.n + self.valid.n not in patients:
            return trained(self, start, round, **rest)
        if reason == "nan":
            return trained(self, np.full(len(start), np.nan, np.float32), round, **rest)
        return trained(self, start, round, **{**rest, "pull": full})

    monkeypatch.setattr(Workplace, "trained", sometimes)


def four(small: int = 40) -> dict[str, pd.DataFrame]:
    """Four sites, of which one (utrecht) has fewer patients."""
    given = frames(("leiden", "padua", "turin", "utrecht"))
    return {**given, "utrecht": given["utrecht"].iloc[:small]}


@pytest.mark.parametrize("reason", ["nan", "memory"])
def test_a_site_whose_update_cannot_be_used_sits_that_round_out_and_is_told_why(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sitting_out(monkeypatch, [40], 2, reason)
    asked = study({"method": "scaffold", "rounds": {"most": 4}}, protection=SECAGG)
    found = result(run(asked, tmp_path, four()))
    counted = [entry["counted"] for entry in found.estimates["rounds"][1:]]
    assert "utrecht" in counted[0] and "utrecht" not in counted[1] and "utrecht" in counted[3]
    assert all(len(set(sites) - {"utrecht"}) == 3 for sites in counted)
    assert any("utrecht (" in note for note in found.notes)
    log = (tmp_path / "sites" / "utrecht" / "audit.jsonl").read_text("utf-8")
    rule = {"nan": "finite-contribution", "memory": "memory"}[reason]
    assert any(json.loads(line)["event"] == "abstained" and rule in line for line in log.splitlines())


def test_a_slow_site_is_left_out_of_the_round_and_welcome_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Workplace.trained

    def slow(self: Workplace, start: Vector, round: int, **rest: Any) -> Any:
        if round == 2 and self.train.n + self.valid.n == 40:
            time.sleep(2.5)
        return trained(self, start, round, **rest)

    asked = study({"method": "scaffold", "rounds": {"most": 7, "deadline": "1 s"}})
    result(run(asked, tmp_path / "warm", four()))  # PyTorch is loaded, whatever else the machine does
    monkeypatch.setattr(Workplace, "trained", slow)
    monkeypatch.setattr("unisono.methods.training.benefit.alone", lambda place, rounds: (place.network.first, 0))
    found = result(run(asked, tmp_path / "run", four()))
    counted = [entry["counted"] for entry in found.estimates["rounds"][1:]]
    assert "utrecht" in counted[0] and "utrecht" not in counted[1] and "utrecht" in counted[6]
    assert all(len(set(sites) - {"utrecht"}) == 3 for sites in counted)


def test_a_hospital_that_is_late_in_the_last_round_is_in_the_evaluation(tmp_path: Path) -> None:
    """Its keys did not come with the last round; the evaluation is over everybody, and asks for them."""
    secagg = {"hide": "secagg", "threat": "malicious"}
    asked = study({"rounds": {"most": 2, "deadline": "1 s"}}, protection=secagg)
    late = Fault(
        "utrecht", "mask", "delay", occurrence=4, seconds=60.0
    )  # cohort, preprocessing, a round, the last round
    found = result(run(asked, tmp_path, four(), faults=[late]))
    assert "utrecht" not in found.estimates["rounds"][2]["counted"]
    assert found.estimates["evaluation"]


def test_when_too_many_sit_out_the_best_model_is_kept_and_the_same_command_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sitting_out(monkeypatch, [60], 4, "nan")
    asked = study({"rounds": {"most": 6}})
    found = result(run(asked, tmp_path))
    assert found.estimates["stopped"] == "abstained" and not found.converged
    assert found.estimates["best_round"] == 2 and set(found.files()) == {"model.json", "model.safetensors"}
    assert "Too few sites had a part in round 4" in found.notes[0]
    monkeypatch.undo()
    again = result(run(asked, tmp_path))
    assert again.estimates == found.estimates and again.notes[:1] == found.notes[:1]


def test_without_any_good_model_the_error_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sitting_out(monkeypatch, [60], 1, "nan")
    with pytest.raises(ParticipationError, match="abstained"):
        result(run(study(), tmp_path))


# -- ends -----------------------------------------------------------------------------------------------------------------


class Scripted:
    """A federation in which the model that is broadcast in round k has the validation loss ``losses[k - 1]``. whole: whether its
    hospitals' evaluations have all their cells."""

    sites = counted = ("leiden", "padua", "turin")
    facts = Facts(100)
    patience, deadline = 0.0, 1.0
    stragglers_after: float | None = None
    whole = True
    trained = 80.0

    def __init__(self, losses: Sequence[float], training_losses: Sequence[float] = (), change: float = 0.01) -> None:
        self.losses, self.training_losses, self.change = list(losses), list(training_losses), change
        self.snapshots: list[Any] = []
        self.told: list[tuple[Any, ...]] = []
        self.evaluated: list[int] = []

    def restored(self) -> Any:
        return self.snapshots[-1] if self.snapshots else None

    def snapshot(self, state: Any) -> None:
        self.snapshots.append(state)

    async def mean(self, contribution: Any, model: Vector, round: int, *_rest: Any) -> dict[str, Any]:
        if round > len(self.losses):
            raise AssertionError("a round too many")
        loss = self.training_losses[round - 1] if self.training_losses else 1.0
        told = {"loss": loss, "steps": 3.0, "clipped": 0.0, "validation_correct": 0.1, "validation_patients": 0.2}
        return {**told, "update": np.full(len(model), self.change), "validation_loss": 0.2 * self.losses[round - 1]}

    async def sum(self, contribution: Any, *arguments: Any) -> dict[str, Any]:
        leaves = contribution.declaration(self.facts, *arguments).leaves
        total = {name: np.zeros(leaf.shape) for name, leaf in leaves.items()}
        if contribution.name == "preprocessing":
            return {**total, "patients": np.asarray(self.trained), "classes": np.array([self.trained - 30.0, 30.0])}
        self.evaluated.append(arguments[1])
        loss = self.losses[arguments[1]] if arguments[1] < len(self.losses) else 99.0
        total["evaluation_with_outcome"][500] = total["evaluation_without_outcome"][100] = 10.0 if self.whole else 5.0
        return {**total, "patients": np.asarray(20.0), "loss": np.asarray(20 * loss)}

    async def tell(self, receipt: Any, *arguments: Any) -> None:
        self.told.append(arguments)


def scripted(federation: Scripted, **analysis: Any) -> TrainingResult:
    method = light(study({"rounds": {"most": len(federation.losses)}, **analysis})).method
    found = asyncio.run(method.run(federation))  # type: ignore[arg-type]
    assert isinstance(found, TrainingResult)
    return found


def test_training_stops_when_validation_does_not_improve_and_the_best_rounds_model_is_the_answer() -> None:
    federation = Scripted([1.0, 0.8, 0.7, 0.75, 0.71, 0.5])
    found = scripted(federation, validate={"patience": 2})
    first = light(study()).method.network.first
    assert found.estimates["stopped"] == "early" and found.converged
    assert found.estimates["best_round"] == 2
    assert federation.evaluated == [2]
    assert federation.told[0][0] == pytest.approx(first + 0.02, abs=1e-6)


def test_without_patience_all_rounds_are_trained_and_the_best_is_the_answer() -> None:
    federation = Scripted([1.0, 0.4, 0.7, 0.75])
    found = scripted(federation)
    assert found.estimates["stopped"] == "rounds" and found.estimates["best_round"] == 1
    assert federation.evaluated == [4, 1]  # the last model had not been validated before


@pytest.mark.parametrize(
    ("losses", "training_losses", "change", "why"),
    [
        ([0.7, 0.6, 0.5, 7.5], (), 0.01, "validation loss is more than 10 times"),
        ([0.7, 0.6, 0.5, 0.5], (0.7, 0.7, 0.7, 7.1), 0.01, "training loss is more than 10 times"),
        ([0.7, 0.6, 0.5, 0.4], (), LIMIT / 3.5, "is not finite, or beyond"),
    ],
)
def test_a_training_that_explodes_stops_and_keeps_its_best_model(
    losses: list[float], training_losses: tuple[float, ...], change: float, why: str
) -> None:
    found = scripted(Scripted(losses, training_losses, change))
    assert found.estimates["stopped"] == "diverged" and not found.converged
    assert "diverged in round 4" in found.notes[0] and why in found.notes[0]
    assert found.estimates["best_round"] >= 2 and "model.safetensors" in found.files()


def test_a_training_that_explodes_at_once_is_an_error_that_names_the_round() -> None:
    with pytest.raises(MethodError, match="diverged in round 2") as caught:
        scripted(Scripted([0.7, 9.0, 9.0]))
    assert caught.value.rule == "diverged"


def test_an_absurd_rate_does_not_get_far() -> None:
    asked = study({"local": {"epochs": 5, "rate": 100.0}, "update_bound": 1e5, "rounds": {"most": 5}})
    with pytest.raises((MethodError, ParticipationError)):
        light(asked).run()


def test_a_round_waits_for_a_site_as_long_as_the_study_says() -> None:
    for deadline, seconds in (("5 min", 300.0), (None, None)):
        federation = Scripted([1.0, 0.8])
        scripted(federation, rounds={"most": 2, "deadline": deadline})
        assert federation.stragglers_after == seconds
        assert federation.patience == federation.deadline  # at the end sites train alone, for their benefit sheets


def test_snapshots_are_written_every_few_rounds_and_gone_on_from() -> None:
    federation = Scripted([1.0, 0.8, 0.7, 0.6, 0.5])
    found = scripted(federation, rounds={"most": 5, "snapshot": 2})
    assert [state["round"] for state in federation.snapshots] == [2, 4]
    assert scripted(federation, rounds={"most": 5, "snapshot": 2}).estimates == found.estimates


# -- what is told of few patients ---------------------------------------------------------------------------------------------


def test_fewer_validation_patients_than_min_count_are_refused_and_none_at_all_is_a_choice() -> None:
    """Each round tells of them: what it says of four patients is what a table would not say."""
    four_of_240 = study({"validate": {"fraction": 0.01}})
    with pytest.raises(MethodError) as caught:
        light(four_of_240, training.tables(four_of_240, frames(("leiden", "padua", "turin", "utrecht")))).run()
    assert caught.value.rule == "validation-patients" and "or 0" in str(caught.value.remedy)
    for trained, refused in ((96.0, True), (95.0, False)):
        federation = Scripted([1.0, 0.8])
        federation.trained = trained
        if refused:
            with pytest.raises(MethodError, match="Fewer than 5 patients"):
                scripted(federation)
        else:
            federation.whole = False
            assert scripted(federation).estimates["rounds"][0]["validation"] == 1.0
    unvalidated = light(study({"validate": {"fraction": 0}})).run()
    assert "not validated" in unvalidated.headline() and unvalidated.estimates["evaluation"] is None


def test_rounds_are_published_with_few_digits_and_decided_with_all_of_them() -> None:
    federation = Scripted([0.71234, 0.61249, 0.61246, 0.61247], [0.651239] * 4)
    found = scripted(federation)
    rounds = found.estimates["rounds"]
    assert [entry["validation"] for entry in rounds[:4]] == [0.712, 0.612, 0.612, 0.612]
    assert {entry["loss"] for entry in rounds[1:]} == {0.651}
    assert found.estimates["best_round"] == 2
    for entry in light(study({"local": {"epochs": 1, "batch": 7}})).run().estimates["rounds"]:
        assert entry["accuracy"] == round(entry["accuracy"], 2)
        assert all(f"{value:.3g}" == f"{value:.12g}" for key, value in entry.items() if key in ("loss", "validation"))


def test_an_evaluation_from_which_hospitals_left_out_cells_is_not_shown_and_the_result_says_why() -> None:
    federation = Scripted([1.0, 0.4, 0.7])
    federation.whole = False
    found = scripted(federation)
    assert found.estimates["evaluation"] is None and found.estimates["best_round"] == 1
    assert "left out their small cells" in found.notes[0] and "hide: secagg" in found.notes[0]
    assert not scripted(Scripted([1.0, 0.4, 0.7])).notes


# -- local work -------------------------------------------------------------------------------------------------------------


def test_a_slow_site_does_fewer_steps_in_the_same_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        """A clock that is up after so many looks."""

        def __init__(self, seconds: float) -> None:
            assert seconds == 2.0
            self.looked, self.most = 0, {48: 9, 24: 2}[Slow.now]  # by patients who are trained on

        now = 0

        def left(self) -> bool:
            self.looked += 1
            return self.looked < self.most

    batches = local._batches

    def counted(n: int, work: local.Work) -> Any:
        Slow.now = n
        return batches(n, work)

    monkeypatch.setattr(local, "Pace", Slow)
    monkeypatch.setattr(local, "_batches", counted)
    given = frames()
    given["turin"] = given["turin"].iloc[:30]
    asked = study({"local": {"seconds": 2, "batch": 8}, "rounds": {"most": 1}})
    found = light(asked, training.tables(asked, given))
    found.run()
    steps = {site: float(part["steps"]) for site, part in found.federation.parts["update"].items()}
    assert steps == {"leiden": 9.0, "padua": 9.0, "turin": 2.0}


def test_a_budget_in_steps_and_one_in_seconds_end() -> None:
    for budget, least, most in (({"steps": 7}, 7, 7), ({"seconds": 0.02}, 1, 10_000)):
        found = light(study({"local": {**budget, "batch": 16}, "rounds": {"most": 1}}))
        found.run()
        assert all(least <= float(part["steps"]) <= most for part in found.federation.parts["update"].values())


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"kind": "constant"}, [1.0, 1.0, 1.0]),
        ({"kind": "cosine", "least": 0.2}, [1.0, 0.6, 0.2]),
        ({"kind": "step", "every": 2, "factor": 0.1}, [1.0, 1.0, 0.1]),
    ],
)
def test_the_rate_follows_its_schedule_over_the_rounds(schedule: dict[str, Any], rates: list[float]) -> None:
    found = light(study({"local": {"epochs": 1, "rate": 2.0, "schedule": schedule}, "rounds": {"most": 3}}))
    place = found.method.workplace(found.data("padua"), np.array([0.0] * 4 + [1.0] * 4 + [0.5, 0.5]))
    assert [place.rate(k) for k in (1, 2, 3)] == pytest.approx([2.0 * rate for rate in rates])


def test_the_gradient_is_clipped_by_its_norm() -> None:
    analysis = {"local": {"steps": 1, "batch": "all", "rate": 1.0, "clip": 0.01}, "rounds": {"most": 1}}
    found = light(study(analysis))
    found.run()
    norms = [float(np.linalg.norm(part["update"])) for part in found.federation.parts["update"].values()]
    assert norms == pytest.approx([0.01] * 3, rel=1e-4)


def test_mixed_precision_changes_nothing_where_there_is_no_gpu() -> None:
    assert not torch.cuda.is_available()  # the machines that run the suite have none
    plain, mixed = (
        weights(light(study({"local": {"epochs": 1, "mixed_precision": on}})).run()) for on in (False, True)
    )
    assert all((mixed[name] == tensor).all() for name, tensor in plain.items())


def test_values_beyond_the_bound_are_clipped_and_told() -> None:
    found = light(study({"update_bound": 1e-3, "rounds": {"most": 2}})).run()
    assert found.estimates["rounds"][1]["clipped"] > 0.5
    assert any("were clipped" in note for note in found.notes)


def test_a_site_without_one_of_the_classes_trains_along_with_federated_class_weights() -> None:
    given = frames()
    given["turin"] = given["turin"][~given["turin"]["malignant"]].reset_index(drop=True)
    analysis = {"local": {"epochs": 2, "class_weights": "balanced"}, "rounds": {"most": 3}}
    asked = study(analysis)
    found = light(asked, training.tables(asked, given))
    losses = [entry["validation"] for entry in found.run().estimates["rounds"]]
    assert losses[-1] < losses[0]
    place = found.method.workplace(found.data("turin"), np.asarray(found.federation.asked["update"][2]))
    balance = place.prepared.class_weights("balanced")
    shares = np.asarray(found.federation.asked["update"][2])[-2:]
    assert balance == pytest.approx(0.5 / shares) and balance is not None and balance[1] > balance[0]


def test_one_patient_to_train_on_is_enough_also_for_a_norm_over_batches() -> None:
    given = training.tables(study())
    few = {**given, "turin": given["turin"].rows(np.arange(given["turin"].n) < 2)}
    analysis = {"model": {"kind": "mlp", "hidden": [4], "norm": "batch"}, "rounds": {"most": 1}}
    found = light(study(analysis), few)
    assert len(found.run().estimates["rounds"][1]["counted"]) == 3
    assert found.data("turin").train.sum() == 1
    single = {**analysis, "local": {"steps": 3, "batch": 1}}
    assert light(study(single), few).run().estimates["rounds"][1]["steps"] == 3.0


# -- what sites keep --------------------------------------------------------------------------------------------------------


def test_each_hospital_gets_a_benefit_sheet_in_its_own_folder(tmp_path: Path) -> None:
    given = {**frames(patients=150), "turin": frames(patients=150)["turin"].iloc[:40]}
    result(run(study({"rounds": {"most": 3}}), tmp_path, given))
    sheets = {s: json.loads(next((tmp_path / "sites" / s).glob("kept/*/model.json")).read_text("utf-8")) for s in given}
    for site, sheet in sheets.items():
        trained, validated = sheet["patients"]["trained"], sheet["patients"]["validated"]
        assert (trained + validated, validated) == (len(given[site]), round(len(given[site]) / 5))
        gain = sheet["joint"]["loss"] - sheet["alone"]["loss"]
        assert sheet["difference"]["loss"] == pytest.approx(gain)
        assert sheet["difference"]["low"] <= gain <= sheet["difference"]["high"]
        assert set(sheet["joint"]) | {"round"} == set(sheet["alone"]) and "auroc" in sheet["joint"]
        assert sheet["enough"] == (validated >= 30) and sheet["says"]
    assert "too few to say" in sheets["turin"]["says"]
    assert not list((tmp_path / "sites" / "turin").glob("kept/*/model"))  # the joint model is the coordinator's to give


def test_who_asks_for_predictions_of_what_hospitals_only_share_is_told_where_the_models_are(tmp_path: Path) -> None:
    """As ``unisono predict results/model`` opens it."""
    shared = light(study({"method": "fedrep", "rounds": {"most": 1}})).run().files()
    for name, content in shared.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match="Each hospital holds its own model") as caught:
        open_model(tmp_path)
    assert "sites/<name>/kept/<study>/<analysis>/" in str(caught.value.remedy)


def test_alone_is_the_same_budget_from_the_same_start() -> None:
    """With one site, a joint training is what the site learns alone."""
    one = {"padua": training.tables(study())["padua"]}
    found = light(study({"rounds": {"most": 3}}), one)
    found.run()
    (kept,) = found.federation.members["padua"].kept
    sheet: Any = kept.sheet
    assert sheet["alone"]["loss"] == pytest.approx(sheet["joint"]["loss"], abs=1e-6)
    assert sheet["alone"]["round"] == 3


# -- without PyTorch --------------------------------------------------------------------------------------------------------


def test_without_pytorch_methods_are_listed_statistics_run_and_a_training_study_says_what_to_install() -> None:
    script = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.split(".")[0] == "torch" else find(name, *rest)
from tests.support import engine
from unisono.methods.registry import build, methods
from unisono.errors import MissingExtra
assert {"cox", "fedavg", "fedrep"} <= set(methods())
asked = engine.study("effect")
assert build(asked, "effect").plan()
from unisono.study.load import load
from unisono.methods.registry import check
document = asked.model_dump(mode="json", exclude_none=True, exclude={"analyses"})
analysis = {"method": "fedavg", "outcome": "died", "features": ["age"], "model": {"kind": "linear"}}
try:
    load({**document, "analyses": {"risk": analysis}}, check)
except MissingExtra as error:
    print(error.remedy)
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=False)
    assert "pip install 'unisono[torch]'" in done.stdout, done.stderr


def test_an_abstention_says_that_the_loss_is_not_finite_and_nothing_that_depends_on_patients() -> None:
    found = light(study())
    place = found.method.workplace(found.data("padua"), np.array([0.0] * 4 + [1.0] * 4 + [0.5, 0.5]))
    said = set()
    for start, epochs in ((np.nan, 1), (1e30, 1), (1e30, 3)):
        with pytest.raises(Abstention) as caught:
            settings = local.Local(epochs=epochs, batch=8)
            place.trained(np.full(found.method.p, start, np.float32), 1, settings=settings)
        assert caught.value.rule == "finite-contribution"
        said.add(str(caught.value))
    assert len(said) == 1 and not any(letter.isdigit() for letter in caught.value.what)
