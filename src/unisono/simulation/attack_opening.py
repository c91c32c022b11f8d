"""Lies when the sum is to be opened: two sets of survivors, too few, twice, without signatures, without the recipient."""

from __future__ import annotations

from dataclasses import replace

from unisono.protection.secagg.messages import Agreement
from unisono.simulation.attack_masks import another_question, other_sites
from unisono.simulation.attack_tools import Attack, request_for, signatures, some_set, tell, through_the_wire, victims
from unisono.simulation.coordinator import Attempt, Coordinator
from unisono.simulation.world import Said

_NOTHING = "0" * 64


def two_sets(c: Coordinator, at: Attempt) -> list[Said]:
    """Half of the sites are told one set of survivors, half another."""
    dealt = [site for site in at.setup.dealt if not c.world.colludes(site)]
    if not dealt:
        return []
    sets = [some_set(c, at, c.dice.choice(dealt)) for _ in range(2)]
    told = {}
    for site in c.dice.sample(dealt, len(dealt)):
        fitting = [named for named in sets if site in named]
        if fitting:
            told[site] = c.dice.choice(fitting)
    return tell(c, at, told)


def a_set_each(c: Coordinator, at: Attempt) -> list[Said]:
    """Every site is told a set of its own, chosen so that one site survives in all and the others drop for most: above all
    those that the one was told of, for its masks with these are between it and the coordinator."""
    dealt = [site for site in at.setup.dealt if not c.world.colludes(site)]
    if not dealt:
        return []
    kept = at.singled_out if at.singled_out in dealt else c.dice.choice(dealt)
    told = {}
    for site in dealt:
        if site == at.singled_out:
            told[site] = at.shown
            continue
        first = [name for name in {site: 0, kept: 0, c.plan.recipient: 0} if name in at.setup.dealt]
        others = c.dice.sample(at.setup.dealt, len(at.setup.dealt))
        ordered = [*first, *sorted(set(others) - set(first), key=lambda name: (name in at.shown, others.index(name)))]
        told[site] = tuple(sorted(ordered[: c.plan.parameters.least_survivors]))
    return tell(c, at, told)


def two_attempts(c: Coordinator, at: Attempt) -> list[Said]:
    """Two attempts of one step are open at once: each site is asked to unmask one of them, over different sets."""
    others = [old for old in c.past if old.ask.key == at.ask.key and old.slot != at.slot and old.setup.shares]
    if not others:
        return []
    sides = {at.slot: at, others[-1].slot: others[-1]}
    sets: dict[str, tuple[str, ...]] = {}
    told: dict[str, dict[str, tuple[str, ...]]] = {slot: {} for slot in sides}
    for slot, side in sides.items():
        dealt = [site for site in side.setup.dealt if not c.world.colludes(site)]
        if not dealt:
            return []
        sets[slot] = some_set(c, side, c.dice.choice(dealt))
    for site in c.world.honest:
        slot = c.dice.choice(sorted(sides))
        if site in sets[slot]:
            told[slot][site] = sets[slot]
    return [said for slot, side in sides.items() for said in tell(c, side, told[slot])]


def second_set(c: Coordinator, at: Attempt) -> list[Said]:
    """Who has unmasked is asked again for another set: with it, both shares of a site would be out."""
    return tell(c, at, {site: some_set(c, at, site) for site in victims(c, at.setup.dealt, most=3)})


def subset(c: Coordinator, at: Attempt) -> list[Said]:
    """Everyone is asked for one smaller set."""
    dealt = [site for site in at.setup.dealt if not c.world.colludes(site)]
    if not dealt:
        return []
    smaller = some_set(c, at, c.dice.choice(dealt))
    return tell(c, at, {site: smaller for site in dealt if site in smaller})


def too_few(c: Coordinator, at: Attempt) -> list[Said]:
    """A set with fewer than may be opened."""
    told = {}
    for site in victims(c, at.setup.dealt, most=3):
        named = [name for name in some_set(c, at, site) if name != site]
        told[site] = tuple(sorted([site, *named[: c.dice.randint(0, c.plan.parameters.least_survivors - 2)]]))
    return tell(c, at, told)


def without_recipient(c: Coordinator, at: Attempt) -> list[Said]:
    """The recipient is said to have dropped."""
    if not c.plan.recipient:
        return []
    told = {}
    for site in [name for name in at.setup.dealt if name != c.plan.recipient and not c.world.colludes(name)]:
        told[site] = tuple(name for name in at.setup.dealt if name != c.plan.recipient)
    return tell(c, at, told)


def without_itself(c: Coordinator, at: Attempt) -> list[Said]:
    """A site is told that it dropped itself: with the others' shares of its key its vector could be read."""
    told = {}
    for site in victims(c, at.setup.dealt):
        told[site] = tuple(name for name in at.setup.dealt if name != site)
    return tell(c, at, told)


def malformed(c: Coordinator, at: Attempt) -> list[Said]:
    """A site named twice, or a site that never dealt."""
    answers = []
    for site in victims(c, at.setup.dealt):
        names = at.setup.dealt
        wrong = (*names, names[-1]) if c.dice.happens(0.5) else tuple(sorted({*names, "site99"}))
        request = request_for(c, at, site, wrong)
        if request is not None:
            answers.append(through_the_wire(request, lambda r: c.world.unmask(site, at.ask.key, r)))  # noqa: B023
    return answers


def other_binding(c: Coordinator, at: Attempt) -> list[Said]:
    """The request names other keys or another question than were answered."""
    answers = []
    for site in victims(c, at.setup.dealt):
        request = request_for(c, at, site, some_set(c, at, site))
        if request is None:
            continue
        wrong = c.dice.choice(
            (
                replace(request, binding=_NOTHING),
                replace(request, ask_digest=_NOTHING),
                replace(request, slot=_NOTHING),
                replace(request, run=_NOTHING),
            )
        )
        answers.append(c.world.unmask(site, at.ask.key, wrong))
    return answers


def other_step(c: Coordinator, at: Attempt) -> list[Said]:
    """The request is put under another step, which was not unmasked yet."""
    others = sorted({old.ask.key for old in c.past} - {at.ask.key})
    if not others:
        return []
    key, answers = c.dice.choice(others), []
    for site in victims(c, at.setup.dealt):
        request = request_for(c, at, site, some_set(c, at, site))
        if request is not None:
            answers.append(c.world.unmask(site, key, request))
    return answers


def without_signatures(c: Coordinator, at: Attempt) -> list[Said]:
    """Signatures are missing, one short, forged, or over another set. The semi-honest setting needs none."""
    if not c.world.group.malicious:
        return []
    answers = []
    for site in victims(c, at.setup.dealt, most=3):
        request = request_for(c, at, site, some_set(c, at, site))
        if request is None:
            continue
        good = signatures(c, at, request, [site])
        kept = dict(sorted(good.items())[: max(0, c.plan.parameters.quorum - 1)])
        forged = {name: next(iter(good.values()), bytes(64)) for name in request.survivors}
        over_others = {
            sender: m.signature for sender, m in c.world.heard.get("agreement", []) if isinstance(m, Agreement)
        }
        agreements = c.dice.choice(({}, kept, forged, over_others))
        if sum(name in good for name in agreements) < c.plan.parameters.quorum:
            answers.append(c.world.unmask(site, at.ask.key, replace(request, agreements=agreements)))
    return answers


def old_sets(c: Coordinator, _at: Attempt) -> list[Said]:
    """Some earlier attempt, of any step, is to be unmasked again: for another set."""
    old = [past for past in c.past if past.setup.shares]
    return second_set(c, c.dice.choice(old)) if old else []


WHEN_CLOSED: dict[str, Attack] = {
    "tells two sets of survivors": two_sets,
    "tells each site another set": a_set_each,
    "opens two attempts at once": two_attempts,
    "retries with a subset": subset,
    "unmasks too few": too_few,
    "says the recipient dropped": without_recipient,
    "says to a site that it dropped": without_itself,
    "names a site twice, or a stranger": malformed,
    "asks to unmask another question": other_binding,
    "unmasks under another step": other_step,
    "unmasks without a quorum's signatures": without_signatures,
    "asks another question, again": another_question,
    "shows other sites, again": other_sites,
}
AFTERWARDS: dict[str, Attack] = {
    "asks again for another set": second_set,
    "retries with a subset": subset,
    "opens two attempts at once": two_attempts,
    "asks an old step again": old_sets,
    "tells each site another set": a_set_each,
}
