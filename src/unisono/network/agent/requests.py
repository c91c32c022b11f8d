"""What the coordinator may ask of a site over the link: messages of a sum, studies offered, states, results, the roster.

Each request is a tree and is answered by one. Nothing is raised: a refusal is an answer with its rule and remedy. Messages of
sums are answered one after the other in a thread of their own, so that beats and other requests go on beside them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from unisono.errors import Abstention, ProtocolError, UnisonoError
from unisono.federation.ask import Ask, Circle
from unisono.federation.exchange import Message, SlotLost, run_of
from unisono.federation.lineage import Mark
from unisono.federation.storage import write_whole
from unisono.federation.tree import Tree
from unisono.network.agent import results
from unisono.network.agent.folder import MEMBERS, AgentFolder
from unisono.network.agent.inbox import Inbox
from unisono.network.agent.offer import Offer
from unisono.network.agent.text import plain
from unisono.network.beginning import Beginning
from unisono.network.log import Clock, Log
from unisono.network.marks import to_tree
from unisono.network.wire.messages import answer_tree, request_from
from unisono.network.wordcode import word_code
from unisono.protection.secagg.roster import Roster

NOTHING: Tree = {"kind": "nothing"}
STATES = frozenset(
    {"submitted", "waiting", "ready", "running", "finished", "failed", "refused", "cancelled", "withdrawn"}
)
_RUNS_KEPT = 10_000


class Answers(Protocol):
    """What messages of sums are answered by: the studies taken up (`unisono.network.agent.studies.Studies`)."""

    def answer(self, message: Message) -> object:
        """The site's answer, as `unisono.site.agent.Site.answer`."""
        ...

    def ready(self, study: str) -> None:
        """An approved study is taken up if it is not yet. `PermitError` if it is over, or was withdrawn."""
        ...

    def begun(self, study: str, run: str, beginning: Beginning) -> None:
        """Under which permits the coordinator says that a run was begun."""
        ...

    def mark(self) -> Mark:
        """How far this site's memory has come."""
        ...

    def stop(self, study: str, why: str = "withdrawn") -> None:
        """Answer nothing more of a study, and forget its keys. why: for the audit log."""
        ...

    def rest(self, study: str) -> None:
        """Nothing is asked of a study for now: its worker may go."""
        ...


class Requests:
    """The handler of a site's end of the link."""

    def __init__(self, name: str, folder: AgentFolder, inbox: Inbox, answers: Answers, log: Log, clock: Clock) -> None:
        self._name = name
        self._folder = folder
        self._inbox = inbox
        self._answers = answers
        self._log = log
        self._clock = clock
        self._identity = folder.home.identity().public
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="site")
        self._studies: dict[str, str] = {}
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._listing = asyncio.Lock()
        self.offered: Callable[[str], None] = lambda _: None
        """Called with the digest of a study that came again, whose decision the coordinator wants to hear again."""
        self._kinds: dict[str, Callable[[dict[str, Any]], Awaitable[Tree]]] = {
            "exchange": self._exchange,
            "offer": self._offer,
            "state": self._state,
            "result": self._result,
            "roster": self._roster,
        }

    async def __call__(self, tree: Tree) -> Tree:
        """The answer to a request."""
        kind = str(tree.get("to"))[:20] if isinstance(tree, dict) else ""
        self._busy += 1
        self._idle.clear()
        try:
            if kind not in self._kinds:
                raise ProtocolError(
                    f"A site has no answer to {kind!r}.",
                    rule="message-format",
                    remedy="The coordinator runs another version of Unisono; install the same one at both ends.",
                )
            return await self._kinds[kind](tree)
        except SlotLost:
            return {"kind": "slot-lost"}
        except UnisonoError as error:
            if not isinstance(error, Abstention):  # which is logged with its study
                self._log.refused("request-refused", error, to=kind)
            return {"kind": "error", "error": error.to_dict()}
        except Exception as error:  # noqa: BLE001  (a fault of ours: it must not show data, nor end the link)
            self._log.write("fault", to=kind, kind=type(error).__name__)
            fault = ProtocolError(
                f"The request {kind!r} could not be answered ({type(error).__name__}).",
                rule="site-fault",
                remedy="Nothing left the site. Report it, with the versions of Unisono at both ends.",
                where=f"site {self._name}",
            )
            return {"kind": "error", "error": fault.to_dict()}
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    @property
    def busy(self) -> int:
        """Requests that are being answered now."""
        return self._busy

    async def idle(self) -> None:
        """Returns when nothing is being answered."""
        await self._idle.wait()

    def close(self) -> None:
        """Stop the thread; an answer that is being made is finished."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # -- sums ---------------------------------------------------------------------------------------------------------

    async def _exchange(self, tree: dict[str, Any]) -> Tree:
        message, beginning = request_from(tree.get("message")), Beginning.from_tree(tree.get("begun"))
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answered, message, beginning)

    def _answered(self, message: Message, beginning: Beginning | None) -> Tree:
        """In the thread of sums. What was asked of a study that the steward withdrew meanwhile does not go out."""
        study = self._study_of(message)
        if study:
            self._answers.ready(study)
            if beginning is not None:
                self._answers.begun(study, run_of(message), beginning)
        try:
            answer = self._answers.answer(message)
        except Abstention as why:
            self._log.refused("abstained", why, study=study)
            raise
        if study:
            self._answers.ready(study)
        return {**answer_tree(answer), "mark": to_tree(self._answers.mark())}

    def _study_of(self, message: Message) -> str:
        """The study's digest; some messages name only the run, which an earlier one said the study of."""
        about: Ask | Circle | None = getattr(message, "circle", None) or getattr(message, "ask", None)
        if about is None:
            return self._studies.get(getattr(message, "key", ("",))[0], "")
        if len(self._studies) >= _RUNS_KEPT:
            self._studies.pop(next(iter(self._studies)))
        self._studies[about.run] = about.study
        return about.study

    # -- studies ------------------------------------------------------------------------------------------------------

    async def _offer(self, tree: dict[str, Any]) -> Tree:
        offer = await asyncio.to_thread(Offer.read, tree, self._name, self._identity)
        digest = offer.study.digest()
        new = await asyncio.to_thread(self._inbox.offer, offer, self._clock())
        if new:
            await asyncio.to_thread(self._answers.stop, digest, "offered anew")  # what was approved before is not this
            self._log.write("offered", study=digest, id=offer.study.id, researcher=offer.signature.researcher)
        else:
            self.offered(digest)
        return NOTHING

    async def _state(self, tree: dict[str, Any]) -> Tree:
        digest, state, why = tree.get("study"), tree.get("state"), tree.get("why") or ""
        if not isinstance(digest, str) or state not in STATES or not isinstance(why, str):
            raise _unreadable()
        await asyncio.to_thread(self._inbox.progress, digest, state, plain(why))
        self._log.write("state", study=digest, state=state)
        if state in ("cancelled", "withdrawn"):
            await asyncio.to_thread(self._answers.stop, digest, f"{state} at the coordinator")
        elif state in ("finished", "refused"):
            await asyncio.to_thread(self._answers.rest, digest)
        return NOTHING

    async def _result(self, tree: dict[str, Any]) -> Tree:
        digest = tree.get("study")
        entry = self._inbox.get(digest) if isinstance(digest, str) else None
        if entry is None or entry.decision != "approved":
            raise ProtocolError(
                "Results came of a study that this site did not approve.",
                rule="result-files",
                remedy="Nothing was written. Report the coordinator.",
            )
        folder = results.place(self._folder.path, entry, self._inbox.all())
        size = await asyncio.to_thread(results.keep, folder, tree.get("files"))
        self._log.write("result", study=entry.digest, id=entry.id, bytes=size)
        return NOTHING

    async def _roster(self, tree: dict[str, Any]) -> Tree:
        roster, members = Roster.from_tree(tree.get("roster")), tree.get("members", [])
        if not isinstance(members, list):
            raise _unreadable()
        content = f"{json.dumps({'roster': roster.to_tree(), 'members': members}, indent=2)}\n".encode()
        path = self._folder.path / MEMBERS
        async with self._listing:  # after links lost and found several lists may come at once: the last one counts
            await asyncio.to_thread(write_whole, path, content, "list of members", mode=0o600)
        self._log.write("roster", sites=len(roster), words=word_code(roster.digest))
        return NOTHING


def _unreadable() -> ProtocolError:
    return ProtocolError(
        "A message about a study cannot be read.",
        rule="message-format",
        remedy="The coordinator runs another version of Unisono; install the same one at both ends.",
    )
