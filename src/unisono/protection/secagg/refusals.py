"""What a site refuses in secure aggregation, in words: each with its rule, its remedy, and where it helps, the evidence."""

from __future__ import annotations

from collections.abc import Collection

from unisono.errors import ProtocolError
from unisono.protection.secagg.messages import Unmask


def own_identity(me: str) -> ProtocolError:
    """The roster has another key for this site, or none."""
    return ProtocolError(
        f"{me}'s own key is not the one that the roster has for it.",
        rule="pinned-roster",
        remedy="This site has a new identity or an old roster: enrol again and have the permit renewed.",
    )


def own_keys(me: str) -> ProtocolError:
    """The coordinator relays other keys in this site's name."""
    return ProtocolError(
        f"The keys relayed as {me}'s are not the ones it advertised for this slot.",
        rule="own-keys",
        remedy="Another copy of this site is running with the same identity, or keys were changed on the way.",
    )


def no_such_recipient(site: str) -> ProtocolError:
    """A sum to a site goes to one of its group, fixed when the keys are made."""
    return ProtocolError(
        f"{site} is not the recipient of this sum.",
        rule="recipient",
        remedy="A sum is read by the coordinator, or by the one site that its keys were made for.",
    )


def recipient_dropped(recipient: str) -> ProtocolError:
    """Rule 7."""
    return ProtocolError(
        f"The sum is for {recipient}, which is not among its survivors.",
        rule="recipient-survives",
        remedy="Nothing was given. Without its recipient a sum is not opened; start a new attempt when it is back.",
    )


def another_delivery() -> ProtocolError:
    """A sum to a site is delivered once."""
    return ProtocolError(
        "Other words were delivered for this sum before.",
        rule="one-delivery",
        remedy="The coordinator tries out what its reader makes of them. Refused and logged.",
    )


def no_graph(me: str) -> ProtocolError:
    """Shares were asked for before the graph was drawn."""
    return ProtocolError(
        f"{me} does not know who its neighbours are yet.",
        rule="graph-nonces",
        remedy="The graph is drawn from every site's committed nonce; ask for the commitments first.",
    )


def no_question() -> ProtocolError:
    """Masks must be bound to an ask."""
    return ProtocolError(
        "Only a vector for one named ask can be masked.",
        rule="encoding-length",
        remedy="This is a fault of the site's software; report it.",
    )


def other_words(found: int, expected: int) -> ProtocolError:
    """What was delivered to the recipient is not of the length and type of what it sent."""
    return ProtocolError(
        f"A sum of {found} words was delivered, or of another type; {expected} were masked.",
        rule="encoding-length",
        remedy="The coordinator must deliver exactly the sum it has; nothing was used of this.",
    )


def order(me: str, action: str, stage: str) -> ProtocolError:
    """A message out of turn, or a second time."""
    return ProtocolError(
        f"{me} cannot {action} now: {stage}.",
        rule="message-order",
        remedy="Each message of a slot is answered once, in order; a retry is a new attempt with fresh keys.",
    )


def key_roster(missing: Collection[str], extra: Collection[str]) -> ProtocolError:
    """The advertised keys are not those of enough sites of the group."""
    return ProtocolError(
        "The advertised keys are not those of enough sites of this group: "
        f"{_named('missing', missing)}{_named('unexpected', extra)}nothing was sent.",
        rule="key-roster",
        remedy="The coordinator must relay exactly what the sites advertised.",
    )


def sealed_inbox() -> ProtocolError:
    """Boxes are missing or extra."""
    return ProtocolError(
        "The sealed shares are not one from each neighbour that dealt them.",
        rule="sealed-inbox",
        remedy="The coordinator must relay exactly what the sites sealed; start a new attempt.",
    )


def too_few(found: int, least: int, what: str) -> ProtocolError:
    """Rule 4."""
    return ProtocolError(
        f"{found} sites {what}; the least is {least}.",
        rule="enough-survivors",
        remedy="Start a new attempt when more sites are there.",
    )


def survivor_set() -> ProtocolError:
    """The survivors are not of this attempt, or this site is not among them."""
    return ProtocolError(
        "The survivors named are not sites that dealt shares here, or this site is not among them.",
        rule="survivor-set",
        remedy="Nothing was given. Look at the coordinator's log; the attempt is over.",
    )


def different_questions(ours: str, theirs: str) -> ProtocolError:
    """Rule 2."""
    return ProtocolError(
        "The request to unmask names another question, other keys or other sites than those that were answered.",
        rule="different-questions",
        remedy="The coordinator asked its sites different things. Nothing was given; this is logged.",
        evidence={"answered": ours, "asked to unmask": theirs},
    )


def second_set(first: Collection[str], second: Collection[str]) -> ProtocolError:
    """Rule 1, within a slot."""
    return ProtocolError(
        "The sum was already agreed on or unmasked for another set of survivors.",
        rule="one-opening",
        remedy="The difference of two openings would be one hospital's part. Nothing was given.",
        evidence={"first": ", ".join(first), "second": ", ".join(second)},
    )


def no_quorum(good: int, quorum: int, wrong: Collection[str], request: Unmask) -> ProtocolError:
    """The consistency check."""
    told = f"; not good: {', '.join(wrong)}" if wrong else ""
    return ProtocolError(
        f"{good} sites signed exactly this set of survivors, {quorum} must{told}.",
        rule="consistency",
        remedy="Either too few sites are there, or the coordinator tells them different stories. Nothing was given.",
        evidence={
            "survivors": ", ".join(request.survivors),
            "binding": request.binding,
            **{f"signature of {site}": signature.hex() for site, signature in sorted(request.agreements.items())},
        },
    )


def another_opening(step: int, name: str, first: Collection[str] = (), second: Collection[str] = ()) -> ProtocolError:
    """Rule 1, across attempts: the refusal that protects a single hospital's part."""
    return ProtocolError(
        f"Step {step} of {name!r} was already unmasked, for one set of sites; it is not opened again or for another.",
        rule="one-opening-per-step",
        remedy="Two openings of one step, one without a site, would show that site's part. Report the coordinator.",
        evidence={"first": ", ".join(first), "second": ", ".join(second)},
    )


def another_question(step: int, name: str, first: str, second: str) -> ProtocolError:
    """A step has one question."""
    return ProtocolError(
        f"Step {step} of {name!r} was asked before, with another question.",
        rule="one-question-per-step",
        remedy="A step is asked once. Two questions under one step number are refused; report the coordinator.",
        evidence={"first": first, "second": second},
    )


def not_everyone(missing: Collection[str]) -> ProtocolError:
    """A statistical fit is over one frozen set: no sum of it is opened over fewer."""
    return ProtocolError(
        f"The sum leaves out {', '.join(sorted(missing))}, and it is one of a fit over one frozen set of sites.",
        rule="frozen-sites",
        remedy="Beside the fit's other sums it would show the part of who is left out. Nothing was given; report the "
        "coordinator.",
    )


def _named(word: str, sites: Collection[str]) -> str:
    return f"{word}: {', '.join(sorted(sites))}; " if sites else ""
