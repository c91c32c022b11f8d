"""Who misbehaved in an attempt, and whether anyone could say so: what the protocol can tell of its sites, and what it cannot."""

from __future__ import annotations

from collections.abc import Collection

from unisono.errors import UnisonoError
from unisono.simulation.cast import Colluder
from unisono.simulation.world import World

BETRAYED_BY = {
    "wrong share dealt": "wrong-share",
    "wrong commitment dealt": "wrong-share",
    "wrong share given": "wrong-share",
    "another's key copied": "reused-keys",
    "another nonce revealed": "graph-nonces",
}
"""The rule that a colluder's misdeed breaks. A false vector breaks none: no protocol of this kind can see it."""

NAMED, OTHER, NOBODY, UNSEEN = "named", "another one named", "noticed, nobody named", "not noticed"


def note_culprits(world: World, wrong_sharers: Collection[str]) -> None:
    """Count, for each misdeed of this attempt, what the errors since its beginning and `wrong_sharers` say of it."""
    for site in sorted(world.plan.colluders):
        party = world.nodes[site].party
        if not isinstance(party, Colluder):
            continue
        for misdeed in sorted(party.done):
            rule = BETRAYED_BY.get(misdeed)
            errors = [error for error in world.errors if error.rule == rule]
            named = {name for name in world.plan.sites if any(_names(error, name) for error in errors)}
            if rule == "wrong-share":
                named |= set(wrong_sharers)
            how = NAMED if site in named else OTHER if named else NOBODY if errors else UNSEEN
            world.tally.culprits[misdeed, how] += 1
        party.done.clear()


def _names(error: UnisonoError, site: str) -> bool:
    return site in error.what or site in (error.evidence.get("site"), error.evidence.get("owner"))
