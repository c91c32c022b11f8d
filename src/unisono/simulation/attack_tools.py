"""What the lies of a coordinator have in common: whom to lie to, which sets to name, and how to get signatures for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from unisono.errors import UnisonoError
from unisono.federation.tree import pack, unpack
from unisono.protection.secagg.messages import Agreement, MaskedInput, Unmask
from unisono.simulation.coordinator import Attempt, Coordinator
from unisono.simulation.world import Said

Attack = Callable[[Coordinator, Attempt], list[Said]]
"""Tries one lie, and gives the answers of those it was told to."""


def victims(c: Coordinator, among: Sequence[str] | None = None, most: int = 2) -> list[str]:
    """One or a few honest sites."""
    honest = [site for site in (c.world.honest if among is None else among) if not c.world.colludes(site)]
    return c.dice.sample(honest, min(len(honest), c.dice.randint(1, most)))


def some_set(
    c: Coordinator, at: Attempt, site: str, *, least: int | None = None, fewest: bool = False
) -> tuple[str, ...]:
    """A set of dealt sites that `site` could believe: itself and the recipient in it, and enough of them; mostly no more."""
    dealt = list(at.setup.dealt)
    least = c.plan.parameters.least_survivors if least is None else least
    wanted = least if fewest or c.dice.happens(0.6) else c.dice.randint(min(least, len(dealt)), len(dealt))
    fixed = {name for name in (site, c.plan.recipient) if name in dealt}
    others = [name for name in dealt if name not in fixed]
    return tuple(sorted({*fixed, *c.dice.sample(others, max(0, min(wanted - len(fixed), len(others))))}))


def request_for(c: Coordinator, at: Attempt, site: str, survivors: tuple[str, ...]) -> Unmask | None:
    """A request to unmask that names what `site` itself was told of keys, sites and question. None if it masked nothing."""
    for sender, message in reversed(c.world.heard.get("masked-input", [])):
        if sender == site and isinstance(message, MaskedInput) and message.slot == at.slot:
            return Unmask(c.plan.run, at.slot, message.ask_digest, message.binding, survivors, {})
    return None


def signatures(c: Coordinator, at: Attempt, request: Unmask, signers: Sequence[str]) -> dict[str, bytes]:
    """The signatures of those who will sign, and of every colluder, where signatures are needed."""
    if not c.world.group.malicious:
        return {}
    found = {}
    for site in sorted({*signers, *(c.plan.colluders & set(request.survivors))}):
        said = c.world.agree(site, at.ask.key, request)
        if isinstance(said.message, Agreement):
            found[site] = said.message.signature
    return found


def tell(c: Coordinator, at: Attempt, told: dict[str, tuple[str, ...]]) -> list[Said]:
    """Ask each site to unmask the set that it is told: with every signature that there is for that."""
    requests = {site: request_for(c, at, site, survivors) for site, survivors in told.items()}
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for site, request in requests.items():
        if request is not None:
            groups.setdefault((request.binding, request.survivors), []).append(site)
    answers = []
    for sites in groups.values():
        request = requests[sites[0]]
        assert request is not None
        signed = replace(request, agreements=signatures(c, at, request, sites))
        answers += [c.world.unmask(site, at.ask.key, signed) for site in sites]
    return answers


def through_the_wire(request: Unmask, then: Callable[[Unmask], Said]) -> Said:
    """A request that no honest software makes, as a site would read it."""
    try:
        return then(Unmask.from_tree(unpack(pack(request.to_tree()))))
    except UnisonoError as error:
        return Said(refused=error.rule)
