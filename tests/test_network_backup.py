"""Back-ups and restorations: the archive, restored sites and coordinators over real sockets, and memories that went back unsaid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import shutil
import sqlite3
import stat
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine, steward
from tests.support.hospitals import QUICK
from tests.support.network import SITES, Net, net, now, ok, watched
from tests.test_network_coordinator import embedded, estimates
from unisono.cli.main import main
from unisono.errors import NetworkError, StorageError, UnisonoError
from unisono.federation.ask import Ask, Circle
from unisono.federation.contribution import Memory, Part
from unisono.federation.exchange import Advertise, NewSlot
from unisono.federation.journal import Journal
from unisono.federation.lineage import Mark
from unisono.network.agent import datasets
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.inbox import Inbox
from unisono.network.agent.join import join
from unisono.network.agent.marks import Marks as SiteMarks
from unisono.network.agent.serve import Options, serve
from unisono.network.agent.steward import Desk
from unisono.network.backup import archive, site
from unisono.network.backup import coordinator as centre
from unisono.network.backup.archive import Manifest, Source
from unisono.network.backup.sealed import CHUNK, SealedReader, SealedWriter
from unisono.network.backup.snapshot import STAGING
from unisono.network.beginning import Beginning, consent_of
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.coordinator.marks import Marks
from unisono.network.coordinator.service import Coordinator
from unisono.network.coordinator.store import Store
from unisono.network.enrolment.invitations import Invitations
from unisono.network.log import Log
from unisono.network.marks import to_wire
from unisono.network.wire.messages import request_tree
from unisono.network.wire.unisono_pb2 import Hello, Welcome
from unisono.site.state import SiteState
from unisono.site.worker import LocalWorker
from unisono.study.document import Study

WORDS = "six random words are easy to keep"
QUICK_BITS = 14
MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)


# -- the archive --------------------------------------------------------------------------------------------------------


def sealed(content: bytes, words: str = WORDS) -> bytes:
    file = BytesIO()
    writer = SealedWriter(file, words, memory_bits=QUICK_BITS)
    writer.write(content)
    writer.finish()
    return file.getvalue()


def archived(folder: Path, files: dict[str, bytes]) -> Path:
    sources = []
    for number, (name, content) in enumerate(files.items()):
        (folder / f"source-{number}").write_bytes(content)
        sources.append(Source(name, folder / f"source-{number}"))
    to = folder / "backup"
    archive.write(to, WORDS, "site", "padua", MADE, sources, memory_bits=QUICK_BITS)
    return to


def member(name: str, content: bytes, **changes: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in changes.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def unpack(file: Path, into: Path, words: str = WORDS) -> dict[str, bytes]:
    with archive.opened(file, words, into, "site"):
        return {p.relative_to(into).as_posix(): p.read_bytes() for p in sorted(into.rglob("*")) if p.is_file()}


def rule(what: Callable[[], Any]) -> str:
    with pytest.raises(UnisonoError) as caught:
        what()
    return caught.value.rule


def test_what_is_kept_comes_back_and_nobody_else_reads_it(tmp_path: Path) -> None:
    files = {
        "identity.key": b"k" * 32,
        "tls/tls.key": b"",
        "results/large.bin": random.Random(1).randbytes(3 * CHUNK + 5),
    }
    file = archived(tmp_path, files)
    assert unpack(file, tmp_path / "out") == files
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out" / "identity.key").stat().st_mode) == 0o600
    assert b"k" * 32 not in file.read_bytes()
    assert b"identity" not in file.read_bytes()
    assert rule(lambda: archived(tmp_path, files)) == "keep-files"


def test_two_archives_of_the_same_share_no_bytes_beyond_their_form() -> None:
    one, other = sealed(bytes(1000)), sealed(bytes(1000))
    assert one[:19] == other[:19]
    assert one[19:] != other[19:]


def test_another_passphrase_and_another_file_are_told_apart(tmp_path: Path) -> None:
    file = archived(tmp_path, {"a": b"x"})
    assert rule(lambda: unpack(file, tmp_path / "out", "another passphrase")) == "backup-passphrase"
    (tmp_path / "no").write_bytes(b"PK\x03\x04 something else")
    assert rule(lambda: unpack(tmp_path / "no", tmp_path / "out")) == "backup-form"
    greedy = file.read_bytes()[:18] + bytes([30]) + file.read_bytes()[19:]  # Scrypt with a terabyte
    (tmp_path / "greedy").write_bytes(greedy)
    assert rule(lambda: unpack(tmp_path / "greedy", tmp_path / "out")) == "backup-form"
    assert not (tmp_path / "out").exists()


def test_an_archive_that_was_cut_or_altered_anywhere_is_refused(tmp_path: Path) -> None:
    whole, chance = sealed(random.Random(2).randbytes(2 * CHUNK + 10)), random.Random(3)
    header, chunk = 51, CHUNK + 16
    cuts = [header, header + 8, header + chunk, header + 2 * chunk, len(whole) - 1]
    damaged = [whole[:cut] for cut in cuts] + [whole + b"x", whole[:header] + whole[header + chunk :]]
    damaged.append(whole[:header] + whole[header + chunk : header + 2 * chunk] + whole[header : header + chunk])
    for _ in range(4):
        at = chance.randrange(header, len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
    for content in damaged:

        def read_all(content: bytes = content) -> None:
            reader = SealedReader(BytesIO(content), WORDS)
            while reader.read(CHUNK):
                pass

        assert rule(read_all) == "backup-integrity"


@pytest.mark.parametrize(
    "members",
    [
        member("../outside", b"x"),
        member("/tmp/outside", b"x"),
        member("a/../../outside", b"x"),
        member("a\\..\\outside", b"x"),
        member("a", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("a", b"", type=tarfile.LNKTYPE, linkname="b"),
        member("a", b"", type=tarfile.DIRTYPE),
        member("a", b"", type=tarfile.CHRTYPE),
        member("a", b"", type=tarfile.GNUTYPE_SPARSE),
        member("a", b"x", type=tarfile.XHDTYPE),
        member("a", b"x") + member("a", b"y"),
        member("a", b"x", size=2**32)[:512],
        member("a", b"x") + member("a/b", b"y"),
        b"no header at all".ljust(512),
        member("a", b"x") + member("manifest.json", b"{}"),
        member("manifest.json", Manifest(kind="site", name="p", made=MADE, files={}).model_dump_json().encode()),
        b"",
    ],
)
def test_an_archive_of_somebody_who_knows_the_passphrase_cannot_leave_its_folder(
    tmp_path: Path, members: bytes
) -> None:
    file = tmp_path / "in" / "file"
    file.parent.mkdir()
    file.write_bytes(sealed(members))
    assert rule(lambda: unpack(file, tmp_path / "in" / "out")) in ("backup-integrity", "durable-storage")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "in"]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_half_of_an_archive(tmp_path: Path) -> None:
    with full_disk(CHUNK), pytest.raises(StorageError, match="cannot be written") as caught:
        (tmp_path / "large").touch()
        with (tmp_path / "large").open("r+b") as file:
            file.truncate(CHUNK)
        archive.write(
            tmp_path / "b",
            WORDS,
            "site",
            "padua",
            MADE,
            [Source(f"f{k}", tmp_path / "large") for k in range(3)],
            memory_bits=QUICK_BITS,
        )
    assert caught.value.rule == "durable-storage"
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


# -- runs that prove when they were begun -------------------------------------------------------------------------------


def test_a_runs_name_proves_under_which_permits_it_was_begun_and_no_others() -> None:
    before = Beginning({"padua": consent_of("first permit"), "turin": consent_of("t")})
    after = Beginning({**before.consents, "padua": consent_of("second permit")})
    run = before.name()
    assert run != before.name()
    assert before.proves(run, "padua", "first permit")
    assert not before.proves(run, "padua", "second permit")
    assert not after.proves(run, "padua", "second permit")  # an old run under a new list of permits
    assert not before.proves(run, "leiden", "first permit")
    assert not before.names("a" * 32)
    assert not before.names(run[:-1] + "é")
    assert Beginning.from_tree(before.to_tree()) == before
    for wrong in (None, [], {"padua": 1}, {1: "a"}, {"é": "a"}):
        assert Beginning.from_tree(wrong) is None


# -- marks ----------------------------------------------------------------------------------------------------------------


def hello(lineage: str, count: int, restored: str = "", remembered: Mark | None = None) -> Hello:
    return Hello(mark=to_wire(Mark(lineage, count, restored)), remembered=to_wire(remembered))


class Heard:
    """A coordinator's marks, with what they tell."""

    def __init__(self, folder: Path) -> None:
        self.restored: list[str] = []
        self.back: list[str] = []
        self.key = b"k" * 32
        self.log = Log(folder / "log.jsonl", now)
        self.store = Store(folder / "store.db")
        self.marks = self._marks()

    def _marks(self) -> Marks:
        return Marks(
            self.store, self.log, lambda _: self.key, lambda site, _: self.restored.append(site), self.back.append
        )

    def killed(self) -> None:
        """Another process, with what is on the disk."""
        self.marks = self._marks()

    def rule(self, said: Hello) -> str:
        return rule(lambda: self.marks.arrived("padua", said))


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    made = Heard(tmp_path)
    yield made
    made.store.close()


def test_a_site_may_come_back_as_far_as_it_was_or_farther_and_not_behind(heard: Heard) -> None:
    assert heard.marks.arrived("padua", hello("a", 5)) == Mark("a", 5)
    heard.marks.heard("padua", Mark("a", 9))
    heard.marks.heard("padua", Mark("b", 99))  # not of this memory
    assert heard.rule(hello("a", 8)) == "rolled-back"
    assert heard.marks.arrived("padua", hello("a", 9)) == Mark("a", 9)
    heard.marks.heard("padua", Mark("a", 12))
    heard.marks.keep("padua")
    heard.killed()
    assert heard.rule(hello("a", 11)) == "rolled-back"
    assert heard.marks.arrived("padua", Hello()) == Mark("a", 12)  # an older version keeps no mark


def test_of_two_copies_of_a_folder_only_the_one_that_went_on_is_served(heard: Heard) -> None:
    heard.marks.arrived("padua", hello("a", 5))
    heard.marks.heard("padua", Mark("a", 6))
    assert heard.rule(hello("a", 5)) == "rolled-back"
    assert heard.rule(hello("b", 50)) == "rolled-back"  # its memory was begun anew, and nobody said so
    heard.marks.arrived("padua", hello("b", 7, "2026-03-01"))
    assert heard.restored == ["padua"]
    assert heard.rule(hello("a", 100)) == "rolled-back"  # what it was restored from
    heard.marks.arrived("padua", hello("b", 8, "2026-03-01"))
    assert heard.restored == ["padua"]  # told once
    heard.marks.arrived("padua", hello("c", 1, "2026-04-01"))
    assert heard.rule(hello("b", 900, "2026-03-01")) == "rolled-back"
    heard.key = b"another" * 4 + b"keys"
    heard.killed()
    heard.marks.arrived("padua", hello("d", 1))  # joined anew
    heard.key = b"a third key" + b"." * 21
    assert heard.marks.arrived("padua", hello("e", 1)) == Mark("e", 1)  # and again, while this process lives


def test_a_mark_that_cannot_be_one_is_none(heard: Heard) -> None:
    for said in (hello("", 1), hello("a\n", 1), hello("a" * 65, 1), hello("a", 2**63)):
        assert heard.marks.arrived("padua", said) is None


def test_a_coordinator_is_told_by_a_site_that_it_went_back(heard: Heard) -> None:
    heard.marks.opened()
    own = heard.marks.own()
    heard.marks.arrived("padua", hello("a", 1, remembered=own))
    assert heard.back == []
    heard.marks.arrived("padua", hello("a", 1, remembered=Mark(own.lineage, own.count + 1)))
    assert heard.back == ["padua"]
    heard.store.restore("2026-03-01")
    heard.marks.arrived("padua", hello("a", 1, remembered=Mark(own.lineage, own.count + 1)))
    assert heard.back == ["padua"]  # it is another memory now, and says so


def test_a_sites_count_goes_on_with_what_it_promises_and_a_welcome_that_knows_it_farther_ends_it(
    tmp_path: Path,
) -> None:
    state = SiteState(tmp_path / "state.db")
    marks = SiteMarks("padua", state.lineage, Log(tmp_path / "log.jsonl", now))
    before = marks.mine()
    state.remember_circle(Circle("run", "study", "a", 0, SITES, "secagg"))
    assert marks.mine() == Mark(before.lineage, before.count + 1)
    state.remember_circle(Circle("run", "study", "a", 0, SITES, "secagg"))
    assert marks.mine().count == before.count + 1  # nothing new
    marks.welcomed(Welcome(remembered=to_wire(marks.mine()), mark=to_wire(Mark("c", 3))))
    assert marks.remembered() == Mark("c", 3)
    marks.heard(Welcome(mark=to_wire(Mark("c", 2))))
    assert marks.remembered() == Mark("c", 3)  # not believed, and told with the next hello
    farther = Mark(before.lineage, before.count + 2)
    assert rule(lambda: marks.welcomed(Welcome(remembered=to_wire(farther)))) == "rolled-back"
    state.close()
    again = SiteState(tmp_path / "state.db")
    assert again.lineage.mark() == Mark(before.lineage, before.count + 1)
    again.close()
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events == ["coordinator-rolled-back"]


# -- over real sockets ----------------------------------------------------------------------------------------------------


class SlowWorker(LocalWorker):
    """Takes its time, so that a test can do something in the middle of a run."""

    def contribution(self, ask: Ask, memory: Memory) -> Part:
        time.sleep(0.2)
        return super().contribution(ask, memory)


def slow_worker(study: Study, dataset: datasets.Dataset, site: str, secret: bytes) -> LocalWorker:
    return SlowWorker(study, dataset.freeze(study, site), secret)


class Agents:
    """Hospitals' own agents, each stopped and started by itself."""

    def __init__(self, opened: Net) -> None:
        self.opened = opened
        self.running: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        self.folders = {name: AgentFolder(opened.folder / name) for name in SITES}

    async def join(self) -> None:
        for name, folder in self.folders.items():
            token = (await ok(self.opened.port, self.opened.operator, call="invite", role="site", name=name))["token"]
            await join(token, folder, now())
            engine.frame(name).to_csv(self.opened.folder / f"{name}.csv", index=False)
            datasets.add(folder, "lung", self.opened.folder / f"{name}.csv", None, now())
            self.serve(name)

    def serve(self, name: str) -> asyncio.Task[None]:
        stop, options = asyncio.Event(), Options(pace=QUICK, make_worker=slow_worker, farewell_s=3.0)
        self.running[name] = stop, asyncio.ensure_future(serve(self.folders[name], stop, options))
        return self.running[name][1]

    async def stop(self, name: str) -> None:
        stop, task = self.running.pop(name)
        stop.set()
        await task

    async def close(self) -> None:
        for name in list(self.running):
            with contextlib.suppress(UnisonoError):
                await self.stop(name)

    async def approve(self, digest: str, *names: str) -> None:
        for name in names or SITES:
            await self.until(lambda name=name: self.decision(name, digest) == "open")  # type: ignore[misc]
            await asyncio.to_thread(self._approve, name, digest)

    def _approve(self, name: str, digest: str) -> None:
        desk = Desk(self.folders[name])
        try:
            steward.approve(desk, digest, now())
        finally:
            desk.close()

    def decision(self, name: str, digest: str) -> str:
        inbox = Inbox(self.folders[name].inbox)
        try:
            decision, state = inbox.standing(digest)
            return state if state in ("finished", "withdrawn", "cancelled") else decision
        finally:
            inbox.close()

    def logged(self, name: str, event: str) -> list[dict[str, Any]]:
        log = self.folders[name].log
        lines = map(json.loads, log.read_text("utf-8").splitlines() if log.exists() else [])
        return [line for line in lines if line["event"] == event]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():  # noqa: ASYNC110  (files do not call)
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def federation(folder: Path, **settings: Any) -> AsyncIterator[tuple[Net, Agents]]:
    async with net(folder, (), **settings) as opened:
        agents = Agents(opened)
        await agents.join()
        try:
            yield opened, agents
        finally:
            await agents.close()


async def opened_sums(opened: Net, digest: str, times: int) -> None:
    async with asyncio.timeout(60):
        async for seen in watched(opened.port, opened.researcher, digest):
            times -= sum(event["kind"] == "opened" for event in seen["events"])
            if times <= 0:
                return


def run_name(home: CoordinatorHome, digest: str, journal: str = "journal.db") -> str:
    (path,) = home.path.glob(f"studies/*-{digest[:12]}/effect/{journal}")
    copy = path.parent.parent / "copy" / "journal.db"
    copy.parent.mkdir(exist_ok=True)
    for ending in ("", "-wal"):
        if path.with_name(path.name + ending).exists():
            shutil.copyfile(path.with_name(path.name + ending), copy.with_name(copy.name + ending))
    read = Journal(copy)
    try:
        start = read.last("start")
        assert start is not None and start.body is not None
        return str(start.body["run"])
    finally:
        read.close()
        shutil.rmtree(copy.parent)


def test_a_restored_site_goes_on_with_no_run_and_the_study_is_begun_anew(tmp_path: Path) -> None:
    study = engine.study("effect")

    async def go() -> None:
        async with federation(tmp_path) as (opened, agents):
            digest = await opened.submit(study)
            await agents.approve(digest)
            await opened_sums(opened, digest, 2)
            padua = agents.folders["padua"]
            file = tmp_path / "padua.backup"
            manifest = await asyncio.to_thread(site.back_up, padua, file, WORDS, now(), memory_bits=QUICK_BITS)
            assert not (padua.path / STAGING).exists()
            assert {"identity.key", "rows.key", "state.db", "inbox.db", "tls/tls.key"} <= set(manifest.files)
            assert not any(name.endswith(".csv") or name.startswith("permits") for name in manifest.files)
            await opened_sums(opened, digest, 1)  # it answers more, which the back-up does not know
            await agents.stop("padua")
            old = run_name(opened.home, digest)

            restored = AgentFolder(tmp_path / "padua-restored")
            site.restore(file, WORDS, restored, now())
            assert rule(lambda: site.restore(file, WORDS, restored, now())) == "own-folder"
            assert nothing_of_the_steps(restored.path / "state.db")
            agents.folders["padua"] = restored
            assert agents.decision("padua", digest) == "open"
            agents.serve("padua")
            gone = await opened.until(digest, "withdrawn")
            assert "padua was restored from a back-up" in gone["why"]
            await agents.until(lambda: agents.decision("padua", digest) == "withdrawn")

            assert await opened.submit(study) == digest
            await agents.approve(digest)
            await opened.until(digest, "finished")
            assert estimates(await opened.files(digest), "effect") == embedded("effect")
            new = run_name(opened.home, digest)
            assert new != old == run_name(opened.home, digest, "journal.db.closed-1")
            assert not any("consents" in name or "closed" in name for name in await opened.files(digest))

            # a coordinator that lies: the old run at the restored site, under whatever it may show
            running = {"to": "state", "study": digest, "state": "running", "why": ""}
            await agents.until(lambda: agents.decision("padua", digest) == "finished")
            await opened.coordinator.sites.ask("padua", running)
            entry = Inbox(restored.inbox).get(digest)
            assert entry is not None
            shown = json.loads(next(opened.home.path.glob("studies/*/consents.json")).read_text())
            assert shown["padua"] == consent_of(entry.permit)
            for begun in (None, shown, {"padua": consent_of(entry.permit)}, {**shown, "turin": "x"}):
                assert await asked(opened, old, digest, begun) == "restored-site"
                assert await asked(opened, "f" * 32, digest, begun) == "restored-site"
            honest = Beginning(shown).name()
            assert await asked(opened, honest, digest, None) == "restored-site"
            assert await asked(opened, honest, digest, shown) == "advertise"
            assert len([e for e in opened.log() if e["event"] == "site-restored"]) == 1

    asyncio.run(go())


async def asked(opened: Net, run: str, digest: str, begun: Any) -> str:
    """The rule by which padua refuses to make keys for a run, or the kind of its answer."""
    circle = Circle(run, digest, "effect", 0, tuple(sorted(SITES)), "secagg")
    message = request_tree(Advertise(circle, NewSlot("slot", ""), ()))
    try:
        answer = await opened.coordinator.sites.ask("padua", {"to": "exchange", "message": message, "begun": begun})
    except UnisonoError as error:
        return error.rule
    return str(answer["kind"])


def nothing_of_the_steps(path: Path) -> bool:
    """Steps are remembered, and none of what they were answered with."""
    db = sqlite3.connect(path)
    steps, left = db.execute("SELECT count(*), count(answer) + sum(closed = 0) FROM steps").fetchone()
    vectors = db.execute("SELECT count(*) FROM vectors").fetchone()[0]
    db.close()
    return bool(steps > 0 and left == 0 and vectors == 0)


def test_a_site_that_was_put_back_by_a_snapshot_is_refused_until_somebody_says_so(tmp_path: Path) -> None:
    async def go() -> None:
        async with federation(tmp_path) as (opened, agents):
            first = await opened.submit(engine.study("odds"))
            await agents.until(lambda: agents.decision("padua", first) == "open")
            padua = agents.folders["padua"]
            await agents.stop("padua")
            shutil.copytree(padua.path, tmp_path / "snapshot")
            agents.serve("padua")
            await agents.approve(first)
            await opened.until(first, "finished")
            await opened.coordinator.studies.course.courier("padua").told(first)  # the results too
            await agents.stop("padua")

            shutil.rmtree(padua.path)
            shutil.copytree(tmp_path / "snapshot", padua.path)
            with pytest.raises(NetworkError) as caught:
                await agents.serve("padua")
            assert caught.value.rule == "rolled-back"
            assert "unisono site restore" in caught.value.remedy
            left = {"event": "site-left", "rule": "rolled-back", "site": "padua"}.items()
            await agents.until(lambda: any(left <= line.items() for line in opened.log() if "why" in line))
            assert not opened.coordinator.sites.line("padua").end.is_online

            await asyncio.to_thread(site.restore_in_place, padua, now())
            agents.serve("padua")
            await agents.until(lambda: agents.decision("padua", first) == "finished")  # it is told again
            second = await opened.submit(engine.study("odds", id="second"))
            await agents.approve(second)
            await opened.until(second, "finished")
            assert estimates(await opened.files(second), "odds") == embedded("odds")

    asyncio.run(go())


def test_a_coordinator_restored_from_the_middle_of_a_run_begins_it_anew_and_finishes(tmp_path: Path) -> None:
    async def go() -> None:
        async with federation(tmp_path) as (opened, agents):
            digest = await opened.submit(engine.study("effect"))
            await agents.approve(digest)
            await opened_sums(opened, digest, 2)
            invited = (await ok(opened.port, opened.operator, call="invite", role="site", name="late"))["token"]
            assert (
                rule(lambda: back_up(opened.home, tmp_path / "none")) == "one-coordinator"
            )  # it serves, and was not asked
            await ok(opened.port, opened.operator, call="snapshot")
            manifest = await asyncio.to_thread(back_up, opened.home, tmp_path / "centre.backup", copied=True)
            assert {"coordinator.db", "members.db", "ca.pem", "tls.key"} <= set(manifest.files)
            assert any(name.endswith("effect/journal.db") for name in manifest.files)
            assert not any("ca.key" in name or "token" in name for name in manifest.files)
            await opened_sums(opened, digest, 1)  # the sites close steps that the back-up does not know
            await opened.coordinator.stop()
            before = run_name(opened.home, digest)

            home = CoordinatorHome(tmp_path / "restored")
            centre.restore(tmp_path / "centre.backup", WORDS, home, now())
            assert not home.authority().can_issue
            invitations = Invitations(home.invitations)
            assert invitations.open_invitations(now()) == ()
            invitations.close()
            assert invited
            opened.home, opened.coordinator = home, Coordinator(home)
            await opened.coordinator.start()
            await opened.until(digest, "finished")
            assert estimates(await opened.files(digest), "effect") == embedded("effect")
            assert run_name(home, digest) != before == run_name(home, digest, "journal.db.closed-1")
            await agents.until(lambda: bool(agents.logged("padua", "coordinator-restored")))
            assert agents.logged("padua", "coordinator-rolled-back") == []

    asyncio.run(go())


def back_up(home: CoordinatorHome, to: Path, **how: Any) -> Manifest:
    return centre.back_up(home, to, WORDS, now(), memory_bits=QUICK_BITS, **how)


def test_a_coordinator_that_was_put_back_by_a_snapshot_ends_its_runs_clearly(tmp_path: Path) -> None:
    study = engine.study("effect")

    async def go() -> None:
        async with federation(tmp_path, heartbeat_s=0.2) as (opened, agents):
            digest = await opened.submit(study)
            await agents.approve(digest)
            await opened_sums(opened, digest, 2)
            await opened.coordinator.stop()
            shutil.copytree(opened.home.path, tmp_path / "snapshot")
            opened.coordinator = Coordinator(opened.home)
            await opened.coordinator.start()
            await opened.until(digest, "finished")
            heard = opened.coordinator.marks.own()
            await agents.until(lambda: all(remembers(agents.folders[name]) == heard for name in SITES))
            await opened.coordinator.stop()

            shutil.rmtree(opened.home.path)
            shutil.copytree(tmp_path / "snapshot", opened.home.path)
            opened.coordinator = Coordinator(opened.home)
            await opened.coordinator.start()
            failed = await opened.until(digest, "failed")
            assert "The coordinator's memory is older" in failed["why"]
            assert "unisono coordinator restore" in failed["why"]
            await agents.until(lambda: bool(agents.logged("padua", "coordinator-rolled-back")))
            await opened.coordinator.stop()

            centre.restore_in_place(opened.home, now())
            opened.coordinator = Coordinator(opened.home)
            await opened.coordinator.start()
            assert await opened.submit(study) == digest
            await opened.until(digest, "finished")
            assert estimates(await opened.files(digest), "effect") == embedded("effect")

    asyncio.run(go())


def remembers(folder: AgentFolder) -> Mark | None:
    """What a site remembers of its coordinator."""
    db = sqlite3.connect(folder.path / "state.db", timeout=10)
    row = db.execute("SELECT lineage, count FROM coordinator").fetchone()
    db.close()
    return None if row is None else Mark(*row)


# -- the commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noun", ["site", "coordinator"])
@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_every_command_shows_an_example(capsys: pytest.CaptureFixture[str], noun: str, verb: str) -> None:
    assert "Example" in command(capsys, noun, verb, "--help")


def test_a_coordinator_that_does_not_serve_is_backed_up_and_restored_by_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, file, words = tmp_path / "centre", tmp_path / "centre.backup", tmp_path / "words"
    command(capsys, "coordinator", "init", str(home), "--address", "127.0.0.1:9")
    words.write_text(f"{WORDS}\n")
    with_words = ("--passphrase-file", str(words))
    words.write_text("too short\n")
    assert "passphrase-length" in command(
        capsys, "coordinator", "backup", str(file), "--home", str(home), *with_words, code=1
    )
    words.write_text(f"{WORDS}\n")
    said = command(capsys, "coordinator", "backup", str(file), "--with-authority-key", "--home", str(home), *with_words)
    assert "Without its passphrase nobody can read it" in said
    assert "backup-kind" in command(
        capsys, "site", "restore", str(file), "--home", str(tmp_path / "s"), *with_words, code=1
    )
    assert "own-folder" in command(
        capsys, "coordinator", "restore", str(file), "--folder", str(home), *with_words, code=1
    )
    command(capsys, "coordinator", "restore", str(file), "--folder", str(tmp_path / "again"), *with_words)
    again = CoordinatorHome(tmp_path / "again")
    assert again.authority().can_issue
    assert again.credentials() == CoordinatorHome(home).credentials()
    assert again.settings() == CoordinatorHome(home).settings()
    assert "operator" in command(capsys, "coordinator", "members", "--home", str(again.path))
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_none_is_not_backed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words").write_text(f"{WORDS}\n")
    with_words = ("--passphrase-file", str(tmp_path / "words"), "--home", str(tmp_path / "none"))
    assert "not-joined" in command(capsys, "site", "backup", str(tmp_path / "b"), *with_words, code=1)
    assert "coordinator-folder" in command(capsys, "coordinator", "backup", str(tmp_path / "b"), *with_words, code=1)
    assert "not-joined" in command(capsys, "site", "restore", "--yes", "--home", str(tmp_path / "none"), code=1)
    assert not (tmp_path / "b").exists()


def command(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    heard = capsys.readouterr()
    assert stopped.value.code == code, heard.out + heard.err
    assert "Traceback" not in heard.out + heard.err
    return heard.out + heard.err
