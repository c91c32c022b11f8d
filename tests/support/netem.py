"""The kernel's own slow and lossy line (netem and tbf, tc(8)): a command run in a network namespace whose loopback has a weather.

It needs no privilege where users may make namespaces, and the kernel's modules: `available` tries, so that tests can run over
both this and the relay of `tests.support.line` where that works, and over the relay alone where not.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

from tests.support.weather import Weather

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
_TRY_S = 20.0
_BURST = "64kbit"


def inside(weather: Weather, command: Sequence[str]) -> list[str]:
    """The command, in a namespace of its own whose loopback is like this, and leads nowhere else."""
    steps = ["ip link set lo up", *_rules(weather), 'exec "$@"']
    return [*_NAMESPACE, "sh", "-c", " && ".join(steps), "sh", *command]


@cache
def available(weather: Weather) -> bool:
    """Whether this machine can do that: tried, not guessed."""
    if not all(shutil.which(tool) for tool in ("unshare", "ip", "tc")):
        return False
    tried = subprocess.run(inside(weather, ["true"]), capture_output=True, timeout=_TRY_S, check=False)
    return tried.returncode == 0


def _rules(weather: Weather) -> list[str]:
    """Packets of loopback pass its queue once, so that a delay is one way's."""
    rate = "" if math.isinf(weather.bytes_per_s) else f"{round(8 * weather.bytes_per_s)}bit"
    shaped = f"tc qdisc add dev lo {{}} tbf rate {rate} burst {_BURST} latency 1s"
    disturbed = "tc qdisc add dev lo root handle 1: netem limit 10000"
    if weather.delay_s:
        disturbed += f" delay {1000 * weather.delay_s:g}ms"
    if weather.loss:
        disturbed += f" loss {100 * weather.loss:g}%"
    small = "ip link set lo mtu 1500"
    if weather.delay_s or weather.loss:
        return [small, disturbed, *([shaped.format("parent 1: handle 2:")] if rate else [])]
    return [small, shaped.format("root")] if rate else []
