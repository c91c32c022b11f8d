"""What the coordinator does when sites do not answer and researchers ask much: quorum, deadlines, limits, a fair queue, and what it
tells of all that."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine
from tests.support.bench import Bench, audit
from tests.support.network import Net, net, now, ok, rule
from unisono.cli.board import READINESS, readiness_cells
from unisono.cli.study_watch import say_late, say_left, span
from unisono.errors import StudyError
from unisono.federation.events import Event
from unisono.network.agent.about import about
from unisono.network.agent.folder import AgentFolder
from unisono.network.coordinator.deadlines import Deadlines
from unisono.network.coordinator.home import Limits
from unisono.network.coordinator.queue import Turn, first
from unisono.network.coordinator.quorum import standing
from unisono.network.coordinator.service import Coordinator
from unisono.network.coordinator.store import Decided, Decision
from unisono.network.coordinator.watching import Progress
from unisono.network.preflight.report import Check, Report
from unisono.network.signing import StudySignature
from unisono.study.document import Study

FOUR = ("leiden", "madrid", "padua", "turin")
START = datetime(2026, 1, 1, tzinfo=UTC)


def study(*analyses: str, **participation: Any) -> Study:
    return engine.study(*analyses, participation=participation)


def everybody_has_data(opened: Net) -> None:
    for client in opened.sites.values():
        client.data = lambda _: engine.frame("padua")


# -- whether a study may begin -------------------------------------------------------------------------------------------------

YES, NO, TOOK_BACK = "approved", "refused", "withdrawn"


@pytest.mark.parametrize(
    ("quorum", "said", "over", "expected"),
    [
        (None, {}, False, "wait"),
        (None, dict.fromkeys(FOUR, YES), False, "begin"),
        (None, {"turin": NO}, False, "refused"),
        (None, {"leiden": YES, "madrid": YES, "padua": YES}, True, "expired"),
        (3, {"turin": NO}, False, "wait"),
        (3, {"turin": NO, "padua": TOOK_BACK}, False, "refused"),
        (3, {"leiden": YES, "madrid": YES, "padua": YES}, False, "wait"),
        (3, {"leiden": YES, "madrid": YES, "padua": YES}, True, "fewer"),
        (3, {"leiden": YES, "madrid": YES, "padua": YES, "turin": NO}, False, "fewer"),
        (3, {"leiden": YES, "madrid": YES}, True, "expired"),
        (3, dict.fromkeys(FOUR, YES), True, "begin"),
        (9, dict.fromkeys(FOUR, YES), False, "begin"),
    ],
)
def test_a_study_begins_when_all_have_approved_or_as_many_as_suffice_are_asked_anew(
    quorum: int | None, said: dict[str, Decision], over: bool, expected: str
) -> None:
    decisions = {name: Decided(name, decision, "", "", START) for name, decision in said.items()}
    found = standing(FOUR, study("odds", quorum=quorum), decisions, over=over)
    assert found.next == expected
    assert set(found.approved) | set(found.missing) == set(FOUR)


def test_a_quorum_below_min_sites_and_a_time_that_is_none_are_refused() -> None:
    for wrong, expected in (({"quorum": 2}, "min_sites"), ({"approve_within": "soon"}, "durations")):
        with pytest.raises(StudyError) as refused:
            study("odds", **wrong)
        assert expected in str(refused.value) or refused.value.rule == expected


def test_what_was_added_to_the_format_changes_no_digest_where_it_is_not_said() -> None:
    plain = study("odds")
    assert plain.digest() == study("odds", approve_within="30 d").digest()
    assert len({plain.digest(), study("odds", quorum=3).digest(), study("odds", approve_within="1 d").digest()}) == 3


def test_one_who_refuses_is_left_out_and_the_others_are_asked_anew_over_themselves(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, FOUR) as opened:
            everybody_has_data(opened)
            turin = opened.sites["turin"]
            turin.approving = False
            digest = await opened.submit(study("table", quorum=3), FOUR)
            await turin.until(lambda: digest in turin.offers)
            async with asyncio.timeout(60):
                while (await opened.status(digest))["waiting_for"] != ["turin"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            first_permits = {name: opened.sites[name].permits[digest] for name in FOUR[:3]}
            await ok(opened.port, turin.credentials, call="refuse", study=digest, why="no legal basis")
            status = await opened.until(digest, "finished")
            assert sorted(status["sites"]) == ["leiden", "madrid", "padua"]
            for name, permit in first_permits.items():
                again = opened.sites[name].permits[digest]
                assert set(permit.roster) == set(FOUR) and set(again.roster) == set(FOUR[:3])
            await turin.until(lambda: turin.states[-1:] == ["cancelled"])
            assert "study-fewer" in {line["event"] for line in opened.log()}
            result = json.loads((await opened.files(digest))["table/result.json"])
            assert result["sites"] == ["leiden", "madrid", "padua"]
            assert await rule(opened.port, turin.credentials, call="status", study=digest) == "known-studies"

    asyncio.run(go())


def test_when_the_time_to_decide_is_up_the_study_says_who_is_missing(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path) as opened:
            for client in opened.sites.values():
                client.approving = False
            digest = await opened.submit(study("table", approve_within="1 s"))
            over = await opened.until(digest, "cancelled")
            assert "leiden, padua, turin did not approve it in time" in over["why"]
            for client in opened.sites.values():
                await client.until(lambda client=client: client.states[-1:] == ["cancelled"])  # type: ignore[misc]

    asyncio.run(go())


def test_a_time_that_passed_while_the_coordinator_was_away_is_up_when_it_is_back(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, dial=False) as opened:
            digest = await opened.submit(study("table", approve_within="500 ms"))
            await opened.coordinator.stop()
            await asyncio.sleep(0.6)
            opened.coordinator = Coordinator(opened.home)
            await opened.coordinator.start()
            assert (await opened.until(digest, "cancelled"))["waiting_for"] == []

    asyncio.run(go())


def test_a_deadline_that_was_dropped_or_moved_does_not_pass() -> None:
    async def go() -> None:
        passed: list[str] = []
        deadlines = Deadlines(now, passed.append)
        deadlines.set("dropped", now() + timedelta(milliseconds=50))
        deadlines.set("moved", now() + timedelta(milliseconds=50))
        deadlines.set("late", now() - timedelta(days=1))
        deadlines.drop("dropped")
        deadlines.set("moved", now() + timedelta(hours=1))
        deadlines.set("soon", now() + timedelta(milliseconds=100))
        async with asyncio.timeout(20):
            while "soon" not in passed:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert passed == ["late", "soon"]
        await asyncio.gather(deadlines.stop(), return_exceptions=True)

    asyncio.run(go())


# -- limits, and whose turn it is ----------------------------------------------------------------------------------------------


def test_too_many_studies_of_one_researcher_or_too_large_a_one_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(
            tmp_path, dial=False, limits=Limits(per_researcher=1, document_bytes=8000, analyses=2)
        ) as opened:

            def submission(one: Study) -> dict[str, Any]:
                signature = StudySignature.make(one, "rossi", opened.identity).to_tree()
                return {
                    "call": "submit",
                    "document": one.model_dump_json(),
                    "signature": signature,
                    "sites": ["leiden", "padua", "turin"],
                }

            long = engine.study("table", question="Why? " * 2000)
            assert await rule(opened.port, opened.researcher, **submission(long)) == "study-size"
            many = engine.study("table", "odds", "effect")
            assert await rule(opened.port, opened.researcher, **submission(many)) == "study-size"
            digest = await opened.submit(engine.study("table"))
            other = engine.study("table", id="other")
            assert await rule(opened.port, opened.researcher, **submission(other)) == "studies-of-one"
            await ok(opened.port, opened.researcher, call="cancel", study=digest)
            assert await opened.submit(other) == other.digest()

    asyncio.run(go())


def turn(name: str, researcher: str, order: int, *sites: str) -> Turn:
    return Turn(name, researcher, sites or ("leiden",), order)


@pytest.mark.parametrize(
    ("running", "online", "expected"),
    [
        ((), {"leiden", "turin"}, "a1"),
        (("anna",), {"leiden", "turin"}, "b1"),
        (("anna", "bruno", "bruno"), {"leiden", "turin"}, "c1"),
        (("anna", "bruno", "bruno", "carla", "carla"), {"leiden", "turin"}, "a1"),
        (("bruno", "carla"), {"leiden"}, "a2"),  # a1 needs turin, which is away
        (("bruno", "carla"), set(), "a1"),
    ],
)
def test_turns_are_fair_between_researchers_and_pass_over_a_hospital_that_is_away(
    running: tuple[str, ...], online: set[str], expected: str
) -> None:
    waiting = [turn("a1", "anna", 0, "turin"), turn("a2", "anna", 1), turn("b1", "bruno", 2), turn("c1", "carla", 3)]
    assert first(waiting, running, online).study == expected


def test_a_study_that_waits_for_a_hospital_which_is_away_holds_up_no_other(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, FOUR, grace_s=0.3, limits=Limits(running=1)) as opened:
            everybody_has_data(opened)
            turin = opened.sites["turin"]
            slow = await opened.submit(study("odds", "effect", deadline="2 h"), ("leiden", "padua", "turin"))
            await turin.until(lambda: turin.answered["mask"] > 0, 60)
            await turin.stop()
            await waits_for(opened, slow, "turin")
            status = await opened.status(slow)
            left = datetime.fromisoformat(status["until"]) - now()
            assert timedelta(hours=1, minutes=50) < left <= timedelta(hours=2)
            quick = await opened.submit(engine.study("table", id="quick"), ("leiden", "madrid", "padua"))
            await opened.until(quick, "finished")
            assert (await opened.status(slow))["state"] == "running"

    asyncio.run(go())


def test_a_study_beyond_what_runs_at_once_waits_its_turn_and_can_be_cancelled_there(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, limits=Limits(running=1)) as opened:
            padua = opened.sites["padua"]
            held = asyncio.Event()
            answer = padua._answer

            async def slowly(tree: Any) -> Any:
                if tree["to"] == "exchange":
                    await held.wait()
                return await answer(tree)

            padua._answer = slowly  # type: ignore[method-assign]
            one = await opened.submit(engine.study("table"))
            await opened.until(one, "running")
            two = await opened.submit(engine.study("odds", id="two"))
            three = await opened.submit(engine.study("effect", id="three"))
            for digest in (two, three):
                await opened.until(digest, "ready")
                assert (await opened.status(digest))["queued"]
            assert (await ok(opened.port, opened.researcher, call="cancel", study=two))["state"] == "cancelled"
            held.set()
            for digest in (one, three):
                await opened.until(digest, "finished")
            assert (await opened.status(two))["state"] == "cancelled"

    asyncio.run(go())


async def waits_for(opened: Net, digest: str, site: str) -> None:
    async with asyncio.timeout(60):
        while (await opened.status(digest))["waiting_for"] != [site]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


# -- how far it is, and how long it may take -----------------------------------------------------------------------------------


def event(kind: Any, seconds: float, **more: Any) -> Event:
    return Event(kind, more.pop("analysis", "effect"), seconds=seconds, **more)


def test_the_time_left_follows_from_the_steps_so_far_and_the_sums_that_may_come() -> None:
    progress = Progress({"effect": 10, "table": 2}, deadline_s=600)
    progress.see(event("analysis", 0.0), START)
    assert progress.to_tree()["seconds_a_sum"] is None and progress.sums_left == 12
    for k, took in enumerate((1.0, 1.0, 50.0)):  # one of them waited for somebody
        progress.see(event("step", 100.0 * k, step=k, name="x"), START)
        progress.see(event("opened", 100.0 * k + took, step=k), START)
    assert (progress.to_tree()["seconds_a_sum"], progress.sums_left) == (1.0, 9)
    progress.see(event("finished", 400.0), START)
    assert progress.sums_left == 2
    tree = {**progress.to_tree(), "seconds_a_sum": 90.0}
    assert say_left(tree) == ", at most 2 to come: 3 min at 90 s each"
    assert say_left({"opened": 1}) == ""


def test_a_site_that_is_late_is_waited_for_until_the_steps_deadline() -> None:
    progress = Progress({}, deadline_s=600)
    progress.see(event("step", 0.0, step=1, name="x"), START)
    assert progress.until is None
    progress.see(event("waiting", 5.0, site="turin"), START + timedelta(seconds=5))
    assert progress.until == START + timedelta(minutes=10)
    progress.see(event("returned", 6.0, site="turin"), START)
    assert progress.until is None
    state = {"waiting_for": ["turin"], "until": "2026-01-01T00:10:00+00:00"}
    assert say_late(state, START) == "waiting for turin, 10 min more (until 2026-01-01 00:10 UTC)"
    assert say_late({"waiting_for": ["turin"], "until": None}, START) == "waiting for turin"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.42, "0.42 s"), (12.3, "12 s"), (150, "2 min"), (7200, "2 h"), (30 * 86400, "30 d")]
)
def test_a_time_is_said_in_its_own_unit(seconds: float, said: str) -> None:
    assert span(seconds) == said


# -- the operator's board ------------------------------------------------------------------------------------------------------


def report(**statuses: Any) -> Report:
    checks = [Check(name=n, title=n, seconds=0.1, status=s, found="x") for n, s in statuses.items()]
    cards = Check(
        name="gpu", title="gpu", seconds=0.1, status="ok", found="x", details={"cards": ["NVIDIA L4, 23034 MiB, 550"]}
    )
    return Report(
        software="1",
        address="x:443",
        authority="",
        machine="m",
        when=START,
        status="warn",
        checks=(*checks, cards),
        request="",
    )


def test_what_preflight_found_goes_into_the_hello_and_onto_the_board(tmp_path: Path) -> None:
    folder = AgentFolder(tmp_path)
    assert about(folder, 0, START)["preflight"] == {}  # type: ignore[index,call-overload]
    report(dns="ok", idle="warn", clock="fail").save(folder.preflight)
    said = about(folder, 2, START)
    found = {
        "online": True,
        "about": said,
        "seen": START.isoformat(),
        "expires": "2027-01-01T00:00:00+00:00",
        "clock_skew_s": -90.0,
    }
    cells = dict(zip(READINESS[1:], readiness_cells(found), strict=True))
    assert cells["there"] == "yes" and cells["certificate"] == "2027-01-01" and cells["clock"] == "90 s behind"
    assert cells["preflight"] == "warn: idle, clock (2026-01-01)"
    assert cells["machine"].endswith("GB free, NVIDIA L4") and cells["studies"] == "2" and cells["methods"] == "as here"
    folder.preflight.write_text("{damaged")
    assert about(folder, 0, START)["preflight"] == {}  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    "nonsense", [{}, {"about": 7}, {"about": {"preflight": [1], "readiness": "x"}, "clock_skew_s": "soon", "seen": 3}]
)
def test_a_site_that_says_nonsense_of_itself_has_a_line_all_the_same(nonsense: dict[str, Any]) -> None:
    assert len(readiness_cells(nonsense)) == len(READINESS) - 1


def test_the_board_knows_when_a_site_was_there_last_its_certificate_and_its_clock(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua", "turin"), dial=False) as opened:
            padua = opened.sites["padua"].start()
            await padua.until(lambda: padua.connections == 1)
            await padua.stop()
            async with asyncio.timeout(20):
                while opened.coordinator.sites.line("padua").end.is_online:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            sites = (await ok(opened.port, opened.operator, call="readiness"))["sites"]
            assert not sites["padua"]["online"] and sites["padua"]["seen"] is not None
            assert datetime.fromisoformat(sites["padua"]["expires"]) > now() + timedelta(days=300)
            assert sites["turin"]["seen"] is None
            assert readiness_cells(sites["turin"])[0] == "no"
            assert readiness_cells(sites["padua"])[0].startswith("no, last 20")

    asyncio.run(go())


# -- what the audit log says ---------------------------------------------------------------------------------------------------


def test_only_what_this_hospitals_steward_took_back_is_called_withdrawn(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        site = bench.sites["padua"]
        bench.masked(bench.totals())
        assert site.knows(bench.study.digest())
        site.release(bench.study.digest(), "cancelled at the coordinator")
        last = audit(site)[-1]
        assert (last["event"], last["why"]) == ("released", "cancelled at the coordinator")
        assert not site.knows(bench.study.digest())
        site.withdraw(bench.study.digest())
        assert audit(site)[-1]["event"] == "withdrawn"
    finally:
        bench.close()
