"""What one secure sum costs a site and the coordinator, beside its bound and beside Flower's SecAgg+, in the same run.

    python benchmarks/secure_sum.py                      # everything, about ten minutes on two idle cores
    python benchmarks/secure_sum.py --quick              # a plausibility check, under two minutes
    python benchmarks/secure_sum.py --sites 3 10 --sizes 1e6 --skip flower

Every contestant runs in a process of its own (so that its peak memory is its own); the contestants take turns, and what
is shown are medians. They live in `peers/`: `unisono_secagg.py`, `bound.py` (the same bytes through AES-256-CTR, in-cache
adds, one copy) and `flower_secagg.py`, for which `.bench-venv` is made; where that cannot be done its columns stay empty.
With --write the tables go to docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE / "peers")  # and not this folder, whose `statistics.py` would hide Python's own

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from environment import environment
from page import write_section

SITES = (3, 5, 10, 32, 100)
SIZES = (10_000, 1_000_000, 10_000_000)
QUICK_SITES, QUICK_SIZES = (3, 10), (10_000, 1_000_000)
LEFT_OUT = ((100, 10_000_000),)
"""4 GB of uploads, and nothing new to learn from them."""
FLOWER = "flwr>=1.41,<1.43"
FLOWER_MOST_SITES, FLOWER_MOST_PARAMETERS = 20, 1_000_000
ROUNDS = 2
REPEATS = {10_000: 12, 1_000_000: 8, 10_000_000: 3}
"""Sums in one process, by the largest size that is not above the parameters."""
LIMIT_S = 600.0

AIM_SITE = {3: 2.5, 10: 1.6, 32: 1.4}
"""At 1e7 parameters: the most that a site with so many masks may take, as a multiple of its bound."""
AIM_COORDINATOR = 2.0
"""At 1e7 parameters, nobody lost: the same for the coordinator."""
AIM_FLOWER = {0: 2.0, 1_000_000: 8.0}
"""From so many parameters on: the least by which Flower's CPU time is to be a multiple of ours."""

ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore"}


@dataclass
class Figure:
    """What one party spent on one sum: milliseconds of each repeat, bytes it sent (the coordinator: received), and its
    peak memory in bytes above the start (interpreter and imports)."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    bytes: int = 0
    memory: int = 0

    def add(self, found: dict[str, Any]) -> None:
        """Another process's repeats."""
        self.cpu += found["cpu"]
        self.wall += found["wall"]
        self.bytes, self.memory = found["bytes"], max(self.memory, found["memory"])

    @property
    def ms(self) -> float:
        """Median CPU time, ms."""
        return statistics.median(self.cpu)

    @property
    def wall_ms(self) -> float:
        return statistics.median(self.wall)


@dataclass
class Row:
    """One federation and one size. masks: at a site, its own included. streams: that the coordinator must rebuild."""

    sites: int
    size: int
    lost: int
    masks: int
    threshold: int
    streams: int
    graph: str
    figures: dict[str, Figure] = field(default_factory=dict)

    def figure(self, name: str) -> Figure:
        return self.figures.setdefault(name, Figure())

    def ratio(self, above: str, below: str) -> float | None:
        """CPU time of one figure over another's, or None where one was not measured."""
        if above in self.figures and below in self.figures:
            return self.figures[above].ms / max(self.figures[below].ms, 1e-6)
        return None


# -- measuring ---------------------------------------------------------------------------------------------------------


def run(python: str | Path, program: str, *arguments: object) -> Any:
    """The JSON that a program of `peers/` prints on its last line. `RuntimeError` with what it said if it fails."""
    command = [str(python), str(HERE / "peers" / program), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=ENVIRONMENT)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{program} did not end within {LIMIT_S:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def repeats_of(size: int, quick: bool) -> int:
    most = next((REPEATS[least] for least in sorted(REPEATS, reverse=True) if size >= least), max(REPEATS.values()))
    return max(3, most // 2) if quick else most


@dataclass
class Benchmark:
    """The cells to measure, and what was found about them. flower: an interpreter that has Flower, or None."""

    sites: Sequence[int]
    sizes: Sequence[int]
    quick: bool
    with_bound: bool
    flower: Path | None
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def measure(self) -> None:
        """Fill `rows`, cell by cell."""
        for sites in self.sites:
            for size in self.sizes:
                if (sites, size) in LEFT_OUT:
                    self.remark(f"{sites} sites with {size:,} parameters are left out.")
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    if self._room(sites, size, folder):
                        self._cell(sites, size, folder)

    def remark(self, sentence: str) -> None:
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def _room(self, sites: int, size: int, folder: str) -> bool:
        need, free = 5 * sites * size + 2**28, shutil.disk_usage(folder).free
        if free < need:
            self.remark(
                f"{sites} sites with {size:,} parameters need {need / 1e9:.1f} GB of temporary files; left out."
            )
        return free >= need

    def _cell(self, sites: int, size: int, folder: str) -> None:
        """Stage every site's real messages and uploads once, then let the contestants take turns on them."""
        print(f"{sites} sites, {size:,} parameters ...", file=sys.stderr, flush=True)
        share = -(-sites // 10)  # a tenth, rounded up
        staged = run(sys.executable, "unisono_secagg.py", "stage", sites, size, folder, "--lost", 0, share)
        for plan in staged["plans"]:
            row = Row(sites, size, plan["lost"], plan["masks"], staged["threshold"], plan["streams"], staged["graph"])
            self.rows.append(row)
            for _ in range(1 if self.quick else ROUNDS):
                self._turn(row, folder)
        if share > staged["tolerated"]:
            self.remark(f"{staged['sentence'][0].upper()}{staged['sentence'][1:]}; so nobody is lost there.")

    def _turn(self, row: Row, folder: str) -> None:
        repeats = repeats_of(row.size, self.quick)
        ours = (folder, "--lost", row.lost, "--repeats", repeats)
        words = ("--words", row.size, "--repeats", repeats)
        if self.with_bound:
            row.figure("bound site").add(run(sys.executable, "bound.py", *words, "--streams", row.masks))
        row.figure("site").add(run(sys.executable, "unisono_secagg.py", "site", *ours))
        if self.with_bound:
            uploads = ("--uploads", row.sites - row.lost, "--streams", row.streams)
            row.figure("bound coordinator").add(run(sys.executable, "bound.py", *words, *uploads))
        row.figure("coordinator").add(run(sys.executable, "unisono_secagg.py", "coordinator", *ours))
        if self.flower and row.sites <= FLOWER_MOST_SITES and row.size <= FLOWER_MOST_PARAMETERS:
            self._flower(row, repeats)

    def _flower(self, row: Row, repeats: int) -> None:
        assert self.flower is not None
        options = ("--sites", row.sites, "--size", row.size, "--threshold", row.threshold, "--lost", row.lost)
        try:
            found = run(self.flower, "flower_secagg.py", *options, "--repeats", repeats)
        except (RuntimeError, OSError) as error:
            self.remark(f"Flower did not answer and is left out: {str(error).splitlines()[-1][:200]}")
            self.flower = None
            return
        row.figure("flower site").add(found["site"])
        row.figure("flower coordinator").add(found["coordinator"])
        self.remark(f"Flower is version {found['version']}, `secaggplus_mod` and its server workflow, complete graph.")


# -- showing -----------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits that count, no exponent: 0.0312, 4.51, 83.2, 1,240."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def megabytes(value: int) -> str:
    return number(value / 1e6)


def times(value: float | None) -> str:
    return "" if value is None else f"{number(value)}x"


COLUMNS = (
    "sites", "parameters", "lost", "{extra}", "CPU ms", "wall ms", "{traffic} MB", "peak memory MB", "bound, CPU ms",
    "against the bound", "Flower, CPU ms", "Flower, MB {traffic}", "Flower, peak MB", "less CPU than Flower",
)  # fmt: skip


def table(rows: Sequence[Row], party: str, extra: str, traffic: str) -> list[str]:
    """One party's table, in Markdown."""
    names = [name.format(extra=extra, traffic=traffic) for name in COLUMNS]
    lines = ["| " + " | ".join(names) + " |", "|" + " ---: |" * len(names)]
    for row in rows:
        ours, bound = row.figures[party], row.figures.get(f"bound {party}")
        peer = row.figures.get(f"flower {party}")
        cells = [
            str(row.sites),
            f"{row.size:,}",
            str(row.lost),
            str(row.masks if party == "site" else row.streams),
            number(ours.ms),
            number(ours.wall_ms),
            megabytes(ours.bytes),
            megabytes(ours.memory),
            number(bound.ms) if bound else "",
            times(row.ratio(party, f"bound {party}")),
            number(peer.ms) if peer else "",
            megabytes(peer.bytes) if peer else "",
            megabytes(peer.memory) if peer else "",
            times(row.ratio(f"flower {party}", party)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict(aim: str, met: bool, where: str) -> str:
    return f"- {aim}: {where}; {'met' if met else '**not met**'}."


def against_the_bound(rows: Sequence[Row]) -> list[str]:
    """The aims at the largest size, where keys and shares no longer count."""
    found = []
    large = [row for row in rows if row.size >= 10_000_000 and "bound site" in row.figures]
    for masks, aim in AIM_SITE.items():
        ratios = [row.ratio("site", "bound site") or 0.0 for row in large if row.masks == masks]
        if ratios:
            worst = max(ratios)
            found.append(verdict(f"A site with {masks} masks, at most {aim}x its bound", worst <= aim, times(worst)))
    for row in large:
        if row.lost == 0:
            ratio = row.ratio("coordinator", "bound coordinator") or 0.0
            what = f"The coordinator of {row.sites} sites, nobody lost, at most {AIM_COORDINATOR:g}x its bound"
            found.append(verdict(what, ratio <= AIM_COORDINATOR, times(ratio)))
    return found


def against_flower(rows: Sequence[Row]) -> list[str]:
    """The least ratio of Flower's CPU time to ours, below and from 1e6 parameters."""
    found = []
    for least, aim in AIM_FLOWER.items():
        above = min((size for size in AIM_FLOWER if size > least), default=None)
        some = [row for row in rows if row.size >= least and (above is None or row.size < above)]
        for party in ("site", "coordinator"):
            ratios = [(row.ratio(f"flower {party}", party), row) for row in some if f"flower {party}" in row.figures]
            if not ratios:
                continue
            ratio, row = min(((r or 0.0, row) for r, row in ratios), key=lambda pair: pair[0])
            sizes = f"below {above:,}" if above else f"from {least:,}"
            where = f"least {times(ratio)}, at {row.sites} sites, {row.size:,} parameters, {row.lost} lost"
            what = f"{party.capitalize()}, {sizes} parameters, at least {aim:g}x less CPU than Flower"
            found.append(verdict(what, ratio >= aim, where))
    return found


def report(benchmark: Benchmark) -> str:
    """Both tables, the aims, and what is to be known about them."""
    rows = benchmark.rows
    graphs = ", ".join(f"{sites} sites: {graph}" for sites, graph in {row.sites: row.graph for row in rows}.items())
    lines = [
        f"One secure sum of float32 vectors: `fixed32` encoding, rounding included; {graphs}; 1 colluder; semi-honest; "
        f"{os.cpu_count()} cores; medians. A site is lost after its shares and before its masked vector. "
        "Peak memory is above the interpreter and its imports; a site's own vector is in it.",
        "",
        "One site:",
        "",
        *table(rows, "site", "masks", "sent"),
        "",
        "The coordinator:",
        "",
        *table(rows, "coordinator", "masks rebuilt", "received"),
        "",
        *against_the_bound(rows),
        *against_flower(rows),
        *(f"- {remark}" for remark in benchmark.remarks),
    ]
    return "\n".join(lines)


def whole(text: str) -> int:
    """``1e6`` and ``1000000`` alike."""
    value = float(text)
    if not value.is_integer() or value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few cells, few repeats")
    parser.add_argument("--sites", type=whole, nargs="+", help=f"default: {' '.join(map(str, SITES))}")
    parser.add_argument("--sizes", type=whole, nargs="+", help="parameters; default: 1e4 1e6 1e7")
    parser.add_argument("--skip", action="append", default=[], choices=["bound", "flower"])
    parser.add_argument("--flower", default=FLOWER, metavar="REQUIREMENT", help=f"default: {FLOWER}")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    sites = options.sites or (QUICK_SITES if options.quick else SITES)
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    if min(sites) < 3:
        parser.error("a secure sum takes at least 3 sites")
    benchmark = Benchmark(sites, sizes, options.quick, "bound" not in options.skip, None)
    if "flower" not in options.skip:
        print("making .bench-venv for Flower ...", file=sys.stderr, flush=True)
        made = environment(options.flower, "numpy")
        benchmark.flower = made.python
        if made.why_not:
            benchmark.remark(f"Flower is left out: {made.why_not}.")
    try:
        benchmark.measure()
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    text = report(benchmark)
    print(text)
    if options.write:
        write_section("secure-sum", text)


if __name__ == "__main__":
    main()
