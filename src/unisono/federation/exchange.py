"""The engine that carries messages to sites and brings answers back: the one thing that differs between running in this
process and running between Amsterdam and Padua.

What can be sent before it is needed rides along: the next slot's keys with a masked part, its shares with an unmasking, the
news that a step is over with the next question. In steady state a sum takes two round trips, three with signed survivors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from unisono.federation.ask import Ask, Circle
from unisono.protection.prg import Words
from unisono.protection.secagg import messages as secagg

Key = tuple[str, str, int, int]
"""What one opening is counted by: (run, analysis, epoch, step)."""
Phase = Literal[
    "commit", "advertise", "share", "mask", "agree", "unmask", "deliver", "plain", "collect", "tell", "close"
]
PHASES: tuple[Phase, ...] = (
    "commit",
    "advertise",
    "share",
    "mask",
    "agree",
    "unmask",
    "deliver",
    "plain",
    "collect",
    "tell",
    "close",
)


@dataclass(frozen=True)
class Closes:
    """The news that a step is opened and stored, and every one before it. counted: the last step of which this site's part was in
    the opened sum (-1: none): the site then keeps what it staged for that step, and drops what it staged for another."""

    key: Key
    counted: int = -1


@dataclass(frozen=True)
class NewSlot:
    """Key material to be made: its name, and the site that alone will read the sum ("" for the coordinator)."""

    name: str
    recipient: str = ""


@dataclass(frozen=True)
class Commit:
    """Before the first sum on a random graph: commit to a nonce."""

    circle: Circle
    phase: Phase = "commit"

    @property
    def analysis(self) -> str:
        return self.circle.analysis


@dataclass(frozen=True)
class Advertise:
    """Message A: give fresh keys for this slot. commitments: every site's, where a graph is drawn."""

    circle: Circle
    slot: NewSlot
    commitments: tuple[secagg.Commitment, ...] = ()
    phase: Phase = "advertise"

    @property
    def analysis(self) -> str:
        return self.circle.analysis


@dataclass(frozen=True)
class Share:
    """Message B: here are everybody's keys; give sealed shares of yours."""

    circle: Circle
    keys: secagg.KeyRoster
    phase: Phase = "share"

    @property
    def analysis(self) -> str:
        return self.circle.analysis


@dataclass(frozen=True)
class Mask:
    """Message C: here is the question, and the shares sealed for you; give your masked part.

    next: also give keys for this slot. closes: an earlier step is opened and stored."""

    ask: Ask
    slot: str
    inbox: secagg.SealedInbox
    next: NewSlot | None = None
    closes: Closes | None = None
    phase: Phase = "mask"

    @property
    def analysis(self) -> str:
        return self.ask.analysis


@dataclass(frozen=True)
class Masked:
    """The answer to `Mask`."""

    part: secagg.MaskedInput
    next: secagg.Advertise | None = None


@dataclass(frozen=True)
class Agree:
    """Where the coordinator is not trusted: sign that these sites' parts, and no others, are in the sum."""

    key: Key
    unmask: secagg.Unmask
    phase: Phase = "agree"

    @property
    def analysis(self) -> str:
        return self.key[1]


@dataclass(frozen=True)
class Reveal:
    """Message D: these sites' parts are in the sum; give what unmasks exactly that. next: also give shares for that slot."""

    key: Key
    unmask: secagg.Unmask
    next: secagg.KeyRoster | None = None
    phase: Phase = "unmask"

    @property
    def analysis(self) -> str:
        return self.key[1]


@dataclass(frozen=True)
class Revealed:
    """The answer to `Reveal`."""

    shares: secagg.UnmaskShares
    next: secagg.Shares | None = None


@dataclass(frozen=True)
class Deliver:
    """The sum to a site: everything but the recipient's own mask is off; it takes that off and makes its sheet."""

    key: Key
    slot: str
    words: Words
    participants: tuple[str, ...]
    phase: Phase = "deliver"

    @property
    def analysis(self) -> str:
        return self.key[1]


@dataclass(frozen=True)
class Plain:
    """Without secure aggregation (``hide: none``): give your encoded part in the clear."""

    ask: Ask
    closes: Closes | None = None
    phase: Phase = "plain"

    @property
    def analysis(self) -> str:
        return self.ask.analysis


@dataclass(frozen=True)
class Collect:
    """Give your part as it is: the coordinator sees it. Answered only where permit and policy allow it by name."""

    ask: Ask
    closes: Closes | None = None
    phase: Phase = "collect"

    @property
    def analysis(self) -> str:
        return self.ask.analysis


@dataclass(frozen=True)
class Collected:
    """The answer to `Collect`: the part, as a packed tree (`unisono.federation.tree`)."""

    packed: NDArray[np.uint8]


@dataclass(frozen=True)
class Tell:
    """A broadcast; nothing comes back."""

    ask: Ask
    closes: Closes | None = None
    phase: Phase = "tell"

    @property
    def analysis(self) -> str:
        return self.ask.analysis


@dataclass(frozen=True)
class Close:
    """A step is opened and stored: the site commits its memory and forgets the stored vector."""

    closes: Closes
    phase: Phase = "close"

    @property
    def key(self) -> Key:
        return self.closes.key

    @property
    def analysis(self) -> str:
        return self.key[1]


Message = Commit | Advertise | Share | Mask | Agree | Reveal | Deliver | Plain | Collect | Tell | Close


def run_of(message: Message) -> str:
    """The name of the run that a message belongs to."""
    match message:
        case Commit() | Advertise() | Share():
            return message.circle.run
        case Mask() | Plain() | Collect() | Tell():
            return message.ask.run
    return message.key[0]


class LinkLost(Exception):
    """The site's link went down before its answer came."""

    def __init__(self, site: str, phase: Phase) -> None:
        super().__init__(f"{site}: link lost at {phase}")
        self.site = site
        self.phase = phase


class SlotLost(LinkLost):
    """The site is there, and was restarted: it no longer has the secrets of this slot. Another slot can be tried at once."""


class Exchange(Protocol):
    """Carries one message to one site and returns its answer."""

    async def request(self, site: str, message: Message) -> object:
        """The site's answer (see `unisono.site.agent.Site.answer`). Raises `LinkLost`, or the site's own `UnisonoError`."""
        ...

    async def online(self, site: str) -> None:
        """Returns when the site has a live link."""
        ...

    def connected(self, site: str) -> bool:
        """Whether the site has a live link now: a sum that may do without a site does not wait for one that is away."""
        ...
