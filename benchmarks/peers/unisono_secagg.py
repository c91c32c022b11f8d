"""Unisono's own secure aggregation for `secure_sum.py`: what one site spends on a sum, and what the coordinator does.

    python benchmarks/peers/unisono_secagg.py stage 5 1000000 FOLDER --lost 0 1
    python benchmarks/peers/unisono_secagg.py site FOLDER --lost 1 --repeats 5
    python benchmarks/peers/unisono_secagg.py coordinator FOLDER --lost 1 --repeats 5

`stage` plays a whole sum with every site's real keys, shares and masked vector, and lays its messages into FOLDER, as
a network would. `site` and `coordinator` each time one party alone, in a process of its own; the coordinator's opened sum
is compared with the vectors'. Packing messages is not counted, and neither is writing them to a disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import memory
import numpy as np
from numpy.typing import NDArray

from unisono.federation.tree import pack
from unisono.protection.encoding import fixed32
from unisono.protection.encoding.decoded import Decoded
from unisono.protection.leaves import Leaf, count, update
from unisono.protection.prg import Entropy
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.graph import Graph, draw
from unisono.protection.secagg.group import Group, group_of
from unisono.protection.secagg.keys import RunKeys
from unisono.protection.secagg.messages import (
    Advertise,
    KeyRoster,
    MaskedInput,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
)
from unisono.protection.secagg.parameters import derive
from unisono.protection.secagg.party import Party
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.secagg.setup import Drawing, SlotSetup
from unisono.protection.secagg.site import SiteSession

ASK = hashlib.sha256(b"the benchmark's question").hexdigest()
RUN = "benchmark"
COLLUDING, MIN_SITES = 1, 3
BOUND = 1.0
GRAPH_SEED = hashlib.sha256(b"the benchmark's graph").digest()

T = TypeVar("T")


def names(sites: int) -> list[str]:
    return [f"site{k:03d}" for k in range(sites)]


def vector(site: str, size: int) -> NDArray[np.float32]:
    """A site's model update, (size,) float32, the same at every call."""
    rng = np.random.default_rng(int(site.removeprefix("site")))
    return rng.standard_normal(size, np.float32) * np.float32(0.05)


def leaves(size: int) -> dict[str, Leaf]:
    return {"update": update((size,), BOUND, "What local training changed."), "patients": count((), 1e6, "Patients.")}


def tree(site: str, size: int) -> dict[str, NDArray[Any]]:
    return {"update": vector(site, size), "patients": np.array(100.0)}


def seeded(seed: str) -> Entropy:
    """Entropy that a second session can repeat: how `stage` has one sum end in two ways."""
    stream = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
    return stream.bytes


@dataclass
class World:
    """The roster, the group and the graph: the same in every process, made from the number of sites alone."""

    sites: list[str]
    keys: dict[str, Identity] = field(repr=False)
    group: Group
    graph: Graph

    @staticmethod
    def of(sites: int) -> World:
        who = names(sites)
        keys = {site: Identity.generate(seeded(f"identity {site}")) for site in who}
        roster = Roster({site: key.public for site, key in keys.items()})
        parameters = derive(sites, COLLUDING, MIN_SITES, hide="secagg+")
        group = group_of(RUN, 0, who, roster, parameters)
        return World(who, keys, group, draw(group.sites, parameters, GRAPH_SEED))

    def drawing(self) -> Drawing:
        found = Drawing(self.group)
        if found.graph is None:
            found.restore(GRAPH_SEED)
        return found

    def survivors(self, lost: int) -> tuple[str, ...]:
        """The first sites stay."""
        return tuple(self.sites[: len(self.sites) - lost])

    def session(self, site: str, slot: str, run_keys: RunKeys, entropy: Entropy) -> SiteSession:
        graph = None if self.group.parameters.complete else self.graph
        return SiteSession(site, self.keys[site], self.group, slot, run_keys, graph=graph, entropy=entropy)

    def streams(self, lost: int) -> int:
        """Masks that the coordinator must rebuild: each survivor's own, and each lost site's with surviving neighbours."""
        stay = set(self.survivors(lost))
        pairs = sum(len(stay & set(self.graph.neighbours(gone))) for gone in self.sites if gone not in stay)
        return len(stay) + pairs


# -- staging -----------------------------------------------------------------------------------------------------------


class Slot:
    """All sites and the set-up of one slot, up to the shares. Twins made with the same entropy have the same secrets."""

    def __init__(self, world: World, slot: str = "slot") -> None:
        self.world = world
        self.at: dict[str, SiteSession] = {}
        self.setup = SlotSetup(world.drawing(), slot)
        for site in world.sites:
            entropy = seeded(f"{slot} {site}")
            self.at[site] = world.session(site, slot, RunKeys(RUN, entropy), entropy)
            self.setup.collect_advertise(self.at[site].advertise())
        keys = self.setup.key_roster()
        for site in world.sites:
            self.setup.collect_shares(self.at[site].share(keys))

    def unmasked(self, request: Unmask) -> list[UnmaskShares]:
        """The survivors' answers, of sessions that have masked."""
        return [self.at[site].unmask(request) for site in request.survivors]


def stage(sites: int, size: int, folder: Path, losses: list[int]) -> dict[str, Any]:
    """Lay every message of one sum into `folder`: uploads once, and the end of the sum for each number of lost sites."""
    world = World.of(sites)
    p = world.group.parameters
    losses = sorted({lost for lost in losses if lost <= p.tolerated_drops})
    total = {lost: np.zeros(size) for lost in losses}
    slot, small = Slot(world), []
    for site in world.sites:
        mine = tree(site, size)
        source = fixed32.Quantiser(mine, leaves(size), sites)
        message = slot.at[site].mask(source, ASK, slot.setup.inbox_for(site))
        message.words.tofile(folder / f"{site}.words")
        small.append({"site": site, "binding": message.binding, "checksum": message.checksum.hex()})
        for lost in losses:
            if site in world.survivors(lost):
                total[lost] += mine["update"]
    plans = []
    for lost in losses:
        twin = slot if lost == losses[0] else Slot(world)
        if twin is not slot:  # one set of survivors a slot, ever: the other end is told by twins with a short vector
            for site in world.sites:
                twin.at[site].mask(np.zeros(1, np.uint32), ASK, twin.setup.inbox_for(site))
        binding = small[0]["binding"]
        request = Unmask(RUN, slot.setup.slot, ASK, binding, world.survivors(lost), {})
        answers = [answer.to_tree() for answer in twin.unmasked(request)]
        (folder / f"unmask{lost}.json").write_text(json.dumps(answers), "utf-8")
        total[lost].tofile(folder / f"total{lost}.float64")
        plans.append(
            {"lost": lost, "streams": world.streams(lost), "masks": len(world.graph.neighbours("site000")) + 1}
        )
    messages = {
        "sites": sites,
        "size": size,
        "keys": [item.to_tree() for item in slot.setup.key_roster().advertised],
        "shares": [slot.setup.shares[site].to_tree() for site in world.sites],
        "masked": small,
    }
    (folder / "messages.json").write_text(json.dumps(messages), "utf-8")
    return {
        "plans": plans,
        "threshold": p.t,
        "tolerated": p.tolerated_drops,
        "graph": p.graph,
        "sentence": p.sentence(),
    }


# -- timing ------------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """CPU time of all threads, and wall time, spent inside `of`, in ms."""

    cpu: float = 0.0
    wall: float = 0.0

    def of(self, work: Callable[[], T]) -> T:
        began, used = time.perf_counter(), time.process_time()
        try:
            return work()
        finally:
            self.cpu += 1e3 * (time.process_time() - used)
            self.wall += 1e3 * (time.perf_counter() - began)


@dataclass(frozen=True)
class Question:
    """An ask, as far as secure aggregation looks at it."""

    key: tuple[str, str, int, int]
    sites: tuple[str, ...]
    question: str = ASK
    digest: str = ASK
    to: str = ""
    partial: bool = True


@dataclass
class Step:
    """What the site has written down of a step; the vector goes to its disk, and is not held here."""

    question: str
    vector: None = None
    slot: str | None = None
    survivors: tuple[str, ...] | None = None
    answer: UnmaskShares | None = None
    closed: bool = False


class Notes:
    """A site's memory without the disk."""

    def __init__(self) -> None:
        self.steps: dict[tuple[str, str, int, int], Step] = {}
        self.drawings: dict[tuple[str, int], tuple[str, bytes | None]] = {}

    def step(self, key: tuple[str, str, int, int]) -> Step | None:
        return self.steps.get(key)

    def remember_vector(self, ask: Question, vector: NDArray[Any]) -> None:  # noqa: ARG002  (to the disk)
        self.steps[ask.key] = Step(ask.question)

    def remember_survivors(self, key: tuple[str, str, int, int], slot: str, survivors: tuple[str, ...]) -> None:
        self.steps[key].slot, self.steps[key].survivors = slot, survivors

    def remember_answer(self, key: tuple[str, str, int, int], slot: str, answer: UnmaskShares) -> None:  # noqa: ARG002
        self.steps[key].answer = answer

    def drawing(self, run: str, epoch: int) -> tuple[str, bytes | None] | None:
        return self.drawings.get((run, epoch))

    def remember_drawing(self, run: str, epoch: int, commitments: str, seed: bytes | None) -> None:
        self.drawings[run, epoch] = (commitments, seed)


class Hall:
    """All sites, in slot after slot of one run. Their keys, and the shares of the neighbours of `me`, are made for real."""

    def __init__(self, world: World, me: str) -> None:
        self.world, self.me = world, me
        self.at: dict[str, Party[Question]] = {
            site: Party(site, world.keys[site], world.group, Notes()) for site in world.sites
        }
        self.drawing = Drawing(world.group)
        if not self.drawing.committed:
            for party in self.at.values():
                self.drawing.collect_commitment(party.commit())
        self.commitments = self.drawing.all_commitments()

    def advertise(self, site: str, slot: str) -> Advertise:
        return self.at[site].advertise(slot, commitments=self.commitments)

    def keys(self, slot: str, mine: Advertise) -> KeyRoster:
        """Everybody's keys, when `me` has advertised."""
        setup = SlotSetup(self.drawing, slot)
        for site in self.world.sites:
            setup.collect_advertise(mine if site == self.me else self.advertise(site, slot))
        return setup.key_roster()

    def inbox(self, keys: KeyRoster) -> SealedInbox:
        """The shares sealed for `me`."""
        assert self.drawing.graph is not None  # known with the first keys
        boxes = {site: self.at[site].share(keys).boxes[self.me] for site in self.drawing.graph.neighbours(self.me)}
        return SealedInbox(self.me, RUN, keys.slot, tuple(self.world.sites), boxes)


def site(folder: Path, lost: int, repeats: int) -> dict[str, Any]:
    """One site, from its keys to its shares for unmasking, in a run's later sum (a run's first also agrees on channel keys)."""
    messages = json.loads((folder / "messages.json").read_text("utf-8"))
    world, size = World.of(messages["sites"]), messages["size"]
    me = world.sites[0]
    hall, clocks = Hall(world, me), []
    party = hall.at[me]
    base = memory.start()
    mine, declared = tree(me, size), leaves(size)
    for repeat in range(repeats + 1):
        slot, clock = f"slot {repeat}", Clock()
        ask = Question((RUN, "update", 0, repeat), world.group.sites)
        advertised = clock.of(lambda slot=slot: hall.advertise(me, slot))  # type: ignore[misc]
        keys = hall.keys(slot, advertised)
        shares = clock.of(lambda keys=keys: party.share(keys))  # type: ignore[misc]
        inbox = hall.inbox(keys)

        def encoded() -> fixed32.Quantiser:
            return fixed32.Quantiser(mine, declared, len(world.sites))

        masked = clock.of(lambda a=ask, s=slot, i=inbox: party.mask(a, s, i, encoded))  # type: ignore[misc]
        request = Unmask(RUN, slot, ASK, masked.binding, world.survivors(lost), {})
        answer = clock.of(lambda key=ask.key, r=request: party.unmask(key, r))  # type: ignore[misc]
        party.close(ask.key)
        sent = masked.words.nbytes + sum(len(pack(m.to_tree())) for m in (advertised, shares, answer))
        del masked  # it has left, before the next one is made
        clocks.append(clock)
    return figure(clocks, sent, base)


def figure(clocks: list[Clock], amount: int, base: int) -> dict[str, Any]:
    """Without the first round, which loads libraries and knows no one yet."""
    most = memory.peak() - base
    return {"cpu": [c.cpu for c in clocks[1:]], "wall": [c.wall for c in clocks[1:]], "bytes": amount, "memory": most}


def coordinator(folder: Path, lost: int, repeats: int) -> dict[str, Any]:
    """The coordinator, from the sites' keys to the decoded sum, on uploads that wait in files."""
    messages = json.loads((folder / "messages.json").read_text("utf-8"))
    world, size = World.of(messages["sites"]), messages["size"]
    keys = [Advertise.from_tree(item) for item in messages["keys"]]
    shares = [Shares.from_tree(item) for item in messages["shares"]]
    unmask_text = (folder / f"unmask{lost}.json").read_text("utf-8")
    answers = [UnmaskShares.from_tree(item) for item in json.loads(unmask_text)]
    heads = {item["site"]: (item["binding"], bytes.fromhex(item["checksum"])) for item in messages["masked"]}
    received = sum(len(pack(m.to_tree())) for m in (*keys, *shares, *answers)) + sum(
        (folder / f"{site}.words").stat().st_size for site in world.survivors(lost)
    )
    declared, drawing, clocks = leaves(size), world.drawing(), []
    base = memory.start()
    for _ in range(repeats + 1):
        opened = None
        clock = Clock()
        opened = clock.of(lambda: one_sum(folder, world, drawing, keys, shares, heads, answers, lost, declared))
        clocks.append(clock)
    result = figure(clocks, received, base)
    assert opened is not None
    expected = np.fromfile(folder / f"total{lost}.float64")
    error, stayed = float(np.abs(opened.tree["update"] - expected).max()), len(world.survivors(lost))
    quantum = 2.0 ** -fixed32.exponent(declared["update"], len(world.sites))  # each part is rounded by less than one
    if error >= stayed * quantum or opened.tree["patients"] != 100 * stayed or opened.clipped:
        raise SystemExit(f"the opened sum is off by {error:.1e}")
    return {**result, "error": error}


def one_sum(
    folder: Path,
    world: World,
    drawing: Drawing,
    keys: list[Advertise],
    shares: list[Shares],
    heads: dict[str, tuple[str, bytes]],
    answers: list[UnmaskShares],
    lost: int,
    declared: dict[str, Leaf],
) -> Decoded:
    """Everything the coordinator does for one sum; its state is made ready for the journal, and not written."""
    setup = SlotSetup(drawing, "slot")
    for item in keys:
        setup.collect_advertise(item)
    setup.key_roster()
    for dealt in shares:
        setup.collect_shares(dealt)
    for name in world.sites:
        setup.inbox_for(name)
    session = AggregatorSession(setup, ASK, fixed32.length(declared), np.uint32)
    for name in world.survivors(lost):
        binding, checksum = heads[name]
        words = np.memmap(folder / f"{name}.words", "<u4", "r")
        session.collect_masked(MaskedInput(name, RUN, "slot", ASK, binding, words, checksum))
        del words
    session.state_tree()
    session.agreed_request()
    for answer in answers:
        session.collect_unmask(answer)
    return fixed32.decode(session.open(), declared, len(world.sites))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    staging = commands.add_parser("stage")
    staging.add_argument("sites", type=int)
    staging.add_argument("size", type=int)
    staging.add_argument("folder", type=Path)
    staging.add_argument("--lost", type=int, nargs="+", default=[0])
    for party in (site, coordinator):
        one = commands.add_parser(party.__name__)
        one.add_argument("folder", type=Path)
        one.add_argument("--lost", type=int, default=0)
        one.add_argument("--repeats", type=int, default=3)
        one.set_defaults(party=party)
    options = parser.parse_args()
    if options.command == "stage":
        print(json.dumps(stage(options.sites, options.size, options.folder, options.lost)))
    else:
        print(json.dumps(options.party(options.folder, options.lost, options.repeats)))


if __name__ == "__main__":
    main()
