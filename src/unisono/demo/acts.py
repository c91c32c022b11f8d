"""The acts that every demo over a network has, by the commands that people type: the coordinator is made and everybody invited, each
joins and names its data, the hospitals serve, the researcher asks, the stewards compare the word-code and approve.
"""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from unisono.demo.stage import Listener, Service, Stage, failed
from unisono.errors import StorageError
from unisono.federation.storage import storage, write_whole
from unisono.network.agent.folder import AgentFolder
from unisono.site.workers.limits import check_platform

COORDINATOR, RESEARCHER = "centre", "rossi"
GRACE_S = 3
"""That a lost link has to come back before the study waits for the hospital; short, for a demo."""
WAIT_S = 60.0
_SHEET_LINES = 16
"""Of the table of everything that leaves; the whole of it is in the log."""


@dataclass
class Acts:
    """One demo. data: each hospital's file and mapping (None where it needs none), within the stage's folder. study: the study's
    id; its file is ``study.yaml``. dataset: what the hospitals call their data."""

    stage: Stage
    said: Listener
    data: Mapping[str, tuple[str, str | None]]
    study: str
    dataset: str
    file: str = "study.yaml"
    hospitals: dict[str, Service] = field(default_factory=dict)

    def found(self) -> None:
        """The operator makes the coordinator and invites everybody."""
        stage, port = self.stage, str(free_port())
        address = ("--address", f"localhost:{port}", "--grace", str(GRACE_S))
        stage.run("operator", "coordinator", "init", COORDINATOR, *address)
        service = stage.serve("operator", "coordinator", "serve", "--home", COORDINATOR)
        self.heard(service, "listening on")
        self.said("operator", f"the coordinator is listening on 127.0.0.1:{port}")
        roles = [(name, "site") for name in self.data] + [(RESEARCHER, "researcher")]
        stage.together(
            partial(
                stage.run, "operator", "coordinator", "invite", name, "--role", role, "--home", COORDINATOR, secret=True
            )
            for name, role in roles
        )

    def join(self) -> None:
        """Each makes its own keys, and names its data; then the hospitals dial the coordinator."""
        stage = self.stage
        works = [partial(stage.run, n, "site", "join", "-", "--home", n, stdin=_token(n)) for n in self.data]
        works.append(
            partial(stage.run, RESEARCHER, "study", "join", "-", "--home", RESEARCHER, stdin=_token(RESEARCHER))
        )
        stage.together(works)
        stage.together(partial(self._add_data, name) for name in self.data)
        self.hospitals = {name: self.serve(name) for name in self.data}
        for service in self.hospitals.values():
            self.heard(service, "connected")
        self.said("", "Every hospital has dialled the coordinator. Nothing listens in a hospital.")

    def serve(self, name: str) -> Service:
        """A hospital's agent."""
        return self.stage.serve(name, "site", "serve", "--home", name)

    def ask(self) -> Service:
        """The researcher signs, submits and watches; the stewards are offered the study, and one of them reads what leaves."""
        stage = self.stage
        stage.run(RESEARCHER, "study", "sign", self.file, "--home", RESEARCHER)
        sites = ",".join(self.data)
        stage.run(RESEARCHER, "study", "submit", self.file, "--sites", sites, "--home", RESEARCHER)
        for service in self.hospitals.values():
            self.heard(service, "waits for the data steward")
        first = next(iter(self.hospitals))
        watch = stage.serve(RESEARCHER, "study", "watch", self.study, "--home", RESEARCHER, heard=self.said)
        for line in _shortened(stage.run(first, "site", "show", self.study, "--home", first).splitlines(), first):
            self.said(first, line)
        self.heard(watch, self.study)
        return watch

    def approve(self) -> None:
        """A call among all stewards, in which each reads out the word-code on its own screen and compares what the next one reads;
        then each approves."""
        stage, names = self.stage, list(self.hospitals)
        seen = f"has {len(names)} hospitals, word-code "
        for service in self.hospitals.values():
            self.heard(service, seen)

        def verify(name: str, reader: str) -> None:
            words = self.hospitals[reader].line(seen).split(seen)[1]
            others = [other for other in names if other != name]
            told = ("--study", self.study, "--how", "a call of all stewards", "--words", words)
            stage.run(name, "site", "verify", *others, *told, "--home", name)

        stage.together(
            partial(verify, name, reader) for name, reader in zip(names, [*names[1:], names[0]], strict=True)
        )
        self.said(
            "",
            "The stewards have read the word-code to each other by telephone: no hospital was invented, no key exchanged.",
        )
        stage.together(
            partial(stage.run, name, "site", "approve", self.study, "--yes", "--home", name) for name in names
        )

    def result(self, watch: Service, folder: Path, seconds: float = WAIT_S) -> str:
        """Until the study is finished, and its results are with everybody; what `unisono study result` printed."""
        if watch.wait(seconds) != 0:
            raise failed(RESEARCHER, "saw no finished study", self.stage.logs / f"{RESEARCHER}.log")
        for service in self.hospitals.values():
            self.heard(service, "results came")
        self.said("", "The results went to the hospitals too.")
        return self.stage.run(RESEARCHER, "study", "result", self.study, "--out", str(folder), "--home", RESEARCHER)

    def heard(self, service: Service, text: str) -> None:
        """Wait until a service has said this."""
        if not service.wait_for(text, WAIT_S):
            raise failed(service.who, f"did not get as far as “{text}”", self.stage.logs / f"{service.who}.log")

    def _add_data(self, name: str) -> None:
        data, mapping = self.data[name]
        told = ("--mapping", mapping) if mapping is not None else ()
        self.stage.run(name, "site", "data", "add", self.dataset, data, *told, "--home", name)


@dataclass(frozen=True)
class OwnFolder:
    """A folder that holds a demo and nothing else. mark: the file that says so; made_by: the command."""

    out: Path
    mark: str
    made_by: str

    def begin(self, hospitals: Mapping[str, object], *, fresh: bool) -> None:
        """An empty folder of the demo's own. `StorageError` (``own-folder``) if there is something in it. An earlier demo's files
        are removed if it did not come to its end, and with `fresh`."""
        check_platform()
        for name in hospitals:
            AgentFolder(self.out / name).socket  # noqa: B018  (raises if the path is too long for a socket)
        with storage(self.out, "demo folder"):
            mark = self._path.read_bytes() if self._path.exists() else b""
            ours = bool(mark)
            if self.out.exists() and any(self.out.iterdir()) and not (ours and (fresh or mark != self._finished)):
                raise StorageError(
                    f"{self.out} holds {'an earlier demo' if ours else 'files that are not a demo of the network'}.",
                    rule="own-folder",
                    remedy="Begin it anew with --fresh." if ours else "Name a new folder with --out.",
                )
            if ours:
                shutil.rmtree(self.out)
            self.out.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, f"made by: {self.made_by}\n".encode(), "demo folder")

    def finish(self) -> None:
        """The demo came to its end."""
        write_whole(self._path, self._finished, "demo folder")

    @property
    def _path(self) -> Path:
        return self.out / self.mark

    @property
    def _finished(self) -> bytes:
        return f"made by: {self.made_by}; finished\n".encode()


@contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, with all its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _shortened(sheet: list[str], who: str) -> list[str]:
    """The sheet with the beginning of its longest table."""
    heads = [k for k, line in enumerate(sheet) if line and not line.startswith(" ")]
    first = next((k for k in heads if sheet[k].startswith("What leaves")), 0)
    last = next((k for k in heads if sheet[k].startswith("masked")), first)
    cut = first + _SHEET_LINES
    if last <= cut:
        return sheet
    return [*sheet[:cut], f"  ... and {last - cut} more lines of this table: logs/{who}.log", *sheet[last:]]


def _token(name: str) -> Path:
    return Path(COORDINATOR) / "tokens" / f"{name}.token"
