"""The moments of a process's life at which it can be killed: before and after each message that it asks, is asked, answers or
writes to the line, and before and after whatever it writes down. They are wrapped around the service's functions from here."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from unisono.federation.journal import Journal
from unisono.network.agent import results
from unisono.network.agent.inbox import Inbox
from unisono.network.agent.requests import Requests
from unisono.network.coordinator.calls import Calls
from unisono.network.coordinator.running import StudyRun
from unisono.network.coordinator.sites import NetworkExchange, Sites
from unisono.network.coordinator.store import Store
from unisono.network.wire.outbox import Outbox
from unisono.network.wire.parcel import Incoming, Outgoing
from unisono.network.wire.unisono_pb2 import Frame
from unisono.site.audit import AuditLog
from unisono.site.state import SiteState
from unisono.site.worker import LocalWorker
from unisono.site.workers.process import ProcessWorker
from unisono.site.workers.running import Running


class Moments:
    """Counts them, writes them down, and dies at the one it was told."""

    def __init__(self, path: Path, fatal: str, times: int, with_: int = signal.SIGKILL) -> None:
        """path: where they are written down. fatal, times: which one, and the how manieth of it; "" for none. with_: of what."""
        self._with = with_
        self._fatal = fatal, times
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.reach("started")

    def reach(self, moment: str) -> None:
        with self._lock:
            self._counts[moment] += 1
            os.write(self._file, f"{moment}\n".encode())
            if (moment, self._counts[moment]) == self._fatal:
                os.kill(os.getpid(), self._with)

    def around(self, owner: Any, name: str, named: Callable[..., str]) -> None:
        """Two moments, before and after a function. named: what it is called with -> the moments' name, or "" for none."""
        plain = getattr(owner, name)

        @functools.wraps(plain)
        async def later(*given: Any, **more: Any) -> Any:
            what = named(*given, **more)
            self._edge("before", what)
            found = await plain(*given, **more)
            self._edge("after", what)
            return found

        @functools.wraps(plain)
        def now(*given: Any, **more: Any) -> Any:
            what = named(*given, **more)
            self._edge("before", what)
            found = plain(*given, **more)
            self._edge("after", what)
            return found

        setattr(owner, name, later if inspect.iscoroutinefunction(plain) else now)

    def _edge(self, edge: str, what: str) -> None:
        if what:
            self.reach(f"{edge} {what}")


# -- which moments ------------------------------------------------------------------------------------------------------


def message_of(tree: Any) -> str:
    """What a tree on the line is called: a message's phase, what else the coordinator tells, or an answer's kind."""
    if not isinstance(tree, dict):
        return "other"
    if tree.get("to") == "exchange":
        return str(tree["message"]["kind"])
    return str(tree.get("to") or tree.get("kind") or "other")


def on_the_line(moments: Moments) -> None:
    """``sent X``: the last byte of a message was written to the connection; ``half X``: half of a large one has come."""
    make, begin, send, frames, append = (
        Outgoing.__init__,
        Outbox.__init__,
        Outbox.send,
        Outbox.frames,
        Incoming.append,
    )

    def begun(self: Any) -> None:
        begin(self)
        self.parcels = {}

    def made(self: Any, tree: Any) -> None:
        make(self, tree)
        self.message = message_of(tree)

    def sending(self: Any, number: int, parcel: Any, offset: int = 0) -> None:
        self.parcels[number] = parcel
        send(self, number, parcel, offset)

    async def written(self: Any) -> AsyncIterator[Frame]:
        async for frame in frames(self):
            yield frame  # it is written when the next one is wanted
            of = frame.begin if frame.WhichOneof("kind") == "begin" else frame.chunk
            parcel = self.parcels.get(of.id)
            if parcel is not None and getattr(of, "offset", 0) + len(of.data) == parcel.size:
                moments.reach(f"sent {parcel.message}")

    def coming(self: Any, offset: int, data: bytes) -> None:
        append(self, offset, data)
        if offset < self.size / 2 <= self.received < self.size:
            moments.reach("half of a large message")

    for owner, name, wrapped in (
        (Outgoing, "__init__", made),
        (Outbox, "__init__", begun),
        (Outbox, "send", sending),
        (Outbox, "frames", written),
        (Incoming, "append", coming),
    ):
        setattr(owner, name, wrapped)


def at_the_coordinator(moments: Moments) -> None:
    moments.around(NetworkExchange, "request", lambda _, __, message: f"ask {message.phase}")
    moments.around(
        Sites, "ask", lambda _, __, tree: "" if tree["to"] in ("exchange", "roster") else f"tell {tree['to']}"
    )
    moments.around(
        Calls, "answer", lambda _, __, tree: f"call {tree['call']}" if tree["call"] in ("submit", "approve") else ""
    )
    moments.around(Journal, "write", lambda _, kind, *__, **___: f"journal {kind}")
    moments.around(Store, "submit", lambda *_: "store submit")
    moments.around(Store, "decide", lambda *_: "store decide")
    moments.around(Store, "move", lambda _, __, state, *___, **____: f"store {state}")
    moments.around(Store, "delivered", lambda _, delivery: f"store delivered {delivery.kind}")
    moments.around(StudyRun, "_write", lambda *_: "results")


def at_a_site(moments: Moments) -> None:
    moments.around(Requests, "__call__", lambda _, tree: "" if tree["to"] == "roster" else f"answer {message_of(tree)}")
    for name in ("vector", "survivors", "answer", "circle", "cohort"):
        moments.around(SiteState, f"remember_{name}", lambda *_, name=name: f"remember {name}")
    moments.around(SiteState, "close_step", lambda *_: "close step")
    moments.around(AuditLog, "write", lambda _, __, event, **___: f"audit {event}")
    for name in ("offer", "told", "progress"):
        moments.around(Inbox, name, lambda *_, name=name: f"inbox {name}")
    moments.around(results, "keep", lambda *_: "keep results")
    for kind in (LocalWorker, ProcessWorker):
        moments.around(kind, "contribution", lambda *_: "compute")
    exchange = Running.exchange

    def asked(self: Any, frame: bytes, seconds: float) -> bytes:
        """``computing``: the worker process has the question, and no answer was read."""
        if b"contribution" in frame:
            os.write(self._stdin, frame)
            moments.reach(f"worker {self.pid}")
            moments.reach("computing")
            return exchange(self, b"", seconds)
        return exchange(self, frame, seconds)

    Running.exchange = asked  # type: ignore[method-assign]
