"""Seconds per warm round of a do-nothing FedAvg with three hospitals over TLS on loopback: Unisono beside Flower's deployment
runtime, NVFlare's POC, and the bound (the same bytes through raw TLS sockets), in one run.

    python benchmarks/network.py                      # everything, about twenty minutes on two idle cores
    python benchmarks/network.py --quick              # 1e4 parameters, without NVFlare
    python benchmarks/network.py --skip flower nvflare --sizes 1e7

Every contestant is a coordinator (server) and three sites in processes of their own; Unisono's are set up by the commands that people
type, with mutual TLS, permits and worker processes. What is shown are medians of warm rounds. *Durable* is what is installed: every
sum and every promise is on disk before it counts. *RAM disk* is the same with all folders in memory. The peers live in `peers/`,
which says what is counted; their environments are made when they are first needed. With --write the table goes to docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE / "peers")  # and not this folder, whose `statistics.py` would hide Python's own

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from environment import FLOWER, NVFLARE, environment
from page import write_section
from timing import PeerError, ask, whole

SIZES = (10_000, 10_000_000)
ROUNDS = {10_000: 40, 10_000_000: 8}
PROTECTIONS = ("plain", "secagg", "malicious")
SECAGG_SIZE = 1_000_000
"""Of the one round of Flower's SecAgg+ that is timed."""
LIMIT_S = 900.0
BOUND = "raw TLS (the bound)"
AIM_PLAIN_S = {10_000: 0.005, 10_000_000: 1.0}
AIM_DURABLE_S = {10_000_000: 1.5}
AIM_SECAGG = {10_000: 2.5, 10_000_000: 1.5}
"""At most so many times a plain round."""


@dataclass(frozen=True)
class Row:
    """One contestant at one size. seconds: of every warm round."""

    name: str
    size: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Table:
    """What was measured, and what could not be, with the reason."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, name: str, size: int, seconds: Sequence[float]) -> None:
        self.rows.append(Row(name, size, tuple(seconds)))
        sys.stderr.write(f"{name}, {size:,}: {seconds_text(self.rows[-1].median)}\n")

    def find(self, name: str, size: int) -> Row | None:
        return next((row for row in self.rows if (row.name, row.size) == (name, size)), None)


def name_of(protection: str, *, durable: bool) -> str:
    """A row of ours."""
    return f"Unisono, {protection}{'' if durable else ', RAM disk'}"


def ours(table: Table, sizes: Sequence[int], *, memory: bool, secagg_size: int | None) -> None:
    """All protections at all sizes over one network."""
    cells = [f"{protection}:{size}:{ROUNDS.get(size, 8)}" for size in sizes for protection in PROTECTIONS]
    if secagg_size:
        cells += [f"{protection}:{secagg_size}:10" for protection in PROTECTIONS]
    command = [sys.executable, str(HERE / "peers" / "unisono_network.py"), *cells, *(["--memory"] if memory else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                found = json.loads(line)
                name = name_of(found["protection"], durable=found["durable"])
                table.add(name, found["payload"], found["seconds_per_round"])
        except BaseException:
            process.terminate()  # it ends what it started
            raise
    if process.returncode:
        raise SystemExit("Unisono did not finish: see above.")


@dataclass(frozen=True)
class Peer:
    """A program of `peers/`. python: an interpreter that it runs with, or None; why_not: the reason then."""

    name: str
    program: str
    python: str | Path | None
    why_not: str = ""
    options: tuple[str, ...] = ()

    def measure(self, table: Table, size: int, rounds: int) -> None:
        """One size; a remark where it cannot be run."""
        if self.python is None:
            table.remarks.append(f"{self.name}: {self.why_not}.")
            return
        try:
            options = ("--parameters", size, "--rounds", rounds, "--limit", round(LIMIT_S), *self.options)
            found = ask(self.python, self.program, *options, limit_s=LIMIT_S + 30)
        except PeerError as error:
            table.remarks.append(f"{self.name} at {size:,} parameters gave no number: {str(error)[:200]}.")
            return
        name = self.name if self.name == BOUND else f"{self.name} {found.version}"
        table.add(name, size, found.seconds_per_round)


def measure(sizes: Sequence[int], skip: Sequence[str]) -> Table:
    """Ours and the bound first, then each peer."""
    table, bound = Table(), Peer(BOUND, "tls_bound.py", sys.executable)
    for size in sizes:
        bound.measure(table, size, max(ROUNDS.get(size, 8), 8))
    ours(table, sizes, memory=False, secagg_size=None if "flower" in skip else SECAGG_SIZE)
    ours(table, sizes, memory=True, secagg_size=None)
    if "flower" not in skip:
        made = environment(*FLOWER)
        flower = Peer("Flower", "flower_network.py", made.python, made.why_not)
        for size in sizes:
            flower.measure(table, size, 4)
        replace(flower, name="Flower SecAgg+", options=("--secagg",)).measure(table, SECAGG_SIZE, 2)
    if "nvflare" not in skip:
        made = environment(*NVFLARE, name="nvflare")
        for size in sizes:
            rounds = 10 if size < 1_000_000 else 4
            Peer("NVFlare", "nvflare_network.py", made.python, made.why_not).measure(table, size, rounds)
    return table


# -- the page ----------------------------------------------------------------------------------------------------------


def seconds_text(seconds: float) -> str:
    """With three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"


def rows_of(table: Table, size: int) -> list[str]:
    """The table of one size; ratios against our plain durable round and against the bound."""
    plain, bound = table.find(name_of("plain", durable=True), size), table.find(BOUND, size)
    lines = [
        f"**{size:,} float32 values each way**",
        "",
        "| | median round | rounds | ÷ Unisono plain | ÷ bound |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in (row for row in table.rows if row.size == size):
        ratios = [times(row.median / other.median) if other else "" for other in (plain, bound)]
        lines.append(f"| {row.name} | {seconds_text(row.median)} | {len(row.seconds)} | {ratios[0]} | {ratios[1]} |")
    return [*lines, ""]


def verdicts(table: Table) -> list[str]:
    """Each aim, met or not."""
    lines = []

    def verdict(what: str, found: float, aim: float, shown: str) -> None:
        lines.append(f"- {what}: {shown} ({'met' if found <= aim else 'not met'}).")

    for durable, aims in ((False, AIM_PLAIN_S), (True, AIM_DURABLE_S)):
        for size, aim in aims.items():
            row = table.find(name_of("plain", durable=durable), size)
            if row:
                where = "durable" if durable else "on a RAM disk"
                verdict(
                    f"A plain round at {size:,}, {where}, in {seconds_text(aim)}",
                    row.median,
                    aim,
                    seconds_text(row.median),
                )
    for durable in (True, False):
        for size, aim in AIM_SECAGG.items():
            plain = table.find(name_of("plain", durable=durable), size)
            for protection in ("secagg", "malicious"):
                row = table.find(name_of(protection, durable=durable), size)
                if plain and row:
                    ratio = row.median / plain.median
                    where = "durable" if durable else "RAM disk"
                    verdict(f"{protection} at {size:,}, {where}, within {aim}x of plain", ratio, aim, times(ratio))
    return lines


def report(table: Table) -> str:
    """The section of docs/benchmarks.md."""
    sizes = sorted({row.size for row in table.rows})
    load = f"{os.cpu_count()} cores, load average at the end {os.getloadavg()[0]:.1f}"
    lines = [f"*Measured by `python benchmarks/network.py --write` ({load}).*", ""]
    for size in sizes:
        lines += rows_of(table, size)
    return "\n".join([*lines, *verdicts(table), *(f"- {remark}" for remark in table.remarks)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1e4 parameters, without NVFlare")
    parser.add_argument("--sizes", type=whole, nargs="+", default=list(SIZES), help="default: 1e4 1e7")
    parser.add_argument("--skip", nargs="+", default=[], choices=["flower", "nvflare"])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    sizes, skip = ([10_000], ["nvflare", *options.skip]) if options.quick else (options.sizes, options.skip)
    text = report(measure(sizes, skip))
    print(text)
    if options.write:
        write_section("network", text)


if __name__ == "__main__":
    main()
