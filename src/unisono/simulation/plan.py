"""What one schedule is about, drawn from its seed: the federation, who colludes, what may go wrong, and whether the coordinator lies."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from unisono.errors import UnisonoError
from unisono.protection.secagg.parameters import COMPLETE_UP_TO, Parameters, Threat, derive

FEWEST_SITES = 3
MOST_SITES = 40
Mood = Literal["calm", "rough", "lying"]

CALM_FAULTS = (
    "request lost",
    "answer lost",
    "crash before answering",
    "crash after answering",
    "crash before writing",
    "crash after writing",
    "asked twice",
    "answer doubled",
    "answer late",
)
"""Links that fail and computers that die: with these an honest coordinator still opens what it can."""

ROUGH_FAULTS = (
    *CALM_FAULTS,
    "request altered",
    "answer altered",
    "old request replayed",
    "old answer replayed",
    "half upload",
)
"""Also: somebody on the line."""

MISDEEDS = (
    "wrong share dealt",
    "wrong commitment dealt",
    "wrong share given",
    "false vector",
    "another's key copied",
    "another nonce revealed",
)
"""What a colluding site does of its own."""


class Dice(random.Random):
    """A schedule's chance: the same seed gives the same throws on every machine. Nothing secret hangs on it."""

    def happens(self, probability: float) -> bool:
        """With this probability."""
        return self.random() < probability


@dataclass(frozen=True)
class Plan:
    """One schedule.

    sites: names, sorted. colluders: those whose secrets the coordinator has. rollbacks: how many sites may be set back to
    an older disk (with the colluders at most C). mood: ``calm`` (drop-outs and crashes), ``rough`` (also messages
    altered and replayed, and colluders that misbehave), ``lying`` (also a coordinator that deviates). recipient: who
    reads the sums, "" for the coordinator. ahead: the next slot is set up with this one's messages. wired: every message
    goes through its packed tree. rate: of faults, an exchange. misdeeds: of the colluders.
    """

    seed: int
    index: int
    sites: tuple[str, ...]
    colluders: frozenset[str]
    rollbacks: int
    parameters: Parameters
    forced: bool
    bits: Literal[32, 64]
    length: int
    steps: int
    partial: bool
    recipient: str
    ahead: bool
    wired: bool
    mood: Mood
    rate: float
    misdeeds: tuple[str, ...]

    @property
    def run(self) -> str:
        """The run's name."""
        return f"run-{self.seed}-{self.index}"

    @property
    def lying(self) -> bool:
        """Whether the coordinator deviates."""
        return self.mood == "lying"

    @property
    def faults(self) -> tuple[str, ...]:
        """What may go wrong at an exchange."""
        return CALM_FAULTS if self.mood == "calm" else ROUGH_FAULTS

    def sentence(self) -> str:
        """The federation, for the reader of a schedule."""
        p = self.parameters
        to = f", sums to {self.recipient}" if self.recipient else ""
        whom = ", ".join(sorted(self.colluders)) or "nobody"
        frozen = "" if self.partial else ", over one frozen set"
        return (
            f"{p.n} sites, C = {p.colluding} (colluding: {whom}; {self.rollbacks} may be rolled back), {p.graph}, "
            f"t = {p.t}, least {p.least_survivors}, quorum {p.quorum}, threat {p.threat}, {self.bits}-bit ring, "
            f"{self.steps} sum(s){to}{frozen}; {self.mood}"
        )


def draw_plan(seed: int, index: int, sites: int) -> tuple[Plan, Dice]:
    """Schedule number `index` of a seed, with at most `sites` sites, and the dice with which it goes on.

    `UnisonoError` (rule ``simulation-size``) unless 3 <= sites <= 40.
    """
    if not FEWEST_SITES <= sites <= MOST_SITES:
        raise UnisonoError(
            f"Schedules have {FEWEST_SITES} to {MOST_SITES} sites, not {sites}.",
            rule="simulation-size",
            remedy=f"Give --sites between {FEWEST_SITES} and {MOST_SITES}.",
        )
    dice = Dice(f"unisono {seed} {index}")
    n = _size(dice, sites)
    threat: Threat = dice.choice(("semi-honest", "malicious"))
    colluding = min(dice.choice((0, 1, 1, 1, 2, 2, 3)), n - 2)
    min_sites = dice.choice((3, 3, 3, max(3, n - 1)))
    parameters, forced = _parameters(dice, n, colluding, min_sites, threat)
    names = tuple(f"site{k:02d}" for k in range(1, n + 1))
    mood: Mood = dice.choices(("calm", "rough", "lying"), (5, 3, 6))[0]
    colluders = frozenset(dice.sample(names, dice.choice((0, colluding, colluding))))
    plan = Plan(
        seed=seed,
        index=index,
        sites=names,
        colluders=colluders,
        rollbacks=dice.randint(0, colluding - len(colluders)),
        parameters=parameters,
        forced=forced,
        bits=dice.choice((32, 64)),
        length=dice.choice((8, 16, 32)),
        steps=dice.choices((1, 2, 3), (3, 3, 1))[0],
        partial=dice.happens(0.8),
        recipient=dice.choice(names) if dice.happens(0.2) else "",
        ahead=dice.happens(0.5),
        wired=dice.happens(0.1),
        mood=mood,
        rate=dice.choice((0.0, 0.03, 0.03, 0.1)),
        misdeeds=tuple(dice.sample(MISDEEDS, 2)) if mood != "calm" and dice.happens(0.5) else (),
    )
    return plan, dice


def _size(dice: Dice, most: int) -> int:
    """Small federations are quick, and have their limits near: they are drawn more often."""
    if most > COMPLETE_UP_TO and dice.happens(0.01):
        return dice.randint(COMPLETE_UP_TO + 1, most)
    sizes = range(FEWEST_SITES, min(most, COMPLETE_UP_TO) + 1)
    return dice.choices(sizes, [1 / (n - 1) ** 1.5 for n in sizes])[0]


def _parameters(dice: Dice, n: int, colluding: int, min_sites: int, threat: Threat) -> tuple[Parameters, bool]:
    """What a study of this size derives; for many of six and more also a small regular graph, which no search would give."""
    derived = derive(n, colluding, min_sites, hide="secagg+", threat=threat)
    degree = dice.choice((4, 6))
    if not derived.complete or degree >= n - 1 or colluding > degree - 2 or not dice.happens(0.6):
        return derived, False
    # Condition 2 for certain, however the graph falls: all colluders may be neighbours of one site.
    t = (degree + colluding) // 2 + 1 if threat == "malicious" else max(colluding + 1, 2)
    quorum = (n + colluding) // 2 + 1
    forced = replace(derived, degree=degree, t=t, quorum=quorum, tolerated_drops=0)
    # One opening a step where who unmasked joins no further attempt: the sites that may be missing from that attempt
    # (n - least) must be too few to have opened the first. Opening takes t answers of k for each of n.
    opens_once = n * t > degree * (n - forced.least_survivors)
    if t > degree or forced.least_survivors > n or (threat == "semi-honest" and not opens_once):
        return derived, False
    return replace(forced, tolerated_drops=n - forced.least_survivors), True
