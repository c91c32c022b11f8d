"""One study answered by a real coordinator and three hospitals' own agents, over whatever line lies between them.

python -m tests.support.hospitals FOLDER     # in this machine's (or namespace's) loopback; prints what came out
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support import engine, steward
from tests.support.network import SITES, Net, now, ok
from unisono.network.agent import datasets
from unisono.network.agent.dial import Pace
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.join import join
from unisono.network.agent.serve import Options, serve
from unisono.network.agent.steward import Desk
from unisono.network.agent.studies import MakeWorker
from unisono.site.worker import LocalWorker, Worker
from unisono.study.document import Study

QUICK = Pace(first=0.02, longest=0.3, welcome=10.0, steady=0.2)


@dataclass(frozen=True)
class Answered:
    """estimates: by analysis. events: how often each kind stands in the logs of the hospitals' agents; rules: of what kept
    them from the coordinator. computed: answers in their audit logs; opened_twice: steps that one unmasked more than once."""

    estimates: dict[str, Any]
    events: dict[str, int]
    rules: dict[str, int]
    computed: int
    opened_twice: int


def local_worker(study: Study, dataset: datasets.Dataset, site: str, secret: bytes) -> Worker:
    """In this process: quicker to start than the real one."""
    return LocalWorker(study, dataset.freeze(study, site), secret)


@dataclass
class Hospitals:
    """Agents of hospitals that joined `net`. ports: where each one dials, if not the coordinator's own port."""

    net: Net
    ports: Mapping[str, int] = field(default_factory=dict)
    proxy: str | None = None
    make_worker: MakeWorker = local_worker
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    agents: list[asyncio.Task[None]] = field(default_factory=list)

    def folder(self, site: str) -> AgentFolder:
        return AgentFolder(self.net.folder / site)

    async def join(self) -> None:
        """Tokens, keys, data."""
        for site in SITES:
            folder = self.folder(site)
            token = (await ok(self.net.port, self.net.operator, call="invite", role="site", name=site))["token"]
            await join(token, folder, now())
            if site in self.ports:
                folder.keep(folder.settings().model_copy(update={"address": f"127.0.0.1:{self.ports[site]}"}))
            engine.frame(site).to_csv(self.net.folder / f"{site}.csv", index=False)
            datasets.add(folder, "lung", self.net.folder / f"{site}.csv", None, now())

    def serve(self) -> None:
        """All begin to dial."""
        options = Options(pace=QUICK, make_worker=self.make_worker, proxy=self.proxy, farewell_s=3.0)
        self.agents = [asyncio.ensure_future(serve(self.folder(site), self.stop, options)) for site in SITES]

    async def approve(self, digest: str) -> None:
        """Every steward, once the study is there."""
        for site in SITES:
            await self.net.coordinator.studies.course.courier(site).told(digest)
            await asyncio.to_thread(_approved, self.folder(site), digest)

    async def close(self) -> None:
        """Every agent stops; raises what one of them died of."""
        self.stop.set()
        await asyncio.gather(*self.agents)

    def logged(self, event: str, site: str = "") -> list[dict[str, Any]]:
        """Lines of that kind in the agents' logs."""
        found = []
        for name in [site] if site else SITES:
            lines = self.folder(name).log.read_text("utf-8").splitlines() if self.folder(name).log.exists() else []
            found += [line for line in map(json.loads, lines) if line["event"] == event]
        return found

    async def until(self, true: Callable[[], bool], seconds: float = 60.0) -> None:
        """Until something in a file is so."""
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110  (files do not call)
                await asyncio.sleep(0.02)

    def answered(self, files: Mapping[str, bytes], analyses: tuple[str, ...]) -> Answered:
        """What came out, with what is on record at the hospitals."""
        audits = [
            json.loads(line)
            for site in SITES
            for line in (self.folder(site).path / "audit.jsonl").read_text("utf-8").splitlines()
        ]
        openings = Counter(
            (site, *line["step"])
            for site in SITES
            for line in map(json.loads, (self.folder(site).path / "audit.jsonl").read_text("utf-8").splitlines())
            if line["event"] == "unmasked"
        )
        lines = [
            line
            for kind in ("connected", "disconnected", "unreachable", "fault", "request-refused")
            for line in self.logged(kind)
        ]
        return Answered(
            {name: json.loads(files[f"{name}/result.json"])["estimates"] for name in analyses},
            dict(Counter(line["event"] for line in lines)),
            dict(Counter(line["rule"] for line in lines if "rule" in line)),
            sum(line["event"] == "answered" for line in audits),
            sum(times > 1 for times in openings.values()),
        )


def _approved(folder: AgentFolder, digest: str) -> None:
    """As `unisono site approve` does."""
    desk = Desk(folder)
    try:
        assert steward.approve(desk, digest, now()).served
    finally:
        desk.close()


async def study_over(
    folder: Path,
    ports: Callable[[int], Mapping[str, int]] = lambda _: {},
    *,
    during: Callable[[Hospitals], Any] | None = None,
    study: Study | None = None,
    proxy: Callable[[int], str] | None = None,
    make_worker: MakeWorker = local_worker,
    **settings: Any,
) -> Answered:
    """The lung study's regression. ports: given the coordinator's port, where each hospital dials; proxy: its address. during:
    awaited before the study is submitted. settings: the coordinator's."""
    asked = study or engine.study("odds")
    net = await Net.open(folder, (), **{"heartbeat_s": 2.0, "grace_s": 60.0, **settings})
    hospitals = Hospitals(net, ports(net.port), None if proxy is None else proxy(net.port), make_worker)
    try:
        await hospitals.join()
        hospitals.serve()
        if during is not None:
            await during(hospitals)
        digest = await net.submit(asked)
        async with asyncio.timeout(120):
            await hospitals.approve(digest)
        done = await net.until(digest, "finished", "failed", seconds=150)
        assert done["state"] == "finished", done
        return hospitals.answered(await net.files(digest), tuple(asked.analyses))
    finally:
        await hospitals.close()
        await net.close()


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(study_over(Path(sys.argv[1]))))))
