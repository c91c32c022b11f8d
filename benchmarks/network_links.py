"""Warm rounds of a do-nothing FedAvg over slow lines: how many round trips of the line does one take, and what beside?

    python benchmarks/network_links.py                    # emulated lines of 20, 60 and 150 ms, about six minutes
    python benchmarks/network_links.py --rtt 60 --rounds 5

A coordinator and three hospitals as processes of their own with mutual TLS (`peers/unisono_network.py`), everything on disk; everybody
dials through the relay of `tests/support/line.py`, which keeps every byte for half a round trip each way. The relay's own round trip
is measured through it, right before and right after, and is what rounds are compared with. A round is to take no more round trips
than its protocol has: one in the clear, two of secure aggregation, three where the coordinator is not trusted. With --write the table
goes to docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE / "peers")  # and not this folder, whose `statistics.py` would hide Python's own
sys.path.append(str(HERE.parent))  # for the tests' line

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass

from unisono_network import WARM, environment, network

RTT_MS = (20, 60, 150)
PARAMETERS = 10_000
MODES = (
    ("plain", "none", "semi-honest", 1),
    ("semi-honest", "secagg", "semi-honest", 2),
    ("malicious", "secagg", "malicious", 3),
)
"""Name, `hide`, `threat`, round trips of a warm round."""
AIM_FACTOR, AIM_MS = 1.1, 4.0
ECHOES = 30
DOCS = HERE.parent / "docs" / "benchmarks.md"
_INSIDE = "UNISONO_LINKS_INSIDE"


@dataclass(frozen=True)
class Measured:
    """One mode over one line. rtt_ms: asked of the relay; echo_ms: a round trip through it, measured; round_ms: of every warm round.
    parameters: float32 each way."""

    mode: str
    trips: int
    rtt_ms: float
    echo_ms: float
    round_ms: tuple[float, ...]
    parameters: int

    @property
    def median_ms(self) -> float:
        return statistics.median(self.round_ms)

    @property
    def allowed_ms(self) -> float:
        """What a round may take."""
        return AIM_FACTOR * self.trips * self.echo_ms + AIM_MS


def echo_ms(delay_s: float, times: int = ECHOES) -> list[float]:
    """Round trips of 64 bytes through a relay of this delay one way, to an echo and back, milliseconds."""
    from tests.support.line import Line, Weather

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        with (
            Line(server.getsockname()[1], Weather(delay_s=delay_s)) as line,
            socket.create_connection(("127.0.0.1", line.port)) as dialled,
        ):
            dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found = []
            for _ in range(times):
                began = time.perf_counter()
                dialled.sendall(bytes(64))
                left = 64
                while left:
                    left -= len(dialled.recv(left))
                found.append(1000 * (time.perf_counter() - began))
    return found


def _echo(server: socket.socket) -> None:
    opened, _ = server.accept()
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with opened:
        while data := opened.recv(4096):
            opened.sendall(data)


def measure(mode: str, rtt_ms: float, rounds: int, parameters: int) -> Measured:
    """One network, one study over it."""
    from tests.support.line import Line, Weather

    (_, hide, threat, trips) = next(item for item in MODES if item[0] == mode)
    weather, folder = Weather(delay_s=rtt_ms / 2000), Path(tempfile.mkdtemp(prefix="unisono-bench-"))
    try:
        with Line(0) as line:  # clear while everybody joins

            def address(port: int) -> str:
                line.target = port
                return f"localhost:{line.port}"

            with network(folder, address) as net:
                before = echo_ms(weather.delay_s)
                line.weather = weather
                found = net.rounds(parameters, rounds + WARM, hide, threat)
                after = echo_ms(weather.delay_s)
    except BaseException:
        sys.stderr.write(f"logs are in {folder}\n")
        raise
    shutil.rmtree(folder, ignore_errors=True)
    seconds = found["seconds"]
    assert isinstance(seconds, list)
    echoed = statistics.median([*before, *after])
    return Measured(mode, trips, rtt_ms, echoed, tuple(1000 * s for s in seconds[WARM:]), parameters)


def report(found: list[Measured], overhead_ms: list[float]) -> str:
    """The table, in Markdown."""
    lines = [
        f"Warm rounds of a do-nothing FedAvg, 3 sites, {found[0].parameters:,} float32 each way, {len(found[0].round_ms)} rounds, medians; "
        f"everything on disk; {os.cpu_count()} cores. The relay itself, without a delay, answers in "
        f"{statistics.median(overhead_ms):.2f} ms.",
        "",
        "| line, round trip | measured through the relay, ms | protection | round trips | a round, ms | beside its round trips, ms "
        "| allowed, ms | |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in found:
        beside = one.median_ms - one.trips * one.echo_ms
        verdict = "met" if one.median_ms <= one.allowed_ms else "**not met**"
        lines.append(
            f"| {one.rtt_ms:g} ms | {one.echo_ms:.1f} | {one.mode} | {one.trips} | {one.median_ms:.1f} | {beside:.1f} "
            f"| {one.allowed_ms:.1f} | {verdict} |"
        )
    return "\n".join(lines)


def inside(options: argparse.Namespace) -> None:
    """In the environment with the method: everything, as one line of JSON."""
    found = []
    for rtt_ms in options.rtt:
        for mode in options.modes:
            print(f"{mode}, {rtt_ms:g} ms ...", file=sys.stderr, flush=True)
            found.append(asdict(measure(mode, rtt_ms, options.rounds, options.parameters)))
    print(json.dumps(found))


def again(options: argparse.Namespace) -> list[Measured]:
    """This program once more, where the method is installed."""
    made = Path(tempfile.mkdtemp(prefix="unisono-bench-"))
    try:
        command = [str(environment(made)), __file__, *sys.argv[1:]]
        done = subprocess.run(command, env={**os.environ, _INSIDE: "1"}, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return [Measured(**{**one, "round_ms": tuple(one["round_ms"])}) for one in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rtt", type=float, nargs="+", default=list(RTT_MS), metavar="MS", help="round trips of the lines"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=[name for name, *_ in MODES], default=[name for name, *_ in MODES]
    )
    parser.add_argument("--parameters", type=int, default=PARAMETERS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    if os.environ.get(_INSIDE):
        inside(options)
        return
    overhead = echo_ms(0.0, 100)
    text = report(again(options), overhead)
    print(text)
    if options.write:
        write_section("network-links", text)


def write_section(name: str, text: str) -> None:
    """Replace the part of docs/benchmarks.md between this benchmark's markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = DOCS.read_text("utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    DOCS.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
