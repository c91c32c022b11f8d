"""A coordinator and three hospitals as processes of their own (`tests.support.killing`) with mutual TLS on loopback, a researcher
and stewards in the test's process; whoever is killed is started again; and what must hold when a study is over."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import engine, steward
from tests.support.killing import MARK, MOMENTS, Stable, Start
from tests.support.network import coordinator_home, credentials, now
from unisono.errors import NetworkError
from unisono.network import pki
from unisono.network.agent import datasets
from unisono.network.agent.folder import AgentFolder, Settings
from unisono.network.agent.inbox import Inbox
from unisono.network.agent.steward import Desk
from unisono.network.researcher import Client, PersonFolder
from unisono.network.signing import StudySignature
from unisono.study.document import Study

SITES = engine.SITES[:3]
"""Three with one colluder: none to spare, so that every step needs every site."""
CENTRE = "centre"
_LOOK_S = 0.05
_PATIENCE_S = 120.0
"""Generous: the machine may be busy."""


def asked(number: int, *analyses: str, threat: str = "malicious") -> Study:
    """A study that was not asked before."""
    return engine.study(*analyses, id=f"lung-{number}", protection={"threat": threat})


@dataclass(frozen=True)
class At:
    """The moment at which a process is to be killed: the times-th of its life."""

    moment: str
    times: int = 1

    def __str__(self) -> str:
        return f"{self.moment} ({self.times})"


class Drill:
    """Kill one process at one moment, the next one of it at the next, and so on; then let it live."""

    def __init__(self, who: str, moments: Iterable[At]) -> None:
        self.who = who
        self.left = deque(moments)
        self.done: list[At] = []

    @property
    def next(self) -> At | None:
        return self.left[0] if self.left else None


class Ward:
    """All of them. A context manager: at its end no process is left."""

    def __init__(
        self,
        path: Path,
        *,
        local: bool = True,
        watched: bool = False,
        frames: Mapping[str, Any] | None = None,
        training: bool = False,
        **settings: Any,
    ) -> None:
        """path: an empty folder, short enough for sockets. local: the sites' data and method code are in their own process.
        watched: every process writes its moments down. frames: the patients of each site (None: of the lung trial). training:
        networks are trained. settings: of the coordinator."""
        self.path = path
        self.sites: tuple[str, ...] = SITES if frames is None else tuple(sorted(frames))
        self.local, self.watched = local, watched
        self.apart: set[str] = set()
        """Sites whose data and method code are in worker processes, as in a hospital."""
        self.at: dict[str, str] = {}
        """Sites that are in a folder of another name than theirs."""
        self.pauses: dict[str, float] = {}
        """Seconds by which a site's contributions are held up."""
        self.pids: dict[str, int] = {}
        self.client: Client = None  # type: ignore[assignment]
        self._drill = Drill("", ())
        self._stable = Stable(str(path), training=training)
        port = _free_port()
        given = {"heartbeat_s": 5.0, "grace_s": 10.0, "listen": f"127.0.0.1:{port}", **settings}
        self.home = coordinator_home(path / CENTRE, **given)
        self.port = port
        (path / "data").mkdir()
        for name in self.sites:
            folder, data = self.folder(name), path / "data" / f"{name}.csv"
            (engine.frame(name) if frames is None else frames[name]).to_csv(data, index=False)
            folder.home.make()
            self._join(name, "site", folder.path, folder.home.identity())
            datasets.add(folder, "patients", data, None, now())
        person = PersonFolder(path / "rossi")
        person.make()
        self.identity = person.identity()
        self._join("rossi", "researcher", person.path, self.identity)
        self.person = person
        self._dial()

    def _dial(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client = Client(self.person)

    def _join(self, name: str, role: pki.Role, folder: Path, identity: Any) -> None:
        """As joining would leave the folder."""
        given = credentials(self.home, role, name, member=identity)
        given.save(folder / "tls")
        mark = pki.fingerprint(pki.certificate_of(given.ca_pem))
        settings = Settings(name=name, address=f"127.0.0.1:{self.port}", ca_fingerprint=mark)
        (folder / "coordinator.json").write_text(settings.model_dump_json(), "utf-8")

    def __enter__(self) -> Ward:
        self._stable.__enter__()
        for who in (CENTRE, *self.sites):
            self.start(who)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._stable.__exit__()

    # -- processes ----------------------------------------------------------------------------------------------------

    def folder(self, site: str) -> AgentFolder:
        """A site's."""
        return AgentFolder(self.path / self.at.get(site, site))

    def start(self, who: str, at: At | None = None, with_: int = signal.SIGKILL) -> None:
        """Start a process, which sends itself a signal at a moment, or lives."""
        what = "coordinator" if who == CENTRE else "site"
        moment: dict[str, Any] = {} if at is None else {"moment": at.moment, "times": at.times, "with_": int(with_)}
        local = self.local and who not in self.apart
        rest: dict[str, Any] = {"pause_s": self.pauses.get(who, 0.0), "local": local, "watched": self.watched}
        self.pids[who] = self._stable.start(Start(what, str(self.path / who), **rest, **moment))

    def kill(self, who: str, with_: int = signal.SIGKILL) -> None:
        """Kill a process from outside, and wait for its end."""
        self._tend()
        with contextlib.suppress(ProcessLookupError):  # at this moment it has killed itself
            os.kill(self.pids[who], with_)
        self._stable.ended(self.pids[who])

    def drill(self, drill: Drill) -> None:
        """From now on this one is killed, again and again."""
        self.kill(drill.who)
        self._drill = drill
        self.start(drill.who, drill.next)

    def linger(self, seconds: float) -> None:
        """Some moments come when the results are everywhere already."""
        until = time.monotonic() + seconds
        while self._drill.left and time.monotonic() < until:
            self._stable.change(_LOOK_S)
            self._tend()

    def _tend(self) -> None:
        """Whoever died is started again; only one may die, and only as it was told."""
        for who, pid in list(self.pids.items()):
            status = self._stable.status(pid)
            if status is None:
                continue
            drill = self._drill
            expected = who == drill.who and drill.left and status == -signal.SIGKILL
            assert expected, f"{who} ended with {status}: {(self.path / who / 'process.log').read_text()}"
            drill.done.append(drill.left.popleft())
            self.start(who, drill.next)

    def until(self, what: str, true: Callable[[], Any], seconds: float = _PATIENCE_S) -> Any:
        """Until something is so; what it gives. What cannot be asked now is asked again."""
        until = time.monotonic() + seconds
        while True:
            self._tend()
            try:
                if found := true():
                    return found
            except NetworkError as error:
                assert error.rule in ("unreachable", "coordinator-stopping", "agent-silent", "no-results"), error
                self._dial()  # gRPC would wait longer and longer before it tries again
            assert time.monotonic() < until, (
                f"{what} did not come about within {seconds:g} s; armed: {self._drill.next}"
            )
            self._stable.change(_LOOK_S)

    def came(self, who: str, moment: str) -> int:
        """How often a process came to a moment, in all its lives."""
        return self.moments(who).count(moment)

    def moments(self, who: str) -> list[str]:
        """All that a process came to."""
        path = self.path / who / MOMENTS
        return path.read_text("utf-8").splitlines() if path.exists() else []

    # -- people -------------------------------------------------------------------------------------------------------

    def answered(self, study: Study, sites: Sequence[str] = ()) -> dict[str, bytes]:
        """Ask a study, from its submission to its results: the files of them, when every site has them too. sites: all if empty."""
        self.submit(study, sites)
        for site in sites or self.sites:
            self.approve(site, study)
        return self.finished(study, sites)

    def submit(self, study: Study, sites: Sequence[str] = ()) -> None:
        """As `unisono study submit`."""
        signature = StudySignature.make(study, "rossi", self.identity).to_tree()
        body = {"document": study.model_dump_json(), "signature": signature, "sites": list(sites or self.sites)}
        self.until("submission", lambda: self.client.call("submit", **body))

    def approve(self, site: str, study: Study) -> None:
        """As `unisono site approve`, as soon as the study is there."""
        folder = self.folder(site)

        def decided() -> bool:
            desk = Desk(folder)
            try:
                entry = desk.inbox.get(study.digest())
                if entry is not None and entry.decision == "open":
                    steward.approve(desk, study.digest(), now())
                return entry is not None
            finally:
                desk.close()

        self.until(f"approval by {site}", decided)

    def finished(self, study: Study, sites: Sequence[str] = ()) -> dict[str, bytes]:
        """The results, when researcher and sites have them."""
        digest = study.digest()

        def over() -> bool:
            state = self.client.call("status", study=digest)
            assert state["state"] not in ("failed", "refused", "cancelled", "withdrawn"), state
            return bool(state["state"] == "finished")

        self.until("the end of the study", over)
        files: dict[str, bytes] = self.until("results", lambda: self._fetched(digest))
        for site in sites or self.sites:
            self.until(f"results at {site}", lambda site=site: self._told(site, study, files))
            for name, content in files.items():
                assert (self.folder(site).path / "results" / study.id / name).read_bytes() == content
        return files

    def _fetched(self, digest: str) -> dict[str, bytes]:
        """As `unisono study result`."""
        listed = self.client.files(digest).items()
        return {name: bytes(self.client.file(digest, name, sha256)) for name, sha256 in listed}

    def _told(self, site: str, study: Study, files: Iterable[str]) -> bool:
        folder = self.folder(site).path / "results" / study.id
        inbox = Inbox(self.folder(site).inbox)
        try:
            entry = inbox.get(study.digest())
            assert entry is not None
            return entry.state == "finished" and all((folder / name).exists() for name in files)
        finally:
            inbox.close()

    def left(self) -> list[int]:
        """Processes that belong to this ward."""
        mark = f"{MARK}={self.path}".encode()
        return [pid for pid, environment in _environments() if mark in environment.split(b"\0")]


def _environments() -> list[tuple[int, bytes]]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                state = (process / "stat").read_text().rpartition(") ")[2][0]
                if state != "Z":
                    found.append((int(process.name), (process / "environ").read_bytes()))
            except OSError:
                continue
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def counted(moments: Iterable[str]) -> list[At]:
    """Every moment of a life with its number, in the order in which they came."""
    counts: Counter[str] = Counter()
    found = []
    for moment in moments:
        counts[moment] += 1
        found.append(At(moment, counts[moment]))
    return found
