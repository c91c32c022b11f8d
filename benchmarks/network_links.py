"""Warm rounds of a do-nothing FedAvg over slow lines: how many round trips of the line does one take, and what beside?

    python benchmarks/network_links.py                    # lines of 0, 20, 60 and 150 ms, about four minutes
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
import itertools
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from page import write_section
from unisono_network import PROTECTIONS, WARM, method_installed, network

RTT_MS = (0, 20, 60, 150)
"""Without a delay: what a round takes beside its round trips."""
PARAMETERS = 10_000
TRIPS = {"plain": 1, "secagg": 2, "malicious": 3}
"""Round trips of a warm round."""
AIM_FACTOR, AIM_MS = 1.1, 4.0
ECHOES = 30


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
    from tests.support.line import Line
    from tests.support.weather import Weather

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


def measured(rtts_ms: Sequence[float], modes: Sequence[str], rounds: int, parameters: int) -> Iterator[Measured]:
    """One network, and study after study over its line."""
    from tests.support.line import Line
    from tests.support.weather import CLEAR, Weather

    folder = Path(tempfile.mkdtemp(prefix="unisono-links-"))
    try:
        with Line(0) as line:

            def address(port: int) -> str:
                line.target = port
                return f"localhost:{line.port}"

            with network(folder, address) as net:
                for rtt_ms, mode in itertools.product(rtts_ms, modes):
                    sys.stderr.write(f"{mode}, {rtt_ms:g} ms ...\n")
                    delay_s = rtt_ms / 2000
                    before, line.weather = echo_ms(delay_s), Weather(delay_s=delay_s)
                    found = net.rounds(parameters, rounds + WARM, *PROTECTIONS[mode])
                    line.weather, after = CLEAR, echo_ms(delay_s)
                    seconds = cast(list[float], found["seconds"])[WARM:]
                    echoed = statistics.median([*before, *after])
                    yield Measured(mode, TRIPS[mode], rtt_ms, echoed, tuple(1000 * s for s in seconds), parameters)
    except BaseException:
        sys.stderr.write(f"logs are in {folder}\n")
        raise
    shutil.rmtree(folder, ignore_errors=True)


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
        verdict = "" if not one.rtt_ms else "met" if one.median_ms <= one.allowed_ms else "**not met**"
        lines.append(
            f"| {one.rtt_ms:g} ms | {one.echo_ms:.1f} | {one.mode} | {one.trips} | {one.median_ms:.1f} | {beside:.1f} "
            f"| {f'{one.allowed_ms:.1f}' if one.rtt_ms else ''} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rtt", type=float, nargs="+", default=list(RTT_MS), metavar="MS", help="round trips of the lines"
    )
    parser.add_argument("--modes", nargs="+", choices=list(TRIPS), default=list(TRIPS))
    parser.add_argument("--parameters", type=int, default=PARAMETERS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    with method_installed(__file__):
        overhead = echo_ms(0.0, 100)
        found = list(measured(options.rtt, options.modes, options.rounds, options.parameters))
    text = report(found, overhead)
    print(text)
    if options.write:
        write_section("network-links", text)


if __name__ == "__main__":
    main()
