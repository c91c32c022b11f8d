"""The engine that carries messages to sites and brings answers back: the one thing that differs between running in this
process and running between Amsterdam and Padua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from unisono.federation.ask import Ask
from unisono.protection.secagg.messages import KeyRoster, SealedInbox, Unmask

Phase = Literal["advertise", "share", "mask", "unmask", "plain", "tell", "close"]
PHASES: tuple[Phase, ...] = ("advertise", "share", "mask", "unmask", "plain", "tell", "close")


@dataclass(frozen=True)
class Advertise:
    """Message A: here is the ask; give fresh keys for its slot."""

    ask: Ask
    phase: Phase = "advertise"


@dataclass(frozen=True)
class Share:
    """Message B: here are everybody's keys; give sealed shares of yours."""

    slot: str
    keys: KeyRoster
    phase: Phase = "share"


@dataclass(frozen=True)
class Mask:
    """Message C: here are the shares sealed for you; give your masked part."""

    slot: str
    inbox: SealedInbox
    phase: Phase = "mask"


@dataclass(frozen=True)
class Reveal:
    """Message D: these sites' parts are in the sum; give what unmasks exactly that."""

    key: tuple[str, str, int, int]
    slot: str
    unmask: Unmask
    phase: Phase = "unmask"


@dataclass(frozen=True)
class Plain:
    """Without secure aggregation (``hide: none``): give your encoded part in the clear."""

    ask: Ask
    phase: Phase = "plain"


@dataclass(frozen=True)
class Tell:
    """A broadcast; nothing comes back."""

    ask: Ask
    phase: Phase = "tell"


@dataclass(frozen=True)
class Close:
    """The step is opened and stored: the site commits its state and forgets the stored vector."""

    key: tuple[str, str, int, int]
    phase: Phase = "close"


Message = Advertise | Share | Mask | Reveal | Plain | Tell | Close


class LinkLost(Exception):
    """The site's link went down before its answer came."""

    def __init__(self, site: str, phase: Phase) -> None:
        super().__init__(f"{site}: link lost at {phase}")
        self.site = site
        self.phase = phase


class Exchange(Protocol):
    """Carries one message to one site and returns its answer."""

    async def request(self, site: str, message: Message) -> object:
        """The site's answer (see `unisono.site.agent.Site.answer`). Raises `LinkLost`, or the site's own `UnisonoError`."""
        ...

    async def online(self, site: str) -> None:
        """Returns when the site has a live link."""
        ...
