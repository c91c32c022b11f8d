"""Disks that are full in the middle of a run, one after the other; prints what was seen, as JSON.

python -m tests.support.full FOLDER    # FOLDER/disk is the small one
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.support import engine
from tests.support.disk import Disk
from tests.support.hospitals import Hospitals
from tests.support.network import Net, said
from unisono.network.coordinator.sites import Sites
from unisono.network.log import Log
from unisono.network.signing import StudySignature

STUDY, OTHER = engine.study("odds"), engine.study("table", id="another")
LARGE = np.arange(6 * 2**20, dtype=np.uint8)
"""Beyond what is kept in memory while it comes."""
_PATIENCE_S = 60.0


class Events:
    """What both services wanted to write into their logs, whether they could or not."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.logs: dict[Path, Log] = {}

    def hearing(self) -> Any:
        """While it lasts."""
        write = Log.write

        def heard(log: Log, event: str, **facts: Any) -> None:
            self.seen.append((event, facts))
            self.logs[log.path] = log
            write(log, event, **facts)

        return mock.patch.object(Log, "write", heard)

    async def until(self, *kinds: str, **facts: Any) -> dict[str, Any]:
        """The first of such a kind, with these facts among its own."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                for event, of in self.seen:
                    if event in kinds and facts.items() <= of.items():
                        return of
                await asyncio.sleep(0.02)


def at_mask(step: int, do: Callable[[], None]) -> Any:
    """Do something once: when the coordinator asks padua for the masked vector of that step."""
    ask, todo = Sites.ask, [do]

    async def asked(self: Sites, name: str, tree: Any) -> dict[str, Any]:
        message = tree.get("message", {})
        if todo and name == "padua" and message.get("kind") == "mask" and message["ask"]["step"] == step:
            todo.pop()()
        return await ask(self, name, tree)

    return mock.patch.object(Sites, "ask", asked)


async def _submitted(net: Net, study: Any) -> dict[str, Any]:
    signature = StudySignature.make(study, "rossi", net.identity).to_tree()
    tree = {"call": "submit", "document": study.model_dump_json(), "signature": signature}
    return await said(net.port, net.researcher, {**tree, "sites": ["leiden", "padua", "turin"]})


async def in_a_run(folder: Path, disk: Disk, who: str) -> dict[str, Any]:
    """The disk of the coordinator ("centre") or of padua is full from the fourth step on, and is then freed."""
    (disk.path / who).mkdir()
    (folder / who).symlink_to(disk.path / who)
    events, seen = Events(), {}
    with events.hearing():
        net = await Net.open(folder, (), heartbeat_s=2.0, grace_s=60.0)
        hospitals = Hospitals(net)
        try:
            await hospitals.join()
            hospitals.serve()
            with at_mask(3, disk.fill):
                digest = await net.submit(STUDY)
                await hospitals.approve(digest)
                if who == "centre":
                    seen["while full"] = await events.until("study-state-not-kept", study=digest)
                else:
                    seen["while full"] = await events.until("request-refused", to="exchange")
            log = events.logs[net.home.log if who == "centre" else hospitals.folder(who).log]
            while not log.lost:  # the last page of a file has room for some lines
                log.write("noise")
            seen["another"] = await _submitted(net, OTHER)
            disk.free()
            seen["failed"] = (await net.until(digest, "failed"))["why"]
            seen["another again"] = await _submitted(net, OTHER)
            await events.until("offered", id="another")
            assert (await net.submit(STUDY)) == digest
            await net.until(digest, "finished")
            seen["answered"] = asdict(hospitals.answered(await net.files(digest), ("odds",)))
            await events.until("result", study=digest)
        finally:
            disk.free()
            await hospitals.close()
            await net.close()
    path = (net.home.path if who == "centre" else hospitals.folder(who).path) / "log.jsonl"
    seen["lines"] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return seen


async def staged(folder: Path, disk: Disk) -> dict[str, Any]:
    """A large message, staged in a file: an answer that comes to the coordinator, and a request that comes to padua's agent."""
    (disk.path / "tmp").mkdir()
    tempfile.tempdir = str(disk.path / "tmp")
    events, seen = Events(), {}
    with events.hearing():
        net = await Net.open(folder, ("delft",), heartbeat_s=2.0, grace_s=60.0)
        hospitals = Hospitals(net)
        delft = net.sites["delft"]

        async def large(tree: Any) -> Any:
            return {"kind": "words", "words": LARGE} if tree["to"] == "state" else {"kind": "nothing"}

        try:
            await hospitals.join()
            hospitals.serve()
            await delft.until(lambda: delft.connections > 0)
            await net.coordinator.sites.line("padua").end.online()
            disk.fill()
            with mock.patch.object(delft, "_answer", large):
                asked = asyncio.ensure_future(net.coordinator.sites.ask("delft", {"to": "state"}))
                seen["coordinator"] = await events.until("not-kept", site="delft")
                await delft.until(lambda: "coordinator-storage" in delft.byes)
                disk.free()
                seen["came"] = bool(np.array_equal((await asked)["words"], LARGE))
            disk.fill()
            tree = {"to": "state", "study": "0" * 64, "state": "running", "why": "", "more": LARGE}
            told = asyncio.ensure_future(net.coordinator.sites.ask("padua", tree))
            seen["site"] = await events.until("unreachable", rule="durable-storage")
            disk.free()
            seen["told"] = await told
        finally:
            disk.free()
            await hospitals.close()
            await net.close()
            tempfile.tempdir = None
    return seen


async def _all(folder: Path) -> dict[str, Any]:
    disk, seen = Disk(folder / "disk"), {}
    for name in ("centre", "padua", "staged"):
        (folder / name).mkdir()
        work = staged(folder / name, disk) if name == "staged" else in_a_run(folder / name, disk, name)
        seen[name] = await work
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_all(Path(sys.argv[1])))))
