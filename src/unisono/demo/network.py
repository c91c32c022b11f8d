"""The main demo over a real network: a coordinator and four hospitals as processes of their own on loopback, mutual TLS between
them, everything by the commands that people would type; one hospital is killed in the middle and started again.

The answer is compared with the same study in one process (bit for bit) and with the pooled fit.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from unisono.api import run as run_study
from unisono.demo import lung
from unisono.demo.pooled import against_pooled
from unisono.demo.stage import Listener, Service, Stage, failed
from unisono.engines.embedded.run import SiteData
from unisono.errors import NetworkError, StorageError
from unisono.federation.storage import storage, write_whole
from unisono.network.agent.folder import AgentFolder
from unisono.report.comparison import Comparison
from unisono.report.delivered import Delivered, read
from unisono.site.workers.limits import check_platform

COORDINATOR, RESEARCHER, KILLED = "centre", "rossi", "turin"
STUDY = "lung-survival"
RESULTS, EMBEDDED = Path("results"), Path("embedded")
GRACE_S = 3
"""That a lost link has to come back before the study waits for the hospital; short, for a demo."""
_MARK = ".unisono-demo-network"
_BEGUN, _FINISHED = b"made by: unisono demo --network\n", b"made by: unisono demo --network; finished\n"
_SHEET_LINES = 16
"""Of the table of everything that leaves; the whole of it is in the log."""
_WAIT_S = 60.0
_MIDDLE = "curves (kaplan-meier) begins"


@dataclass(frozen=True)
class Finished:
    """What the demo ends with. identical: the analyses, whose estimates are those of the embedded run bit for bit."""

    delivered: Delivered
    comparison: Comparison
    identical: tuple[str, ...]


def begin(out: Path, *, fresh: bool) -> None:
    """An empty folder of the demo's own. `StorageError` (``own-folder``) if there is something in it. An earlier demo's files are
    removed if it did not come to its end, and with `fresh`."""
    check_platform()
    for name in lung.HOSPITALS:
        AgentFolder(out / name).socket  # noqa: B018  (raises if the path is too long for a socket)
    with storage(out, "demo folder"):
        mark = (out / _MARK).read_bytes() if (out / _MARK).exists() else b""
        ours = bool(mark)
        if out.exists() and any(out.iterdir()) and not (ours and (fresh or mark != _FINISHED)):
            raise StorageError(
                f"{out} holds {'an earlier demo' if ours else 'files that are not a demo of the network'}.",
                rule="own-folder",
                remedy="Begin it anew with --fresh." if ours else "Name a new folder with --out.",
            )
        if ours:
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
    write_whole(out / _MARK, _BEGUN, "demo folder")


def play(out: Path, shown: Listener, said: Listener) -> str:
    """The whole story, up to the results in ``out/results``. shown: told each command; said: told what matters of what it said.
    What `unisono study result` printed. `NetworkError` (``demo-step``) if a step fails; every process has ended then."""
    written = lung.write(out)
    with _terminated(), Stage(out, shown) as stage:
        _found(stage, said)
        _join(stage)
        hospitals = {name: _serve(stage, name) for name in written.data}
        for service in hospitals.values():
            _heard(stage, service, "connected")
        said("", "Every hospital has dialled the coordinator. Nothing listens in a hospital.")
        watch = _ask(stage, hospitals, said)
        _verify(stage, hospitals)
        said(
            "",
            "The stewards have read the word-code to each other by telephone: no hospital was invented, no key exchanged.",
        )
        stage.together(
            partial(stage.run, name, "site", "approve", STUDY, "--yes", "--home", name) for name in hospitals
        )
        hospitals[KILLED] = _kill(stage, watch, hospitals[KILLED], said)
        if watch.wait(_WAIT_S) != 0:
            raise failed(RESEARCHER, "saw no finished study", stage.logs / f"{RESEARCHER}.log")
        for service in hospitals.values():
            _heard(stage, service, "results came")
        said("", "The results went to the hospitals too.")
        return stage.run(RESEARCHER, "study", "result", STUDY, "--out", str(RESULTS), "--home", RESEARCHER)


def compare(out: Path) -> Finished:
    """The same study in one process, into ``out/embedded``; then all three beside each other. `NetworkError` (``demo-equal``) if
    an estimate differs from the embedded run's in a single bit."""
    data = {
        path.name.split(".")[0]: SiteData(path, path.with_name(f"{path.name.split('.')[0]}.mapping.yaml"))
        for path in sorted((out / "data").iterdir())
        if not path.name.endswith(".mapping.yaml")
    }
    answered = run_study(out / "study.yaml", data, out=out / EMBEDDED)
    delivered = read(out / RESULTS)
    for name in delivered.study.analyses:
        here, there = (
            json.loads((out / folder / name / "result.json").read_text("utf-8")) for folder in (EMBEDDED, RESULTS)
        )
        if here["estimates"] != there["estimates"]:
            raise NetworkError(
                f"The estimates of {name!r} over the network are not those of the embedded run.",
                rule="demo-equal",
                remedy=f"This must not be. Please report it, with {out / RESULTS} and {out / EMBEDDED}.",
            )
    write_whole(out / _MARK, _FINISHED, "demo folder")
    results = {name: o.answer.result for name, o in delivered.outcomes.items() if o.answer is not None}
    comparison = against_pooled(results, answered.completed.snapshots)
    return Finished(delivered, comparison, tuple(delivered.study.analyses))


# -- the acts -----------------------------------------------------------------------------------------------------------


def _found(stage: Stage, said: Listener) -> None:
    """The operator makes the coordinator and invites everybody."""
    port = str(_free_port())
    stage.run("operator", "coordinator", "init", COORDINATOR, "--address", f"localhost:{port}", "--grace", str(GRACE_S))
    service = stage.serve("operator", "coordinator", "serve", "--home", COORDINATOR)
    _heard(stage, service, "listening on")
    said("operator", f"the coordinator is listening on 127.0.0.1:{port}")
    roles = [(name, "site") for name in lung.HOSPITALS] + [(RESEARCHER, "researcher")]
    stage.together(
        partial(
            stage.run, "operator", "coordinator", "invite", name, "--role", role, "--home", COORDINATOR, secret=True
        )
        for name, role in roles
    )


def _join(stage: Stage) -> None:
    """Each makes its own keys, and names its data."""
    works = [
        partial(stage.run, name, "site", "join", "-", "--home", name, stdin=_token(name)) for name in lung.HOSPITALS
    ]
    works.append(partial(stage.run, RESEARCHER, "study", "join", "-", "--home", RESEARCHER, stdin=_token(RESEARCHER)))
    stage.together(works)
    stage.together(partial(_add_data, stage, name) for name in lung.HOSPITALS)


def _add_data(stage: Stage, name: str) -> None:
    files = sorted((stage.folder / "data").glob(f"{name}.*"))
    data = next(path for path in files if not path.name.endswith(".mapping.yaml"))
    mapping = f"data/{name}.mapping.yaml"
    stage.run(name, "site", "data", "add", "lung", f"data/{data.name}", "--mapping", mapping, "--home", name)


def _serve(stage: Stage, name: str) -> Service:
    return stage.serve(name, "site", "serve", "--home", name)


def _ask(stage: Stage, hospitals: dict[str, Service], said: Listener) -> Service:
    """The researcher signs, submits and watches; the stewards are offered the study, and one of them reads what leaves."""
    stage.run(RESEARCHER, "study", "sign", "study.yaml", "--home", RESEARCHER)
    sites = ",".join(lung.HOSPITALS)
    stage.run(RESEARCHER, "study", "submit", "study.yaml", "--sites", sites, "--home", RESEARCHER)
    for service in hospitals.values():
        _heard(stage, service, "waits for the data steward")
    first = next(iter(hospitals))
    watch = stage.serve(RESEARCHER, "study", "watch", STUDY, "--home", RESEARCHER, heard=said)
    for line in _shortened(stage.run(first, "site", "show", STUDY, "--home", first).splitlines(), first):
        said(first, line)
    _heard(stage, watch, STUDY)
    return watch


def _verify(stage: Stage, hospitals: dict[str, Service]) -> None:
    """A call among all stewards: each reads out the word-code on its own screen, and each compares what the next one reads."""
    seen = f"has {len(hospitals)} hospitals, word-code "
    names = list(hospitals)
    for service in hospitals.values():
        _heard(stage, service, seen)

    def verify(name: str, reader: str) -> None:
        words = hospitals[reader].line(seen).split(seen)[1]
        others = [other for other in names if other != name]
        told = ("--study", STUDY, "--how", "a call of all stewards", "--words", words)
        stage.run(name, "site", "verify", *others, *told, "--home", name)

    stage.together(partial(verify, name, reader) for name, reader in zip(names, [*names[1:], names[0]], strict=True))


def _shortened(sheet: list[str], who: str) -> list[str]:
    """The sheet with the beginning of its longest table."""
    heads = [k for k, line in enumerate(sheet) if line and not line.startswith(" ")]
    first = next((k for k in heads if sheet[k].startswith("What leaves")), 0)
    last = next((k for k in heads if sheet[k].startswith("masked")), first)
    cut = first + _SHEET_LINES
    if last <= cut:
        return sheet
    return [*sheet[:cut], f"  ... and {last - cut} more lines of this table: logs/{who}.log", *sheet[last:]]


def _kill(stage: Stage, watch: Service, hospital: Service, said: Listener) -> Service:
    """In the middle of the study: power off at one hospital, and on again when the study waits for it."""
    _heard(stage, watch, _MIDDLE)
    said("", f"kill -9: the machine of {KILLED} is off, in the middle of the study. The others wait.")
    hospital.kill()
    _heard(stage, watch, f"waiting for {KILLED}")
    return _serve(stage, KILLED)


def _heard(stage: Stage, service: Service, text: str) -> None:
    if not service.wait_for(text, _WAIT_S):
        raise failed(service.who, f"did not get as far as “{text}”", stage.logs / f"{service.who}.log")


def _token(name: str) -> Path:
    return Path(COORDINATOR) / "tokens" / f"{name}.token"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _terminated() -> Iterator[None]:
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
