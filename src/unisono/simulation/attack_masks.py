"""Lies while vectors are masked: other questions, other sites, other boxes."""

from __future__ import annotations

from dataclasses import replace

from unisono.errors import UnisonoError
from unisono.protection.secagg.keys import BOX_BYTES
from unisono.protection.secagg.messages import SealedInbox
from unisono.simulation.attack_tools import Attack, some_set, victims
from unisono.simulation.coordinator import Attempt, Coordinator
from unisono.simulation.world import Said


def _inbox(at: Attempt, site: str, dealt: tuple[str, ...] | None = None) -> SealedInbox | None:
    try:
        return at.setup.inbox_for(site, dealt)
    except UnisonoError:
        return None  # the coordinator's own half does not make it: it has too little


def another_question(c: Coordinator, at: Attempt) -> list[Said]:
    """Some sites are asked something else: under another step's number, this one's, or only another attempt's."""
    number = at.ask.key[3]
    asks = (
        c.ask(number, 9, " with another model"),
        replace(at.ask, digest=c.ask(number, 9).digest),
        c.ask(c.dice.randint(1, c.plan.steps), 9),
    )
    ask = c.dice.choice(asks)
    inboxes = {site: _inbox(at, site) for site in victims(c, at.setup.dealt)}
    return [c.world.mask(site, ask, at.slot, inbox) for site, inbox in inboxes.items() if inbox is not None]


def another_reader(c: Coordinator, at: Attempt) -> list[Said]:
    """The question says that another party will read the answer than the keys do."""
    others = [name for name in ("", *c.plan.sites) if name != c.plan.recipient]
    ask = replace(at.ask, to=c.dice.choice(others))
    inboxes = {site: _inbox(at, site) for site in victims(c, at.setup.dealt)}
    return [c.world.mask(site, ask, at.slot, inbox) for site, inbox in inboxes.items() if inbox is not None]


def other_sites(c: Coordinator, at: Attempt) -> list[Said]:
    """Some sites are told that fewer dealt shares."""
    told = {site: some_set(c, at, site) for site in victims(c, at.setup.dealt, most=3)}
    if c.dice.happens(0.5) and told:  # all the same smaller set
        smaller = told[min(told)]
        told = {site: smaller for site in told if site in smaller}
    inboxes = {site: _inbox(at, site, dealt) for site, dealt in told.items()}
    return [c.world.mask(site, at.ask, at.slot, inbox) for site, inbox in inboxes.items() if inbox is not None]


def one_alone(c: Coordinator, at: Attempt) -> list[Said]:
    """One site is told of as few others as it believes: if only these could be made to seem dropped, it stood alone."""
    for site in victims(c, at.setup.dealt, most=1):
        at.singled_out = site
        at.shown = some_set(c, at, site, fewest=True)
        inbox = _inbox(at, site, at.shown)
        return [] if inbox is None else [c.world.mask(site, at.ask, at.slot, inbox)]
    return []


def too_few(c: Coordinator, at: Attempt) -> list[Said]:
    """Some sites are told that hardly anyone dealt."""
    answers = []
    for site in victims(c, at.setup.dealt):
        whole = _inbox(at, site)
        if whole is None:
            return []
        dealt = some_set(c, at, site, least=c.dice.randint(1, c.plan.parameters.least_survivors - 1))
        dealt = dealt[: c.plan.parameters.least_survivors - 1]
        boxes = {sender: box for sender, box in whole.boxes.items() if sender in dealt}
        answers.append(c.world.mask(site, at.ask, at.slot, replace(whole, dealt=dealt, boxes=boxes)))
    return answers


def other_boxes(c: Coordinator, at: Attempt) -> list[Said]:
    """A box altered, left out, under another sender's name, or of another slot."""
    answers = []
    for site in victims(c, at.setup.dealt):
        whole = _inbox(at, site)
        if whole is None or not whole.boxes:
            return []
        boxes = dict(whole.boxes)
        one, other = c.dice.choice(sorted(boxes)), c.dice.choice(sorted(boxes))
        how = c.dice.randrange(4)
        if how == 0:
            boxes[one] = bytes(BOX_BYTES)
        elif how == 1:
            del boxes[one]
        elif how == 2 and one != other:
            boxes[one], boxes[other] = boxes[other], boxes[one]
        else:
            before = [old.setup.shares[one].boxes.get(site) for old in c.past[:-1] if one in old.setup.shares]
            boxes[one] = next((box for box in before if box not in (None, boxes[one])), None) or bytes(BOX_BYTES)
        answers.append(c.world.mask(site, at.ask, at.slot, replace(whole, boxes=boxes)))
    return answers


def old_inbox(c: Coordinator, at: Attempt) -> list[Said]:
    """The boxes of another slot."""
    old = [past for past in c.past[:-1] if past.slot != at.slot and past.setup.shares]
    if not old:
        return []
    past = c.dice.choice(old)
    inboxes = {site: _inbox(past, site) for site in victims(c, past.setup.dealt)}
    return [c.world.mask(site, at.ask, at.slot, inbox) for site, inbox in inboxes.items() if inbox is not None]


BEFORE_MASKS: dict[str, Attack] = {
    "asks another question": another_question,
    "asks for another reader": another_reader,
    "shows other sites": other_sites,
    "shows one site as few as it may": one_alone,
    "shows too few sites": too_few,
    "swaps boxes": other_boxes,
    "replays old boxes": old_inbox,
}
