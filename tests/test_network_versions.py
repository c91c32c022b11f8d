"""Versions: skew of the wire or of a method is refused before anything runs, both versions named; and what the frozen version sent
and stored is read today, byte for byte. Whoever changes the wire or a file's form finds a red test here: raise the version that
changed, and freeze anew (`python -m tests.support.freeze`)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine, freeze
from tests.support.network import SITES, Client, Net, channel, coordinator_home, credentials, net, now, ok, said
from tests.test_network_coordinator_doors import hello, spoken
from unisono import __version__
from unisono.engines.analysis import Place
from unisono.errors import NetworkError, PermitError, ProtocolError, StorageError, UnisonoError
from unisono.federation.journal import Journal
from unisono.federation.tree import pack, unpack
from unisono.methods import registry
from unisono.methods.registry import find, versions_for
from unisono.methods.versions import same_methods
from unisono.network.agent.inbox import Inbox
from unisono.network.agent.offer import Offer
from unisono.network.coordinator import running
from unisono.network.coordinator.consent import checked_permit
from unisono.network.coordinator.service import Coordinator
from unisono.network.coordinator.store import Store
from unisono.network.enrolment.invitations import Invitations
from unisono.network.enrolment.members import Members
from unisono.network.enrolment.token import Token
from unisono.network.signing import StudySignature
from unisono.network.wire.envelope import command, command_of
from unisono.network.wire.messages import answer_from, answer_tree, request_from, request_tree
from unisono.network.wire.parcel import Incoming
from unisono.network.wire.unisono_pb2 import Frame, Packed
from unisono.network.wire.version import PROTOCOL, same_protocol
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site import gate
from unisono.site.home import Home
from unisono.site.permit import Permit, propose
from unisono.site.state import SiteState

FROZEN = freeze.folder(1)
STUDY = freeze.STUDY
OTHERS = [version for version in (0, PROTOCOL + 1) if version != PROTOCOL]


def refused(do: Callable[[], object]) -> UnisonoError:
    with pytest.raises(UnisonoError) as error:
        do()
    return error.value


# -- the wire's version ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", OTHERS)
def test_a_hello_of_another_version_of_the_wire_is_refused_and_both_are_named(tmp_path: Path, version: int) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            frames, _ = await spoken(
                opened.port, opened.sites["padua"].credentials, hello(protocol=version, software="9.9")
            )
            (bye,) = (frame.bye for frame in frames)
            assert bye.rule == "protocol-version"
            assert all(text in bye.what for text in (f"version {version} ", "9.9", f"version {PROTOCOL} ", __version__))
            assert "same version of Unisono at both ends" in bye.remedy

    asyncio.run(go())


@pytest.mark.parametrize("version", OTHERS)
def test_a_command_of_another_version_is_refused_for_every_role_before_it_is_read(tmp_path: Path, version: int) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            of_another = Packed(tree=b"what only they can read", protocol=version, software="9.9").SerializeToString()
            invited = credentials(opened.home, "invited", "turin", invites="site")
            padua = opened.sites["padua"].credentials
            doors = [(opened.researcher, "Call"), (opened.operator, "Call"), (padua, "Call"), (invited, "Join")]
            for who, method in doors:
                async with channel(opened.port, who) as open_:
                    answer = await open_.unary_unary(f"/unisono.wire.v1.Coordinator/{method}")(of_another, timeout=20)
                error = unpack(Packed.FromString(answer).tree)["error"]
                assert error["rule"] == "protocol-version"
                assert f"version {version} " in error["what"]
                assert f"version {PROTOCOL} " in error["what"]
            async with channel(opened.port, opened.researcher) as open_:
                watch = open_.unary_stream("/unisono.wire.v1.Coordinator/Watch")(of_another, timeout=20)
                assert b"protocol-version" in await watch.read()

    asyncio.run(go())


@pytest.mark.parametrize("version", OTHERS)
def test_a_coordinator_of_another_version_is_refused_by_the_site_too(version: int) -> None:
    error = refused(lambda: same_protocol(version, "9.9\x1b[2J", "coordinator"))
    assert isinstance(error, NetworkError)
    assert f"The coordinator speaks version {version} of the wire (Unisono 9.9[2J)" in error.what
    same_protocol(PROTOCOL, "anything", "coordinator")


# -- methods' versions ----------------------------------------------------------------------------------------------------


def newer(method: str, by: int = 1) -> Any:
    """For `monkeypatch.setattr`: a method of which this installation has another version."""
    cls = find(method)
    return cls, "version", cls.version + by


def test_a_study_over_another_version_of_a_method_is_refused_when_it_is_submitted(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path) as opened:
            for client in opened.sites.values():
                await client.until(lambda client=client: client.connections == 1)  # type: ignore[misc]
            opened.coordinator.sites.line("padua").about["methods"] = {"glm": find("glm").version + 1}
            signature = StudySignature.make(STUDY, "rossi", opened.identity).to_tree()
            tree = {"call": "submit", "document": STUDY.model_dump_json(), "signature": signature, "sites": list(SITES)}
            error = (await said(opened.port, opened.researcher, tree))["error"]
            assert error["rule"] == "method-version"
            assert error["what"] == "The coordinator runs 'glm' version 1, padua has version 2."
            assert (await ok(opened.port, opened.operator, call="studies"))["studies"] == []

    asyncio.run(go())


def test_a_site_that_was_away_refuses_the_offer_and_the_study_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with net(tmp_path, dial=False) as opened:
            monkeypatch.setattr("unisono.network.coordinator.courier.versions_for", lambda _: {"cohort": 1, "glm": 2})

            async def read(tree: Any) -> Any:  # as the agent does
                Offer.read(tree, "padua", opened.sites["padua"].home.identity().public)

            padua = opened.sites["padua"]
            answer = padua._answer

            async def answered(tree: Any) -> Any:
                if tree["to"] == "offer":
                    await read(tree)
                return await answer(tree)

            monkeypatch.setattr(padua, "_answer", answered)
            digest = await opened.submit(STUDY)
            for client in opened.sites.values():
                client.start()
            state = await opened.until(digest, "refused")
            assert "The coordinator runs 'glm' version 2, padua has version 1." in state["why"]

    asyncio.run(go())


def test_a_permit_for_another_version_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freeze.memories(tmp_path)
    store = Store(tmp_path / "centre" / "coordinator.db")
    try:
        (asked,) = store.all()
        permits = {name: decided.permit for name, decided in store.decisions(asked.digest).items()}
    finally:
        store.close()
    assert checked_permit(permits["padua"], asked, "padua", now()).site == "padua"
    monkeypatch.setattr(*newer("glm"))
    error = refused(lambda: checked_permit(permits["padua"], asked, "padua", now()))
    assert isinstance(error, ProtocolError)
    assert (error.rule, error.what) == ("method-version", "The coordinator runs 'glm' version 2, padua has version 1.")


def test_a_site_that_was_upgraded_since_it_approved_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity.generate()
    roster = Roster({name: identity.public if name == "padua" else Identity.generate().public for name in SITES})
    permit = propose(STUDY, roster, "padua", now()).signed(identity)
    gate.consent(STUDY, permit, roster, "padua", identity)
    monkeypatch.setattr(*newer("glm"))
    error = refused(lambda: gate.consent(STUDY, permit, roster, "padua", identity))
    assert isinstance(error, PermitError)
    assert error.rule == "method-version"
    assert "padua approved 'glm' version 1" in error.what
    assert "has version 2 now" in error.what


@pytest.mark.parametrize("theirs", [{"glm": "1"}, {"glm": True}, {"glm": None}, {"glm": [1]}, {"glm": 10**40}])
def test_versions_that_are_none_are_another_version(theirs: dict[str, Any]) -> None:
    assert refused(lambda: same_methods({"glm": 1}, theirs, "padua")).rule == "method-version"
    assert refused(lambda: same_methods(theirs, {"glm": 1}, "padua")).rule == "method-version"


def test_what_a_study_runs_is_its_methods_and_the_cohort_step() -> None:
    assert versions_for(engine.study("odds", "effect")) == {"cohort": 1, "cox": find("cox").version, "glm": 1}
    assert set(versions_for(engine.study())) <= set(registry.versions())


def test_a_coordinator_that_was_upgraded_does_not_go_on_with_old_permits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        home = restored(tmp_path)
        monkeypatch.setattr(*newer("glm"))
        coordinator = Coordinator(home)
        await coordinator.start()
        try:
            (asked,) = coordinator.studies.store.all()
            assert asked.state == "failed"
            assert "'glm' version 2, leiden has version 1" in asked.why
        finally:
            await coordinator.stop()

    asyncio.run(go())


# -- what the frozen version sent -------------------------------------------------------------------------------------------


def read(name: str) -> list[Frame]:
    """Frames of a file, each of which today's code writes as the same bytes."""
    found = []
    for data in freeze.frames(FROZEN / name):
        frame = Frame.FromString(data)
        assert frame.SerializeToString(deterministic=True) == data, "a frame's form was changed: raise PROTOCOL"
        assert frame.WhichOneof("kind") is not None
        found.append(frame)
    return found


def parcels(frames: list[Frame]) -> list[bytes]:
    """The whole messages in some frames, in the order in which they were complete."""
    opened: dict[int, Incoming] = {}
    found = []
    for frame in frames:
        kind = frame.WhichOneof("kind")
        if kind == "begin":
            whole = opened[frame.begin.id] = Incoming(frame.begin.size, 2**20)
            whole.append(0, frame.begin.data)
        elif kind == "chunk":
            whole = opened[frame.chunk.id]
            whole.append(frame.chunk.offset, frame.chunk.data)
        if kind in ("begin", "chunk") and whole.complete:
            found.append(pack(whole.tree()))
    return found


def test_the_first_words_are_read_as_they_were_meant() -> None:
    first, welcome = read("to-coordinator.frames")[0].hello, read("to-site.frames")[0].welcome
    assert (first.protocol, first.software, first.session) == (1, "0.0.0", "frozen")
    assert [(p.id, p.received) for p in first.open] == [(9, 7)]
    assert (welcome.protocol, welcome.heartbeat_ms) == (1, 5000)
    assert abs(welcome.time_ms / 1000 - datetime.fromisoformat(about()["frozen"]).timestamp()) < 3600
    kinds = [frame.WhichOneof("kind") for frame in read("to-site.frames")]
    assert kinds[0] == "welcome"
    assert set(kinds) == {"welcome", "begin", "chunk", "done", "beat", "bye"}


def test_requests_and_answers_are_read_and_would_be_sent_again_as_the_same_bytes() -> None:
    asked = [unpack(data) for data in parcels(read("to-site.frames"))]
    phases = [tree["message"]["kind"] for tree in asked if tree["to"] == "exchange"]
    assert {"advertise", "share", "mask", "unmask"} <= set(phases)
    assert {tree["to"] for tree in asked} == {"exchange", "offer", "roster", "state"}
    for tree in asked:
        if tree["to"] == "exchange":
            assert pack(request_tree(request_from(tree["message"]))) == pack(tree["message"])
    (offer,) = (tree for tree in asked if tree["to"] == "offer")
    (permit,) = (Permit.model_validate(about()["permit"]),)
    found = Offer.read(offer, "padua", bytes.fromhex(permit.roster["padua"]))
    assert (found.study.digest(), found.document) == (about()["study"], STUDY.model_dump_json())
    answers = [unpack(data) for data in parcels(read("to-coordinator.frames"))]
    assert {"advertise", "shares", "masked", "revealed", "nothing"} <= {tree["kind"] for tree in answers}
    for tree in answers:
        assert pack(answer_tree(answer_from(tree))) == pack(tree)


def test_a_command_a_token_and_a_permit_are_read_and_written_as_they_were() -> None:
    data = (FROZEN / "command").read_bytes()
    assert command_of(data) == freeze.CALL
    again = command(freeze.CALL)
    again.software = Packed.FromString(data).software
    assert again.SerializeToString(deterministic=True) == data
    text, at = (FROZEN / "token").read_text("ascii").strip(), datetime.fromisoformat(about()["frozen"])
    token = Token.decode(text, at)
    assert token.encode() == text
    assert (token.address, token.peer.role, token.peer.invites) == ("coordinator.example:443", "invited", "site")
    permit = Permit.model_validate(about()["permit"])
    Roster.from_tree(permit.roster).verify("padua", permit.body(), bytes.fromhex(permit.signature))
    assert permit.model_dump(mode="json") == about()["permit"]
    assert permit.study == STUDY.digest() == about()["study"]


def about() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FROZEN / "about.json").read_text("utf-8"))
    return found


# -- what the frozen version stored -----------------------------------------------------------------------------------------


def restored(folder: Path) -> Any:
    """A coordinator's folder with the frozen memories and a new authority, whose members are the same hospitals."""
    freeze.memories(folder)
    frozen = folder / "centre"
    frozen.rename(folder / "frozen")
    home = coordinator_home(frozen)
    for path in (folder / "frozen").rglob("*"):
        if path.is_file() and not path.name.startswith(("members", "invitations")):
            target = home.path / path.relative_to(folder / "frozen")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    return home


def test_a_run_of_the_frozen_version_goes_on_and_ends_with_the_same_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A journal goes on only where it was begun: this test stands there, and compares to nine digits.
    monkeypatch.setattr(running, "Place", partial(Place, environment=about()["environment"]))

    async def go() -> tuple[Any, int]:
        home = restored(tmp_path)
        (journal,) = home.path.glob("studies/*/odds/journal.db")
        before = opened_steps(journal)
        researcher = credentials(home, "researcher", "rossi", member=Identity.generate())
        operator = credentials(home, "operator", "ops", member=Identity.generate())
        clients = {}
        for name in SITES:
            place = Home(tmp_path / name)
            clients[name] = (credentials(home, "site", name, member=place.identity()), place)
        coordinator = Coordinator(home)
        opened = Net(tmp_path, home, coordinator, await coordinator.start(), researcher, operator, Identity.generate())
        try:
            (asked,) = coordinator.studies.store.all()
            assert (asked.digest, asked.state) == (about()["study"], "running")
            for name, (given, place) in clients.items():
                client = opened.sites[name] = Client(name, opened.port, given, place)
                permit = coordinator.studies.store.decisions(asked.digest)[name].permit
                await client.take_up(asked.study(), Permit.model_validate_json(permit), asked.roster)
                client.start()
            await opened.until(asked.digest, "finished")
            files = await opened.files(asked.digest)
            return json.loads(files["odds/result.json"])["estimates"], before
        finally:
            await opened.close()

    estimates, before = asyncio.run(go())
    assert before == freeze._STOP_AT
    expected = engine.estimates(engine.run(STUDY, tmp_path / "embedded", data=engine.hospitals(SITES)))["odds"]
    close(estimates, json.loads(json.dumps(expected)))


def test_a_memory_of_a_newer_form_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    freeze.memories(tmp_path)
    Inbox(tmp_path / "inbox.db").close()
    (journal,) = tmp_path.glob("centre/studies/*/odds/journal.db")
    doors: dict[Path, Callable[[Path], Any]] = {
        tmp_path / "centre" / "coordinator.db": Store,
        tmp_path / "centre" / "members.db": Members,
        tmp_path / "centre" / "invitations.db": Invitations,
        tmp_path / "padua" / "state.db": SiteState,
        tmp_path / "inbox.db": Inbox,
        journal: Journal,
    }
    for path, open_ in doors.items():
        open_(path).close()
        mine = stamp(path, 99)
        before = path.read_bytes()
        error = refused(lambda path=path, open_=open_: open_(path))  # type: ignore[misc]
        assert isinstance(error, StorageError), path
        assert error.rule == "schema-version"
        assert "written by a newer Unisono" in error.what
        assert f"version 99, and this one reads version {mine}" in error.what
        assert path.read_bytes() == before
        stamp(path, mine)
        open_(path).close()


def test_memories_of_the_frozen_version_hold_what_they_held(tmp_path: Path) -> None:
    freeze.memories(tmp_path)
    members = Members(tmp_path / "centre" / "members.db")
    assert set(members.roster()) == set(SITES)
    assert members.find("rossi").role == "researcher"
    members.close()
    (path,) = tmp_path.glob("centre/studies/*/odds/journal.db")
    journal = Journal(path, read_only=True)
    try:
        start = journal.last("start")
        assert start is not None and start.body is not None
        assert (start.body["study"], start.body["analysis"]) == (about()["study"], "odds")
        assert [record.step for record in journal.all("opened")] == list(range(freeze._STOP_AT))
    finally:
        journal.close()
    state = SiteState(tmp_path / "padua" / "state.db")
    try:
        steps = [state.step((start.body["run"], "odds", 0, k)) for k in range(freeze._STOP_AT)]
    finally:
        state.close()
    assert all(step is not None and step.sites == SITES for step in steps)
    assert all(step.closed for step in steps[:-1] if step is not None)


def opened_steps(journal: Path) -> int:
    found = Journal(journal, read_only=True)
    try:
        return len(found.all("opened"))
    finally:
        found.close()


def stamp(path: Path, version: int) -> int:
    """Say that the file is of that form. Which it was of."""
    db = sqlite3.connect(path)
    try:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        db.execute(f"PRAGMA user_version={version}")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        db.close()
    return found


def close(found: Any, expected: Any) -> None:
    """The same numbers, to nine digits."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    else:
        assert found == expected
