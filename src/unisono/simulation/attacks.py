"""A lying coordinator: at each moment of an attempt it may try one of its lies, and what the sites answer is counted.

The lies themselves are in `attack_keys` (before anything is masked), `attack_masks` (while vectors are masked) and
`attack_opening` (when the sum is to be unmasked).
"""

from __future__ import annotations

from unisono.simulation.attack_keys import BEFORE_KEYS, BEFORE_SHARES
from unisono.simulation.attack_masks import BEFORE_MASKS
from unisono.simulation.attack_opening import AFTERWARDS, WHEN_CLOSED
from unisono.simulation.attack_tools import Attack
from unisono.simulation.coordinator import Attempt, Coordinator

ATTACKS: dict[str, dict[str, Attack]] = {
    "keys": BEFORE_KEYS,
    "shares": BEFORE_SHARES,
    "masks": BEFORE_MASKS,
    "masked": WHEN_CLOSED,
    "unmask": WHEN_CLOSED,
    "after": AFTERWARDS,
}
"""The lies by the moment they are told at."""

_HOW_OFTEN = {"keys": 0.15, "shares": 0.15, "masks": 0.35, "masked": 0.5, "unmask": 0.2, "after": 0.5}
"""Early lies mostly end an attempt: they are rarer, so that the later ones get their turn."""


def attack(coordinator: Coordinator, moment: str, at: Attempt) -> None:
    """Perhaps one lie, drawn from those of this moment."""
    dice, world = coordinator.dice, coordinator.world
    if not dice.happens(_HOW_OFTEN[moment]):
        return
    kinds = list(ATTACKS[moment])
    kind = "tells each site another set" if _singled_out(moment, at, kinds) else dice.choice(kinds)
    world.say(f"LIE: {kind}")
    answers = ATTACKS[moment][kind](coordinator, at)
    for said in answers:
        world.tally.attacks[kind, said.how] += 1
    if not answers:
        world.say("(there is no occasion for it here)")


def _singled_out(moment: str, at: Attempt, kinds: list[str]) -> bool:
    """The second half of a lie in two parts."""
    return bool(at.singled_out) and moment != "masks" and "tells each site another set" in kinds
