"""What a site remembers between steps, abstaining, stragglers, and parts that the coordinator may see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import engine, lung
from tests.support.engine import hospitals, records, run
from tests.support.methods import OfOne, Training, installed
from unisono.engines.embedded.run import Fault, Settings, run_study
from unisono.errors import Abstention, ParticipationError, PolicyRefusal, ProtocolError
from unisono.federation.contribution import (
    Declaration,
    Facts,
    Kept,
    Memory,
    contribution,
    contribution_with_memory,
    receipt_with_memory,
    within,
)
from unisono.federation.journal import Journal
from unisono.methods.base import PlannedAsk, Result
from unisono.methods.registry import check
from unisono.network.agent.sheet import protection
from unisono.protection.leaves import blob, moment, update
from unisono.report.disclosure_sheet import actual, planned
from unisono.site.policy import Policy, simulation_policy
from unisono.study.document import Study
from unisono.study.load import load

ROUNDS = 6
LARGE = 100_000
"""Elements of a memory that lies in a file beside the site's state."""
Vector = NDArray[np.float64]


class Counting(Training):
    """Each site remembers how many of its parts counted, in a memory of `size` numbers, and says it beside its update."""

    name = "test-counting"
    size = 4
    patience: float | None = None
    excuse = ""
    """ "nan" or "abstain": what the hospital with the most patients does in the second round."""

    @contribution_with_memory
    def step(self, data: Vector, memory: Memory, index: int) -> tuple[dict[str, Vector], Memory]:
        """This site's update, and how many of its parts counted before."""
        known = memory.get("counted", np.zeros(Counting.size))
        assert (known == known[0]).all()
        delta = np.full(3, 0.25)
        if index == 1 and len(data) == len(engine.frame("turin")):
            if Counting.excuse == "nan":
                delta[1] = np.nan
            if Counting.excuse == "abstain":
                raise Abstention(
                    "The memory of the graphics card did not suffice.", rule="memory", remedy="Smaller batches."
                )
        return {"delta": delta, "before": known[:1]}, {"counted": known + 1}

    @step.declares
    def _(self, _facts: Facts, index: int) -> Declaration:
        return Declaration(
            {"delta": update((3,), 1.0, "update"), "before": moment((1,), 100.0, "how often this site's part counted")},
            {"index": within((), 100.0)},
        )

    @receipt_with_memory
    def keep(self, data: Vector, memory: Memory, rounds: int) -> Kept:
        """What the site remembers at the end, as a sheet and as a file."""
        counted = int(memory["counted"][0]) if memory else 0
        return Kept({"counted": counted, "of": rounds}, {"own.bin": np.full(5, counted, np.uint8)})

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.step, (0,), ROUNDS),)

    async def run(self, federation: Any) -> Result:
        federation.stragglers_after = Counting.patience
        seen, befores = [], []
        for index in range(ROUNDS):
            found = await federation.sum(self.step, index)
            seen.append(list(federation.counted))
            befores.append(float(found["before"][0]))
        await federation.tell(self.keep, ROUNDS)
        return self.result(self.study, self.analysis, {"seen": seen, "before": befores})


class Showing(OfOne):
    """Collects each hospital's own bytes, and then those of one."""

    name = "test-showing"

    @contribution
    def show(self, data: Vector, more: int) -> dict[str, NDArray[Any]]:
        """As many bytes as there are patients, and their number."""
        return {"bytes": np.full(len(data), 7 + more, np.uint8), "n": np.asarray(float(len(data)))}

    @show.declares
    def _(self, facts: Facts, more: int) -> Declaration:
        return Declaration(
            {"bytes": blob(1000, "this site's own bytes"), "n": moment((), 1e6, "patients")}, {"more": within((), 10.0)}
        )

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.show, (0,), 2, operation="collect"),)

    async def run(self, federation: Any) -> Result:
        everybody = await federation.collect(self.show, 0)
        one = await federation.collect_from(federation.sites[1], self.show, 1)
        found = {
            "sizes": [part["bytes"].size for part in everybody],
            "first": [int(part["bytes"][0]) for part in everybody],
            "one": [one["bytes"].size, int(one["bytes"][0])],
        }
        return self.result(self.study, self.analysis, found)


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Counting, "size", 4)
    with installed(Counting, Showing):
        yield


def asked(method: str, hide: str = "secagg", threat: str = "semi-honest") -> Study:
    analyses = {"a": {"method": method, "variable": "age"}}
    return load({**lung.DOCUMENT, "analyses": analyses, "protection": {"hide": hide, "threat": threat}}, check)


def found(finished: Any) -> dict[str, Any]:
    return engine.estimates(finished)["a"]


def sheets(out: Path) -> dict[str, int]:
    """How many of its parts counted, as each site remembers it."""
    return {
        p.parents[2].name: json.loads(p.read_text("utf-8"))["counted"] for p in (out / "sites").glob("*/kept/*/a.json")
    }


def agree(out: Path, answer: Mapping[str, Any]) -> None:
    """Each site remembers exactly the parts that were in an opened sum, no more and no fewer, and said so in every round."""
    counted = dict.fromkeys(engine.SITES, 0)
    for sites, before in zip(answer["seen"], answer["before"], strict=True):
        assert before == sum(counted[site] for site in sites)
        for site in sites:
            counted[site] += 1
    assert sheets(out) == counted


# -- memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hide", "threat"), [("none", "semi-honest"), ("secagg", "semi-honest"), ("secagg", "malicious")]
)
@pytest.mark.parametrize("size", [4, LARGE])
def test_a_site_remembers_exactly_the_parts_that_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hide: str, threat: str, size: int
) -> None:
    monkeypatch.setattr(Counting, "size", size)
    answer = found(run(asked("test-counting", hide, threat), tmp_path))
    assert answer["seen"] == [sorted(engine.SITES)] * ROUNDS
    agree(tmp_path, answer)
    for site in engine.SITES:
        assert next((tmp_path / "sites" / site).glob("kept/*/a/own.bin")).read_bytes() == bytes([ROUNDS] * 5)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("turin", "mask", "drop", "before", 2, 0.0),
        Fault("turin", "mask", "drop", "after", 2, 0.0),
        Fault("turin", "mask", "crash", "after", 3, 0.0),
        Fault("turin", "unmask", "drop", "before", 2, 0.0),
        Fault("turin", "unmask", "crash", "before", 2, 0.0),
        Fault("turin", "unmask", "crash", "after", 3, 0.0),
    ],
    ids=lambda f: f"{f.what} {f.when} {f.phase}",
)
@pytest.mark.parametrize("size", [4, LARGE])
def test_a_lost_or_restarted_site_s_memory_follows_what_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, size: int
) -> None:
    monkeypatch.setattr(Counting, "size", size)
    answer = found(run(asked("test-counting"), tmp_path, faults=[fault]))
    agree(tmp_path, answer)
    left_out = sum("turin" not in sites for sites in answer["seen"])
    assert (left_out > 0) == ((fault.phase == "mask" and fault.what == "drop") or fault.what == "crash")


def test_a_run_that_was_stopped_goes_on_with_the_same_memories(tmp_path: Path) -> None:
    stop = Fault("turin", "mask", "drop", occurrence=3, seconds=None)
    others = [Fault(site, "mask", "drop", occurrence=3, seconds=None) for site in ("leiden", "padua")]
    waiting = asked("test-counting")
    short = waiting.model_copy(update={"participation": waiting.participation.model_copy(update={"deadline": "1 s"})})
    first = run(short, tmp_path, faults=[stop, *others])
    assert isinstance(first.outcomes["a"].error, ParticipationError)
    answer = found(run(short, tmp_path))
    assert len(answer["seen"]) == ROUNDS
    agree(tmp_path, answer)


@pytest.mark.parametrize("name", ["policy", "permits", "tls", "state"])
def test_what_a_study_leaves_meets_no_file_of_the_hospital_s_own_whatever_its_analyses_are_called(
    tmp_path: Path, name: str
) -> None:
    analyses = {name: {"method": "test-counting", "variable": "age"}}
    homes = [tmp_path / "sites" / site for site in engine.SITES]
    for home in homes:
        home.mkdir(parents=True)
        (home / "policy.json").write_text("the hospital's own")
    finished = run(load({**lung.DOCUMENT, "analyses": analyses}, check), tmp_path)
    assert engine.estimates(finished)[name]["seen"]
    for home in homes:
        assert (home / "policy.json").read_text() == "the hospital's own"
        written = {
            path.relative_to(home).parts[0] for path in home.rglob("*") if path.name in (f"{name}.json", "own.bin")
        }
        assert written <= {"kept", "policy.json"}


# -- stragglers and abstentions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hide", ["none", "secagg"])
def test_a_straggler_is_left_out_of_the_round_and_welcome_in_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hide: str
) -> None:
    monkeypatch.setattr(Counting, "patience", 2.0)
    phase = "plain" if hide == "none" else "mask"
    late = Fault("turin", phase, "delay", occurrence=2, seconds=60.0)
    finished = run(asked("test-counting", hide), tmp_path, faults=[late])
    answer = found(finished)
    assert "turin" not in answer["seen"][0]
    assert "turin" in answer["seen"][-1]
    assert "turin" in {e.site for e in finished.events if e.kind == "late"}
    agree(tmp_path, answer)


def test_a_round_without_enough_hospitals_is_tried_again_as_soon_as_enough_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leiden was late, and has no keys for the next round, in which turin is lost and stays away: the three others are enough."""
    monkeypatch.setattr(Counting, "patience", 0.5)
    late = Fault("leiden", "mask", "delay", occurrence=2, seconds=60.0)
    gone = Fault("turin", "mask", "drop", occurrence=3, seconds=None)
    finished = run(asked("test-counting"), tmp_path, faults=[late, gone])
    seen = found(finished)["seen"]
    everybody = set(engine.SITES)
    assert [set(sites) for sites in seen[:2]] == [everybody - {"leiden"}, everybody - {"turin"}]
    assert all("turin" not in sites for sites in seen[2:])
    assert {e.site for e in finished.events if e.kind == "waiting"} <= {"turin"}


@pytest.mark.parametrize(("excuse", "rule"), [("nan", "finite-contribution"), ("abstain", "memory")])
@pytest.mark.parametrize("hide", ["none", "secagg"])
def test_a_site_without_a_part_abstains_from_the_round_says_why_and_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excuse: str, rule: str, hide: str
) -> None:
    monkeypatch.setattr(Counting, "excuse", excuse)
    finished = run(asked("test-counting", hide), tmp_path)
    answer = found(finished)
    assert ["turin" in sites for sites in answer["seen"]] == [True, False, True, True, True, True]
    agree(tmp_path, answer)
    assert [(e.site, e.name) for e in finished.events if e.kind == "abstained"] == [("turin", rule)]
    log = [json.loads(line) for line in (tmp_path / "sites" / "turin" / "audit.jsonl").read_text("utf-8").splitlines()]
    assert [entry["rule"] for entry in log if entry["event"] == "abstained"] == [rule]


def test_where_too_few_sites_are_left_the_round_stops_at_once_and_says_who_abstained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "excuse", "nan")
    three = hospitals(("turin", "leiden", "padua"))
    error = run(asked("test-counting"), tmp_path, data=three).outcomes["a"].error
    assert isinstance(error, ParticipationError)
    assert error.rule == "enough-sites"
    assert "turin abstained" in error.what


# -- what the coordinator may see -----------------------------------------------------------------------------------------


def test_a_collected_part_is_seen_by_the_coordinator_where_policy_and_permit_allow_it(tmp_path: Path) -> None:
    first = found(run(asked("test-showing"), tmp_path))
    order = sorted(engine.SITES)
    sizes = [len(engine.frame(site)) for site in order]
    assert first == {"sizes": sizes, "first": [7] * len(order), "one": [sizes[1], 8]}
    assert len(records(tmp_path, "a", "collected")) == 2
    assert found(run(asked("test-showing"), tmp_path)) == first  # from the journal


def test_officers_and_stewards_read_that_a_part_is_shown(tmp_path: Path) -> None:
    study = asked("test-showing")
    run(study, tmp_path)
    journal = Journal(tmp_path / "a" / "journal.db", read_only=True)
    try:
        left = [row for row in actual(journal, study, "a") if row.contribution == "test-showing.show"]
    finally:
        journal.close()
    may_leave = [row for row in planned(study) if row.contribution == "test-showing.show"]
    for rows in (left, may_leave):
        assert {(row.leaf, row.times, row.bytes) for row in rows} == {("bytes", 2, 1000), ("n", 2, 8)}
        assert all("the coordinator sees" in row.protection for row in rows)
    assert any(line.startswith("Not masked: a, show.") for line in protection(study, 4))
    assert any("leave out a hospital that is late" in line for line in protection(asked("test-counting"), 4))


def test_a_hospital_s_own_policy_refuses_to_show_its_part(tmp_path: Path) -> None:
    strict = simulation_policy().model_copy(update={"operations": Policy().operations})
    with pytest.raises(PolicyRefusal) as refused:
        run_study(asked("test-showing"), hospitals(), tmp_path, Settings(policy=strict))
    assert refused.value.rule == "allowed-operations"


def test_a_hospital_s_own_policy_wants_protection_from_a_lying_coordinator_where_a_model_is_trained(
    tmp_path: Path,
) -> None:
    strict = simulation_policy().model_copy(update={"updates_threat": Policy().updates_threat})
    with pytest.raises(PolicyRefusal) as refused:
        run_study(asked("test-counting"), hospitals(), tmp_path / "weak", Settings(policy=strict))
    assert refused.value.rule == "least-protection"
    found(
        run_study(asked("test-counting", threat="malicious"), hospitals(), tmp_path / "strong", Settings(policy=strict))
    )


def test_a_collected_part_that_is_not_as_declared_is_refused_by_the_coordinator() -> None:
    from unisono.federation.ask import collected
    from unisono.federation.tree import pack

    leaves = {"bytes": blob(4, "bytes"), "n": moment((2,), 1.0, "numbers")}
    good = {"bytes": np.zeros(3, np.uint8), "n": np.array([1.0, -1.0])}
    assert set(collected(np.frombuffer(pack(good), np.uint8), leaves, "turin")) == {"bytes", "n"}
    for bad in (
        {**good, "bytes": np.zeros(5, np.uint8)},
        {**good, "bytes": np.zeros(3, np.int64)},
        {**good, "n": np.array([1.0, 1.5])},
        {**good, "n": np.array([1.0, np.nan])},
        {**good, "n": np.zeros(3)},
        {**good, "more": np.zeros(1)},
        {"n": good["n"]},
        [good],
    ):
        with pytest.raises(ProtocolError):
            collected(np.frombuffer(pack(bad), np.uint8), leaves, "turin")
