"""A federation without sites' folders, network or masks: each site's part is computed, encoded as under the real one, added and decoded.

The real federation opens the same sums (`tests/test_workbench_light.py` compares the two), so a method that is run here finds what
it finds there, up to the random rounding of model updates. For references (everybody's patients at one site, one site alone) and
for sweeps over many settings, in a simulation, where all patients are in this process anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unisono.errors import Abstention, ParticipationError
from unisono.federation.ask import WEIGHT, leaves_of, opened_tree, weighted
from unisono.federation.contribution import BoundContribution, BoundReceipt, Facts, Kept
from unisono.federation.federation import Federation
from unisono.federation.tree import Tree, pack, unpack
from unisono.methods.base import Method, Result
from unisono.methods.cohort import CohortFlow, CohortSpec, establish
from unisono.methods.registry import build
from unisono.protection.encoding.codec import codec, encode, encoding_of
from unisono.study.cohort import select
from unisono.study.document import Study
from unisono.study.table import Table


@dataclass
class LightSite:
    """One site: its patients as the method prepared them, how many they are, what it remembers, and what it kept of every `tell`."""

    name: str
    data: Any = field(repr=False)
    patients: int
    memory: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    kept: list[Kept] = field(default_factory=list, repr=False)


class LightFederation:
    """The operations of `Federation` that a method uses, over `sites` in this process. seed: of the rounding.

    asked, parts: of each contribution, the arguments and each site's part when it was asked for last."""

    def __init__(
        self,
        sites: Sequence[LightSite],
        facts: Facts,
        seed: int = 0,
        heard: Callable[[str], None] = lambda _: None,
        *,
        tells: bool = True,
    ) -> None:
        """heard: told the name of each contribution whose sum was opened. tells: whether sites do what a `tell` asks."""
        self.members = {site.name: site for site in sorted(sites, key=lambda site: site.name)}
        self.sites: tuple[str, ...] = tuple(self.members)
        self.counted: tuple[str, ...] = ()
        self.behind = 0
        self.facts = facts
        self.patience, self.deadline = 0.0, 0.0
        self.stragglers_after: float | None = None
        self.sent_bytes = 0
        self.asked: dict[str, tuple[Any, ...]] = {}
        self.parts: dict[str, dict[str, dict[str, NDArray[Any]]]] = {}
        self._heard, self._tells = heard, tells
        self._entropy = np.random.default_rng(seed).bytes

    async def sum(self, contribution: BoundContribution[..., Any], *arguments: Any) -> Any:
        """The sum of a contribution over the sites."""
        return self._open("sum", contribution, arguments)

    async def mean(self, contribution: BoundContribution[..., Any], *arguments: Any) -> Any:
        """The patient-weighted mean of a contribution."""
        return self._open("mean", contribution, arguments)

    async def tell(self, receipt: BoundReceipt[...], *arguments: Any) -> None:
        """Broadcast; what each site keeps of it is in its `kept`."""
        fixed = _copied(arguments)
        for site in self.members.values() if self._tells else ():
            site.kept.append(receipt.kept(site.data, dict(site.memory), *fixed))

    async def collect(self, contribution: BoundContribution[..., Any], *arguments: Any) -> list[Any]:
        """Every site's own part, in the order of `sites`."""
        return [await self.collect_from(name, contribution, *arguments) for name in self.sites]

    async def collect_from(self, name: str, contribution: BoundContribution[..., Any], *arguments: Any) -> Any:
        """One site's own part."""
        site = self.members[name]
        part = contribution.part(site.data, dict(site.memory), *_copied(arguments))
        site.memory = part.memory if part.memory is not None else site.memory
        self.sent_bytes += sum(array.nbytes for array in part.tree.values()) // len(self.sites)
        return contribution.rebuild(part.tree)

    def snapshot(self, state: Tree) -> None:
        """Nothing is written down here."""
        del state

    def restored(self) -> Tree | None:
        """Every run is from its beginning."""
        return None

    def _open(self, operation: str, contribution: BoundContribution[..., Any], arguments: Sequence[Any]) -> Any:
        leaves = leaves_of(cast(Any, operation), contribution, self.facts, tuple(arguments))
        encoding = codec(encoding_of(leaves))
        total = np.zeros(encoding.length(leaves), encoding.dtype)
        remembered: dict[str, dict[str, NDArray[Any]]] = {}
        self.asked[contribution.name], self.parts[contribution.name] = tuple(arguments), {}
        for site in self.members.values():
            try:
                part = contribution.part(site.data, dict(site.memory), *_copied(arguments))
            except Abstention:
                if encoding.name != "fixed32":
                    raise
                continue
            tree = part.tree
            self.parts[contribution.name][site.name] = tree
            if operation == "mean":
                tree = {k: weighted(leaves[k], value, site.patients, self.facts) for k, value in tree.items()}
                tree[WEIGHT] = np.asarray(site.patients)
            total += encode(encoding, tree, leaves, len(self.sites), self._entropy)
            remembered[site.name] = part.memory if part.memory is not None else site.memory
        if not remembered:
            raise ParticipationError(
                "No site has a part in this sum.", rule="min_sites", remedy="Look at why each of them abstained."
            )
        for name, memory in remembered.items():
            self.members[name].memory = memory
        self.counted = tuple(remembered)
        self.sent_bytes += total.nbytes
        self._heard(contribution.name)
        opened = encoding.decode(total, leaves, len(self.sites)).tree
        self.behind = int(opened[WEIGHT]) if operation == "mean" else 0
        return contribution.rebuild(opened_tree(operation, leaves, self.facts, opened))


def answer(method: Method[Any], federation: LightFederation) -> Result:
    """Run a method's coordinator half."""
    return asyncio.run(method.run(cast(Federation, federation)))


@dataclass(frozen=True)
class Cohort:
    """The patients of one analysis: each site's rows (by its name), and what the sites opened about them."""

    tables: Mapping[str, Table]
    facts: Facts


def cohort(study: Study, analysis: str, tables: Mapping[str, Table]) -> Cohort:
    """Open the cohort as a run does, and choose each site's patients."""
    flow = CohortFlow(study, analysis, CohortSpec())
    members = [LightSite(name, flow.prepare(table.only(flow.variables())), table.n) for name, table in tables.items()]
    federation = LightFederation(members, Facts(0))
    facts = asyncio.run(establish(cast(Federation, federation), study, analysis)).facts
    method = build(study, analysis)
    chosen = {
        name: select(table, study, method.variables(), method.rows, facts.imputed).table
        for name, table in tables.items()
    }
    return Cohort(chosen, facts)


def _copied(arguments: Sequence[Any]) -> Any:
    """As they arrive at a site: read-only copies."""
    return unpack(pack(list(arguments)))
