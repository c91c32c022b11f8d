"""The adversary's ledger: what a coordinator with its colluders has learned, and whether that is ever more than it may.

It listens to what leaves honest sites, and to nothing else. Whatever left is counted as known, also if it was lost on the
way. It trusts none of the sites' own checks: from the shares that the adversary holds it computes which secrets those
rebuild, from these which masks come off, and from these **every sum of honest vectors that could be read**.

*Which sums can be read.* Honest site i's masked vector is x_i + b_i + (one mask for each partner). The adversary takes off
what it can rebuild. A mask between i and j that it cannot rebuild disappears only if both vectors are added. So the
vectors under one binding are the nodes of a graph, masks that cannot be rebuilt are its edges, and the readable sums are
those over whole connected parts in which every b is known and no edge leads out. (Bonawitz et al., CCS 2017, section 6;
Bell et al., CCS 2020, on connectivity.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from unisono.protection.secagg.messages import (
    Advertise,
    Agreement,
    KeyRoster,
    MaskedInput,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
)
from unisono.protection.secagg.party import Key
from unisono.simulation.plan import Plan


class BrokenInvariant(Exception):
    """The code under test did what must never happen. The message says which invariant, and how."""


@dataclass(eq=False)
class Secrets:
    """The two secrets of one honest site, made for one slot; named by its public mask key.

    told: the mask and channel keys that it was shown as its peers'. dealt_to_it: whose boxes it opened. seed, mask: the
    sites whose share of b, of s, the adversary has. partners: with whom its vector shares masks.
    """

    site: str
    slot: str
    key: bytes
    recipient: str
    told: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    dealt_to_it: dict[str, Secrets] = field(default_factory=dict)
    seed: set[str] = field(default_factory=set)
    mask: set[str] = field(default_factory=set)
    masked: MaskedInput | None = None
    partners: tuple[str, ...] = ()
    step: Key | None = None


class Ledger:
    """What is known and what was promised, over one schedule. Every method is called after a message has left an honest site,
    and raises `BrokenInvariant` if something is wrong now."""

    def __init__(self, plan: Plan) -> None:
        p = plan.parameters
        self.plan = plan
        self.least = max(p.colluding + 2, p.min_sites, p.t)
        self.rolled_back: set[str] = set()
        self.readable: dict[Key, set[frozenset[str]]] = defaultdict(set)
        self.equivocated = False
        """Whether sites were told different things within one slot: keys, sites, questions or survivors."""
        self.beyond = ""
        """The first thing that was learned where nothing is promised: a lying coordinator in the semi-honest setting."""
        self._secrets: dict[bytes, Secrets] = {}
        self._current: dict[tuple[str, str], Secrets] = {}
        self._channels: dict[str, set[bytes]] = defaultdict(set)
        self._boxes: dict[bytes, Secrets] = {}
        self._bindings: dict[str, dict[str, Secrets]] = defaultdict(dict)
        self._of_slot: dict[str, set[str]] = defaultdict(set)
        self._sets_of_step: dict[tuple[str, Key], set[tuple[str, ...]]] = defaultdict(set)
        self._sets_of_slot: dict[tuple[str, Key], set[tuple[str, ...]]] = defaultdict(set)
        self._signed: dict[tuple[str, str, tuple[str, ...]], set[str]] = defaultdict(set)
        self._given: dict[tuple[str, bytes], str] = {}
        self._answers: set[tuple[str, str, tuple[str, ...], bytes]] = set()

    @property
    def everything_is_promised(self) -> bool:
        """A malicious setting: always. Semi-honest: if the coordinator told all sites of a slot the same; on a regular graph,
        which has no common honest site in two quorums there, if it followed the protocol."""
        p = self.plan.parameters
        return p.threat == "malicious" or (not self.equivocated and (p.complete or not self.plan.lying))

    # What leaves an honest site

    def advertised(self, message: Advertise) -> None:
        """A left: public keys. New ones under an old slot's name are new secrets."""
        self._channels[message.site].add(message.channel_key)
        found = self._secrets.get(message.mask_key)
        if found is None:
            found = Secrets(message.site, message.slot, message.mask_key, message.recipient)
            self._secrets[message.mask_key] = found
        if (found.site, found.slot, found.recipient) != (message.site, message.slot, message.recipient):
            raise BrokenInvariant(f"{message.site} advertised one key for two purposes")
        self._current[message.site, message.slot] = found

    def shared(self, keys: KeyRoster, message: Shares) -> None:
        """B left: boxes. The adversary opens those for its colluders, and those sealed to a channel key of its own making."""
        mine = self._current[message.site, message.slot]
        mine.told = {item.site: (item.mask_key, item.channel_key) for item in keys.advertised}
        if message.boxes and mine.recipient == message.site:
            raise BrokenInvariant(f"{message.site}, the sum's recipient, dealt out shares of its own secrets (rule 7)")
        for peer, box in message.boxes.items():
            self._boxes[box] = mine
            if peer in self.plan.colluders or mine.told[peer][1] not in self._channels[peer]:
                mine.seed.add(peer)
                mine.mask.add(peer)

    def masked(self, step: Key, partners: Sequence[str], inbox: SealedInbox, message: MaskedInput) -> None:
        """C left: a vector under masks, with `partners` as the site drew its graph."""
        mine = self._current[message.site, message.slot]
        if mine.masked is not None:
            same = mine.masked.binding == message.binding and bool((mine.masked.words == message.words).all())
            if not same:
                raise BrokenInvariant(f"{message.site} masked two vectors with one slot's keys (rule 6)")
            return
        mine.masked, mine.step, mine.partners = message, step, tuple(partners)
        mine.dealt_to_it = {s: self._boxes[box] for s, box in inbox.boxes.items() if box in self._boxes}
        mine.dealt_to_it[mine.site] = mine
        self._bindings[message.binding][mine.site] = mine
        self._of_slot[message.slot].add(message.binding)
        if len(self._of_slot[message.slot]) > 1:
            self.equivocated = True
        self._look(message.slot)

    def agreed(self, step: Key, request: Unmask, message: Agreement) -> None:
        """A signature left: for one set of a step, ever."""
        self._one_set(message.site, step, request.survivors, "signed")
        self._signed[message.slot, request.binding, request.survivors].add(message.site)

    def unmasked(self, step: Key, request: Unmask, message: UnmaskShares) -> None:
        """D left: shares. A repeated answer tells nothing new."""
        gave = b"".join([*message.self_seeds.values(), *message.mask_keys.values()])
        again = (message.site, message.slot, request.survivors, gave)
        if again in self._answers:
            return
        self._answers.add(again)
        mine = self._current[message.site, message.slot]
        self._one_set(message.site, step, request.survivors, "unmasked")
        self._fit_to_unmask(mine, request)
        self._quorum(request)
        of_slot = self._sets_of_slot[message.slot, step]
        of_slot.add(request.survivors)
        if len(of_slot) > 1:
            self.equivocated = True
            if self.plan.parameters.threat == "malicious":
                raise BrokenInvariant(f"sites unmasked {message.slot} for two sets of survivors (no consistency)")
        self._count(mine, message.self_seeds, "seed")
        self._count(mine, message.mask_keys, "mask")
        self._look(message.slot)

    # What each honest site must keep to

    def _one_set(self, site: str, step: Key, survivors: tuple[str, ...], did: str) -> None:
        sets = self._sets_of_step[site, step]
        sets.add(survivors)
        if len(sets) > 1 and site not in self.rolled_back:
            raise BrokenInvariant(f"{site} {did} step {step[3]} for a second set of survivors (rule 1)")

    def _fit_to_unmask(self, mine: Secrets, request: Unmask) -> None:
        inside = set(request.survivors)
        if mine.masked is None or mine.site not in inside or len(inside) < self.least:
            raise BrokenInvariant(
                f"{mine.site} unmasked a sum of {len(inside)} sites, the least is {self.least} (rule 4)"
            )
        if mine.recipient and mine.recipient not in inside:
            raise BrokenInvariant(f"{mine.site} unmasked a sum whose recipient {mine.recipient} had dropped (rule 7)")
        if not self.plan.partial and inside != set(self.plan.sites):
            raise BrokenInvariant(f"{mine.site} unmasked a part of a frozen set of sites")

    def _quorum(self, request: Unmask) -> None:
        """Malicious: so many signed exactly this that no other set can have as many signatures (2q > n + C)."""
        p = self.plan.parameters
        signed = self._signed[request.slot, request.binding, request.survivors]
        can_sign = len(signed | (self.plan.colluders & set(request.survivors)))
        if p.threat == "malicious" and 2 * can_sign <= p.n + p.colluding:
            raise BrokenInvariant(
                f"{request.slot} was unmasked with {can_sign} signatures over the survivors, no quorum"
            )

    def _count(self, giver: Secrets, owners: Iterable[str], kind: str) -> None:
        for owner in owners:
            secrets = giver.dealt_to_it.get(owner)
            if secrets is None:
                continue  # a colluder's, or not dealt: nothing honest is learned
            known = self._given.setdefault((giver.site, secrets.key), kind)
            if known != kind:
                raise BrokenInvariant(f"{giver.site} gave both shares of {owner} in {giver.slot} (rule 5)")
            getattr(secrets, kind).add(giver.site)

    # What can be read

    def _rebuilt(self, holders: set[str]) -> bool:
        return len(holders) >= self.plan.parameters.t

    def _look(self, slot: str) -> None:
        """Everything that can be read in a slot now, against everything that may."""
        for binding in sorted(self._of_slot[slot]):
            nodes = self._bindings[binding]
            if not any(self._rebuilt(secrets.seed) for secrets in nodes.values()):
                continue  # every vector is still under its own mask
            for secrets in nodes.values():
                if self._rebuilt(secrets.seed) and self._rebuilt(secrets.mask):
                    self._learned(f"both secrets of {secrets.site} can be rebuilt in {slot} (rule 5)", graph_alone=True)
            for part in self._readable_parts(nodes):
                self._judge(part, nodes[min(part)])

    def _judge(self, part: frozenset[str], one: Secrets) -> None:
        assert one.step is not None
        names = ", ".join(sorted(part))
        if one.recipient and one.recipient not in self.plan.colluders:
            self._learned(f"the sum for {one.recipient} can be read by the coordinator, over {names} (rule 7)")
        if len(part) < self.least - len(self.plan.colluders):
            self._learned(f"a sum of {names} can be read: {self.least} sites must be in one (rule 4)")
        self.readable[one.step].add(part)
        if len(self.readable[one.step]) > 1:
            sets = " and ".join(sorted(", ".join(sorted(other)) for other in self.readable[one.step]))
            self._learned(f"step {one.step[3]} can be read over two sets: {sets} (rule 1)")

    def _learned(self, what: str, *, graph_alone: bool = False) -> None:
        """graph_alone: 2t > n + C alone forbids it on the complete graph, whatever the sites are told."""
        if self.everything_is_promised or (graph_alone and self.plan.parameters.complete):
            raise BrokenInvariant(what)
        self.beyond = self.beyond or what

    def _readable_parts(self, nodes: dict[str, Secrets]) -> list[frozenset[str]]:
        found: list[frozenset[str]] = []
        seen: set[str] = set()
        for start in sorted(nodes):
            if start in seen:
                continue
            part, stack, readable = {start}, [start], True
            while stack:
                mine = nodes[stack.pop()]
                readable &= self._rebuilt(mine.seed)
                for peer in self._hidden_with(mine):
                    other = nodes.get(peer)
                    told = mine.told[peer][0]
                    if other is None or other.key != told or other.told.get(mine.site, (b"",))[0] != mine.key:
                        readable = False  # its other half is in no vector that left
                    elif peer not in part:
                        part.add(peer)
                        stack.append(peer)
            seen |= part
            if readable:
                found.append(frozenset(part))
        return found

    def _hidden_with(self, mine: Secrets) -> list[str]:
        """The partners whose mask with this site the adversary cannot rebuild."""
        hidden = []
        for peer in mine.partners:
            theirs = self._secrets.get(mine.told[peer][0])
            made_up = theirs is None or theirs.site != peer
            if peer in self.plan.colluders or made_up or self._rebuilt(mine.mask):
                continue
            if theirs is not None and not self._rebuilt(theirs.mask):
                hidden.append(peer)
        return hidden
