"""Many schedules, one after the other or in several processes, and what came of them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from unisono.errors import UnisonoError
from unisono.protection.secagg.party import Party
from unisono.simulation.attacks import attack
from unisono.simulation.cast import PartyFactory
from unisono.simulation.coordinator import Coordinator, no_lie
from unisono.simulation.ledger import BrokenInvariant
from unisono.simulation.plan import draw_plan
from unisono.simulation.tally import Tally
from unisono.simulation.world import World

BATCH = 100
"""Schedules a batch: the unit that processes take, and that the totals are added up by."""


@dataclass(frozen=True)
class Played:
    """One schedule, step by step. broken: which invariant, or "" if all hold."""

    index: int
    trace: tuple[str, ...]
    broken: str


def play(seed: int, index: int, sites: int, tally: Tally | None = None, parties: PartyFactory = Party) -> Played:
    """Play schedule `index` of a seed; the same every time. parties: the sites' software, if not Unisono's own."""
    tally = Tally() if tally is None else tally
    plan, dice = draw_plan(seed, index, sites)
    world = World(plan, dice, tally, parties)
    tally.schedules += 1
    tally.federations[f"{plan.mood}, {plan.parameters.threat}, {_graph(plan.parameters.complete)}"] += 1
    broken = ""
    try:
        Coordinator(world, attack if plan.lying else no_lie).run()
    except BrokenInvariant as error:
        broken = str(error)
    except Exception as error:  # noqa: BLE001  (an abort that is not clean: it is what we are looking for)
        broken = f"no clean abort: {type(error).__name__}: {error}"
    if world.ledger.beyond and not broken:
        tally.beyond["semi-honest, and the coordinator lied: more could be read than a whole sum"] += 1
    if broken:
        world.say(f"BROKEN: {broken}")
        tally.failures.append((index, broken))
    return Played(index, tuple(world.trace), broken)


def play_range(seed: int, first: int, last: int, sites: int, parties: PartyFactory = Party) -> Tally:
    """Schedules `first` to `last` (not included), counted."""
    tally = Tally()
    for index in range(first, last):
        play(seed, index, sites, tally, parties)
    return tally


def play_all(seed: int, schedules: int, sites: int, jobs: int = 1) -> Iterator[tuple[int, Tally]]:
    """Batches as they are done: how many schedules, and their counts. The total does not depend on `jobs`.

    `UnisonoError` (rule ``simulation-size``) at once, before anything is played, if there is nothing to do.
    """
    if schedules < 1 or jobs < 1:
        raise UnisonoError(
            f"{schedules} schedules in {jobs} processes cannot be played.",
            rule="simulation-size",
            remedy="Give --schedules and --jobs of at least 1.",
        )
    draw_plan(seed, 0, sites)  # refuses a wrong size before any process is started
    return _batches(seed, schedules, sites, jobs)


def _batches(seed: int, schedules: int, sites: int, jobs: int) -> Iterator[tuple[int, Tally]]:
    ranges = [(first, min(first + BATCH, schedules)) for first in range(0, schedules, BATCH)]
    if jobs == 1:
        for first, last in ranges:
            yield last - first, play_range(seed, first, last, sites)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        with _deaf_to_interrupts():
            running = [(last - first, pool.submit(play_range, seed, first, last, sites)) for first, last in ranges]
        for count, batch in running:
            yield count, batch.result()
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C the batches that wait are not played


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in here leave Ctrl-C to the one that started them, which then stops in good order."""
    try:
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: nobody presses Ctrl-C there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _graph(complete: bool) -> str:
    return "complete graph" if complete else "regular graph"
