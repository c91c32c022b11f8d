"""The sites as the coordinator sees them: each one's end of the link, and for how long it has been away; and the exchange that
runs of studies use, from threads and event loops of their own."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from unisono.errors import NetworkError, ProtocolError, UnisonoError
from unisono.federation.exchange import LinkLost, Message, Plain, SlotLost, run_of
from unisono.federation.lineage import Mark
from unisono.federation.tree import Tree
from unisono.network.link import CoordinatorEnd, Restarted
from unisono.network.marks import from_tree
from unisono.network.wire.messages import answer_to, request_tree
from unisono.network.wire.parcel import Outgoing

T = TypeVar("T")
_LONGEST = 1000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Connection(Protocol):
    """A site's live stream, as far as its line needs to know (`unisono.network.coordinator.stream`)."""

    fingerprint: str
    session: str

    def close(self, error: UnisonoError) -> None:
        """Say good-bye, and why."""
        ...

    def leave(self) -> None:
        """Let go of the link at once: another stream takes its place."""
        ...


@dataclass
class Line:
    """One site. about: what it said of itself with its hello; lost: away for longer than the time of grace. seen: when it came, or
    was there last; expires: its certificate; skew_s: by how much its clock was ahead when it came."""

    name: str
    end: CoordinatorEnd
    stream: Connection | None = None
    about: dict[str, Any] = field(default_factory=dict)
    lost: bool = False
    timer: asyncio.TimerHandle | None = None
    seen: datetime | None = None
    expires: datetime | None = None
    skew_s: float | None = None

    def to_tree(self) -> dict[str, Any]:
        """For the operator's board."""
        return {
            "online": self.end.is_online,
            "about": self.about,
            "seen": None if self.seen is None else self.seen.isoformat(timespec="seconds"),
            "expires": None if self.expires is None else self.expires.isoformat(timespec="seconds"),
            "clock_skew_s": self.skew_s,
        }

    @property
    def methods(self) -> dict[str, Any]:
        """Versions by method, as the site said; nothing while it is away, since it may come back with others."""
        said = self.about.get("methods") if self.end.is_online else None
        return said if isinstance(said, dict) else {}

    @property
    def packages(self) -> dict[str, Any] | None:
        """Packages of methods and models by name, as the site said; None while it is away."""
        said = self.about.get("packages") if self.end.is_online else None
        return said if isinstance(said, dict) else ({} if self.end.is_online else None)


class Sites:
    """Every site's line. All of it lives in the service's event loop.

    grace_s: after so long without a link, whoever waits for an answer is told that it is lost; until then the link may
    break and come back unnoticed. changed: called with a site's name when it comes or goes.
    """

    def __init__(self, grace_s: float, message_bytes: int, changed: Callable[[str], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.grace_s = grace_s
        self._limit = message_bytes
        self._changed = changed
        self.heard: Callable[[str, Mark], None] = lambda *_: None
        """Called with a site's mark, which comes beside an answer."""
        self._lines: dict[str, Line] = {}
        self._before = beginning()

    def line(self, name: str) -> Line:
        """The line of a site; a site that was never here has the time of grace to come."""
        if name not in self._lines:
            self._lines[name] = Line(name, CoordinatorEnd(self._limit, self._before))
            self._wait(self._lines[name])
        return self._lines[name]

    def lines(self) -> list[Line]:
        """All, by name."""
        return [self._lines[name] for name in sorted(self._lines)]

    def is_online(self, name: str) -> bool:
        """Whether a site has a live link; from any thread."""
        line = self._lines.get(name)
        return line is not None and line.end.is_online

    def arrived(self, line: Line, stream: Connection) -> None:
        """A stream is the site's link from now on."""
        line.stream, line.lost = stream, False
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        self._changed(line.name)

    def left(self, line: Line, stream: Connection) -> None:
        """A stream ended."""
        if line.stream is stream:
            line.stream = None
            self._wait(line)
            self._changed(line.name)

    def _wait(self, line: Line) -> None:
        if line.timer is None:
            line.timer = self.loop.call_later(self.grace_s, self._give_up, line)

    def _give_up(self, line: Line) -> None:
        line.timer, line.lost = None, True
        line.end.give_up()

    def close(self) -> None:
        """Whoever still waits is told that nothing comes."""
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
                line.timer = None
            line.lost = True
            line.end.give_up()

    async def ask(self, name: str, tree: Tree | Outgoing) -> dict[str, Any]:
        """Send a tree (packed or not) and wait for the answer. `Restarted` if the site's process is another one meanwhile, or it is away for
        longer than the time of grace; `ProtocolError` if the answer is none; what the site says in refusal is raised."""
        line = self.line(name)
        if line.lost:
            raise Restarted
        answer = await line.end.request(tree)
        if not isinstance(answer, dict) or not isinstance(answer.get("kind"), str):
            raise ProtocolError(
                "A site's answer cannot be read.",
                rule="message-format",
                remedy="It runs another version of Unisono, or altered software; nothing was used of it.",
                where=f"site {name}",
            )
        mark = from_tree(answer.pop("mark", None))
        if mark is not None:
            self.heard(name, mark)
        if answer["kind"] == "error":
            raise refusal(answer.get("error"), name)
        return answer


def beginning() -> int:
    """The number before a service's first request, drawn anew at every start: requests have 64 bits for their numbers on the
    wire, so that none ever runs out, and no two lives of a coordinator meet."""
    return secrets.randbits(56)


async def at_once(site: str) -> None:
    """Nothing to wait for before a site is asked."""
    del site


class NetworkExchange:
    """Carries a run's messages to the sites, from any event loop in any thread to the service's and back.

    before: awaited, in the service's loop, before a site is asked for the first time: it must know that the study runs.
    beginning: under which permits the runs were begun, which goes to a site until it has answered a message of a run.
    """

    def __init__(
        self,
        sites: Sites,
        before: Callable[[str], Awaitable[None]] = at_once,
        beginning: Callable[[], Tree] = lambda: None,
    ) -> None:
        self._sites = sites
        self._before = before
        self._beginning = beginning
        self._begun: set[str] = set()
        self._shown: set[tuple[str, str]] = set()
        self._plain: tuple[Plain, Outgoing] | None = None

    async def request(self, site: str, message: Message) -> object:
        """The site's answer. `LinkLost` if the site is away for longer than the time of grace, or was restarted; `SlotLost`
        if it is there without the slot's secrets; the site's own `UnisonoError`."""
        shown = site, run_of(message)
        parcel = self._parcel(message, begun=shown in self._shown)
        try:
            answer = await self._there(self._ask(site, parcel))
        except Restarted:
            raise LinkLost(site, message.phase) from None
        self._shown.add(shown)
        if answer["kind"] == "slot-lost":
            raise SlotLost(site, message.phase)
        return answer_to(message, answer)

    async def online(self, site: str) -> None:
        """Returns when the site has a live link."""
        await self._there(self._online(site))

    def connected(self, site: str) -> bool:
        """Whether the site has a live link now."""
        return self._sites.is_online(site)

    def _parcel(self, message: Message, *, begun: bool) -> Tree | Outgoing:
        """What goes out. The same question to every site, as it is where nothing is hidden, is packed once: with a model in it that is
        most of the work. begun: the site knows under which permits the run was begun."""
        tree: dict[str, Tree] = {"to": "exchange", "message": request_tree(message)}
        if not begun:
            return {**tree, "begun": self._beginning()}
        if not isinstance(message, Plain):
            return tree
        last = self._plain
        if last is None or last[0].ask is not message.ask or last[0].closes != message.closes:
            last = self._plain = message, Outgoing(tree)
        return last[1]

    async def _ask(self, site: str, tree: Tree | Outgoing) -> dict[str, Any]:
        if site not in self._begun:
            try:
                async with asyncio.timeout(self._sites.grace_s):
                    await self._before(site)
            except TimeoutError:
                raise Restarted from None
            self._begun.add(site)
        return await self._sites.ask(site, tree)

    async def _online(self, site: str) -> None:
        await self._sites.line(site).end.online()

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._sites.loop)
        except RuntimeError as closed:  # the service's loop has ended
            work.close()
            raise NetworkError(
                "The coordinator is being stopped.",
                rule="coordinator-stopping",
                remedy="The run goes on where it stopped when the coordinator is started again.",
            ) from closed
        return await asyncio.wrap_future(future)


def refusal(said: Any, site: str) -> UnisonoError:
    """A site's refusal, in its own words: of bounded length, without control characters, and with the site's name."""
    found = said if isinstance(said, dict) else {}
    kind, *texts = (_plain(found.get(key)) for key in ("kind", "what", "rule", "remedy", "where"))
    what, rule, remedy, where = texts
    here = f"site {site}"
    place = where if where.startswith(here) else f"{here}, {where}" if where else here
    return UnisonoError.from_dict(
        {
            "kind": kind,
            "what": what or "The site refused, and did not say why.",
            "rule": rule or "site-fault",
            "remedy": remedy or "Ask the site's data steward.",
            "where": place,
        }
    )


def _plain(value: Any) -> str:
    return _CONTROL.sub(" ", value)[:_LONGEST] if isinstance(value, str) else ""
