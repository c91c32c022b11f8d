"""The one line of JSON that every program about the network prints, its options, and the one way to ask for it.

Plain Python without other packages: the peers' environments read this file too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITES = 3
"""Sites in every comparison of the network."""
_GRACE_S = 60.0
"""What a program gets to stop its processes and remove its folder, once it is told to end."""


class PeerError(RuntimeError):
    """A measurement did not come about: which program, and what it said."""


@dataclass(frozen=True)
class Timing:
    """One run. payload: float32 values sent each way. seconds_per_round: wall, every round but the first.
    warm_up_s: the first. notes: sentences to be read beside the seconds."""

    peer: str
    version: str
    payload: int
    seconds_per_round: tuple[float, ...]
    warm_up_s: float
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(peer: str, version: str, payload: int, stamps: Sequence[float], notes: Sequence[str] = ()) -> Timing:
        """stamps: (rounds + 1,) seconds, the start of each round and the end of the last. `PeerError` below 3 of them."""
        if len(stamps) < 3:
            raise PeerError(f"{peer} gave {max(0, len(stamps) - 1)} rounds; it takes two, for the first is a warm-up")
        first, *rest = (after - before for before, after in pairwise(stamps))
        return Timing(peer, version, payload, tuple(round(s, 6) for s in rest), round(first, 6), tuple(notes))

    def print(self) -> None:
        """The last line on standard output, whatever a peer has printed before."""
        print(json.dumps(asdict(self)), flush=True)


def whole(text: str) -> int:
    """``1e4`` and ``10000`` alike."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
    if not value.is_integer() or value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(value)


def _rounds(text: str) -> int:
    value = whole(text)
    if value < 2:
        raise argparse.ArgumentTypeError("the first round is a warm-up: at least 2")
    return value


def arguments(description: str | None, limit_s: int) -> argparse.ArgumentParser:
    """The options that all programs share. limit_s: after how long the program gives up, by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=whole, default=10_000, help="float32 values sent each way (1e4)")
    parser.add_argument("--rounds", type=_rounds, default=10, help="rounds, the first a warm-up that is not counted")
    parser.add_argument(
        "--limit", type=whole, default=limit_s, metavar="S", help=f"give up after S seconds ({limit_s})"
    )
    return parser


def ask(python: str | Path, program: str, *options: object, limit_s: float = 600.0) -> Timing:
    """Run ``benchmarks/peers/<program>`` with `python` and read its line. `PeerError` if it fails or takes longer.

    The program is told to end before it is killed, so that what it started ends with it.
    """
    command = [str(python), str(HERE / program), *map(str, options)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except BaseException as error:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise PeerError(f"{program} did not end within {limit_s:.0f} s") from None
            raise
    lines = out.splitlines()
    if process.returncode or not lines:
        raise PeerError(f"{program} failed ({process.returncode}): {err.strip()[-2000:]}")
    try:
        found = json.loads(lines[-1])
        seconds, notes = tuple(found.pop("seconds_per_round")), tuple(found.pop("notes"))
        return Timing(**found, seconds_per_round=seconds, notes=notes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PeerError(f"{program} ended with something else than its line ({type(error).__name__})") from None
