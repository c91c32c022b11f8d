"""What a coordinator needs as hospitals become more: peak memory (to stay flat) and processor time a round (to grow in proportion).

    python benchmarks/network_memory.py                    # 10, 30 and 100 sites at 1e6 parameters, about ten minutes
    python benchmarks/network_memory.py --sites 10 30 --protections secagg+ --rounds 3

The coordinator is a real process of its own. The hospitals play in this process: real connections, each with mutual TLS and a
certificate of its own, real permits, keys, masks and signatures (`unisono.site`); what a hospital would keep of its vector on disk is
left out, and their memory and time are not measured. Peak memory is the kernel's own high-water mark (VmHWM) from the moment on when
all hospitals are connected. With --write the table goes to docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE / "peers")  # and not this folder, whose `statistics.py` would hide Python's own
sys.path.append(str(HERE.parent))  # for the tests' hospitals

import argparse
import asyncio
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from page import write_section
from timing import whole
from unisono_network import WARM, free_port, method_installed, study

SITES = (10, 30, 100)
PARAMETERS = 1_000_000
PROTECTIONS = {"plain": "none", "secagg+": "secagg+"}
AIM_GROWTH = 1.25
"""Flat: the peak with the most sites is at most so many times the one with the fewest."""
AIM_CPU = 1.25
"""Linear: processor time a round and site with the most sites, the same."""
LIMIT_S = 900.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One federation. idle, peak: bytes of the coordinator, with everybody connected and at most. cpu_s, wall_s: of a round."""

    sites: int
    protection: str
    parameters: int
    rounds: int
    idle: int
    peak: int
    cpu_s: float
    wall_s: float

    @property
    def grown(self) -> int:
        """Bytes that the rounds needed."""
        return self.peak - self.idle


@dataclass(frozen=True)
class Process:
    """The coordinator's, as the kernel sees it."""

    pid: int

    def memory(self, name: str) -> int:
        """``VmRSS`` or ``VmHWM``, bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))

    def begin(self) -> int:
        """Bytes now; the high-water mark starts from here."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", "ascii")
        return self.memory("VmRSS")

    def cpu_s(self) -> float:
        """Seconds of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[Process]:
    """The coordinator, until the block ends."""
    command = [sys.executable, "-m", "unisono.cli.main", "coordinator", "serve", "--home", str(home)]
    with (home.parent / "coordinator.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            yield Process(process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def federation(folder: Path, sites: int, protection: str, parameters: int, rounds: int) -> Measured:
    """Everybody joins, connects, approves; rounds; and what they took."""
    import pandas as pd
    from tests.support.network import Client, coordinator_home, credentials, ok, watched

    from unisono.network.signing import StudySignature
    from unisono.protection.secagg.roster import Identity
    from unisono.site.home import Home
    from unisono.study.load import load

    port = free_port()
    home = coordinator_home(folder / "centre", listen=f"127.0.0.1:{port}", heartbeat_s=30.0, grace_s=300.0)
    identity = Identity.generate()
    researcher = credentials(home, "researcher", "rossi", member=identity)
    patients = pd.DataFrame({"age": [40.0 + k % 40 for k in range(60)]})
    clients = []
    for k in range(sites):
        kept = Home(folder / f"site{k:03}")
        kept.make()
        given = credentials(home, "site", f"site{k:03}", member=kept.identity())
        client = Client(f"site{k:03}", port, given, kept, data=lambda _: patients)
        forgetful(client.site.state)
        clients.append(client)
    names = tuple(client.name for client in clients)
    asked = load(json.loads(study(parameters, rounds + WARM, PROTECTIONS[protection], "semi-honest")))
    async with serving(home.path) as process:
        for client in clients:
            client.start()
        for client in clients:
            await client.until(lambda client=client: client.connections > 0, 120)  # type: ignore[misc]
        idle = process.begin()
        signature = StudySignature.make(asked, "rossi", identity).to_tree()
        document = asked.model_dump_json()
        digest = (await ok(port, researcher, call="submit", document=document, signature=signature, sites=list(names)))[
            "study"
        ]
        opened, peak, spent = 0, idle, []
        async with asyncio.timeout(LIMIT_S):
            async for seen in watched(port, researcher, digest):
                peak, state = max(peak, process.memory("VmHWM")), seen["state"]
                if state["state"] not in ("submitted", "waiting", "ready", "running"):
                    break
                opened += sum(event["kind"] == "opened" for event in seen["events"])
                spent.append((opened, process.cpu_s(), time.perf_counter()))
                if opened == 1 + WARM + rounds:  # the cohort's sum is the first; the report is no round
                    break
        if opened < 1 + WARM + rounds:
            raise SystemExit(f"the study did not finish: {state}")
        await asyncio.gather(*(client.stop() for client in clients))
    begun, *_, ended = [at for at in spent if at[0] > WARM]
    counted = ended[0] - begun[0]
    each, took = (ended[1] - begun[1]) / counted, (ended[2] - begun[2]) / counted
    return Measured(sites, protection, parameters, rounds, idle, peak, each, took)


def forgetful(state: Any) -> None:
    """A site's memory without its vectors: a hundred hospitals' disks are not what is measured here."""
    remember = state.remember_vector
    state.remember_vector = lambda ask, vector: remember(ask, vector[:0])


def measured(options: argparse.Namespace) -> list[Measured]:
    """Everything."""
    found = []
    for protection, sites in itertools.product(options.protections, options.sites):
        sys.stderr.write(f"{protection}, {sites} sites ...\n")
        folder = Path(tempfile.mkdtemp(prefix="unisono-memory-"))
        try:
            found.append(asyncio.run(federation(folder, sites, protection, options.parameters, options.rounds)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.write(f"{found[-1]}\n")
    return found


def report(found: list[Measured]) -> str:
    """The table, and the two verdicts, in Markdown."""
    first = found[0]
    lines = [
        f"A do-nothing FedAvg, {first.parameters:,} float32 each way ({4 * first.parameters / 1e6:.0f} MB), {first.rounds} warm rounds; "
        f"{os.cpu_count()} cores, which the coordinator shares with all sites.",
        "",
        "| protection | sites | idle, MiB | peak, MiB | grown, MiB | grown / one message | CPU a round, s | CPU a round and site, ms "
        "| wall a round, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        lines.append(
            f"| {one.protection} | {one.sites} | {one.idle / 2**20:.0f} | {one.peak / 2**20:.0f} | {one.grown / 2**20:.0f} "
            f"| {one.grown / (4 * one.parameters):.1f} | {one.cpu_s:.2f} | {1000 * one.cpu_s / one.sites:.0f} | {one.wall_s:.1f} |"
        )
    lines.append("")
    for protection in dict.fromkeys(one.protection for one in found):
        few, *_, many = [one for one in found if one.protection == protection] * 2
        grown, cpu = many.peak / few.peak, (many.cpu_s / many.sites) / (few.cpu_s / few.sites)
        slope = (many.peak - few.peak) / 2**20 / max(many.sites - few.sites, 1)
        lines.append(
            f"- {protection}, {few.sites} to {many.sites} sites: peak memory {grown:.2f}x, {slope:.2f} MiB a site (aim: at most {AIM_GROWTH}x) "
            f"{verdict(grown <= AIM_GROWTH)}; processor time a round and site {cpu:.2f}x (aim: at most {AIM_CPU}x) {verdict(cpu <= AIM_CPU)}."
        )
    return "\n".join(lines)


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=list(SITES))
    parser.add_argument("--protections", nargs="+", choices=list(PROTECTIONS), default=list(PROTECTIONS))
    parser.add_argument("--parameters", type=whole, default=PARAMETERS)
    parser.add_argument("--rounds", type=whole, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    with method_installed(__file__):
        text = report(measured(options))
    print(text)
    if options.write:
        write_section("network-memory", text)


if __name__ == "__main__":
    main()
