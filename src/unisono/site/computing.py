"""A site's part of one step: from the worker's arrays, by the disclosure rules, to the encoded vector that is then masked.

What a contribution wants remembered is staged here, before the vector goes out; it becomes the site's memory when the site learns
that the step closed with its part in (`SiteState.close_step`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import Abstention, DataError, UnisonoError, WorkerError
from unisono.federation.ask import WEIGHT, Ask, fits_leaf, leaves_for, weighted
from unisono.federation.contribution import Memory
from unisono.federation.tree import pack
from unisono.methods.base import Method
from unisono.protection import disclosure
from unisono.protection.encoding.codec import codec
from unisono.protection.leaves import Leaf
from unisono.protection.prg import Source, system_entropy
from unisono.site import gate, near_twins
from unisono.site.gate import Admitted
from unisono.site.policy import Policy
from unisono.site.state import SiteState
from unisono.site.worker import CohortView, Worker


class Computing:
    """The parts of one site. name: the site's, for errors."""

    def __init__(self, name: str, policy: Policy, state: SiteState) -> None:
        self.name = name
        self.policy = policy
        self.state = state
        self._compared: set[tuple[object, ...]] = set()

    def frozen(self, run: str, worker: Worker) -> None:
        """`DataError` if the data is not what the run was begun on."""
        now = worker.digest()
        if self.state.snapshot_of(run, now) != now:
            raise DataError(
                "The data is not the one that this run was begun on.",
                rule="frozen-data",
                remedy="Put the data back as it was and run again, or begin anew with --fresh.",
                where=f"site {self.name}",
            )

    def memory(self, ask: Ask) -> Memory:
        """What this site remembers in the ask's analysis."""
        return self.state.memory(ask.run, ask.analysis, ask.epoch)

    def encoded(self, ask: Ask, admitted: Admitted, method: Method[Any]) -> Source:
        """The encoded part of a step that was not answered before: computed and checked. `Abstention` where the site has none, and
        the sum may do without it."""
        try:
            cohort, fit = self._cohort(ask, admitted, method)
            tree, leaves = self._part(ask, method, admitted.worker, cohort)
            source = codec(ask.encoding).source(tree, leaves, len(ask.sites), system_entropy)
        except UnisonoError as error:
            raise self._abstention(ask, error) or error from error
        self._remember(ask, method, cohort, fit)
        return source

    def collected(self, ask: Ask, admitted: Admitted, method: Method[Any]) -> NDArray[np.uint8]:
        """The part as it is, a packed tree: what the coordinator may see by permit and policy."""
        cohort, fit = self._cohort(ask, admitted, method)
        declaration = gate.declaration_of(gate.contribution_of(method, ask), ask)
        tree = admitted.worker.contribution(ask, self.memory(ask)).tree
        _declared(ask, tree, dict(declaration.leaves))
        for name, leaf in declaration.leaves.items():
            if not fits_leaf(tree[name], leaf):
                raise DataError(
                    f"The leaf {name!r} is not as it was declared.",
                    rule="declared-bound",
                    remedy="Nothing left the site. This is a fault of the method; report it to its author.",
                )
        self._remember(ask, method, cohort, fit)
        return np.frombuffer(pack(tree), np.uint8)

    # -- the checks, in their order -----------------------------------------------------------------------------------

    def _cohort(self, ask: Ask, admitted: Admitted, method: Method[Any]) -> tuple[CohortView, tuple[object, ...]]:
        self.frozen(ask.run, admitted.worker)
        cohort = admitted.worker.cohort(ask)
        disclosure.enough_patients(cohort.n, self.policy.min_patients)
        disclosure.enough_for_parameters(cohort.n, method.parameters, self.policy.parameter_fraction)
        fit = (ask.run, ask.study, ask.analysis, ask.method, ask.sites)
        if fit not in self._compared:  # the data is frozen: once a fit is enough
            may_leave = admitted.permit.may_leave
            near_twins.check(self.state, ask, method, cohort.rows, self.policy, may_leave=may_leave)
            near_twins.check_split(self.state, method, cohort, self.policy)
        return cohort, fit

    def _remember(self, ask: Ask, method: Method[Any], cohort: CohortView, fit: tuple[object, ...]) -> None:
        if fit not in self._compared:
            near_twins.remember(self.state, ask, method, cohort.rows)
            near_twins.remember_split(self.state, ask, method, cohort)
            self._compared.add(fit)

    def _part(
        self, ask: Ask, method: Method[Any], worker: Worker, cohort: CohortView
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Leaf]]:
        """The worker's arrays, weighted for a mean, and their leaves; small own cells suppressed where nothing hides them."""
        bound = gate.contribution_of(method, ask)
        declaration = gate.declaration_of(bound, ask)
        leaves = leaves_for(ask.operation, declaration, ask.facts)
        part = worker.contribution(ask, self.memory(ask) if bound.contribution.remembers else {})
        tree = dict(part.tree)
        _declared(ask, tree, dict(declaration.leaves))
        if ask.operation == "mean":
            tree = {name: weighted(leaves[name], value, cohort.n, ask.facts) for name, value in tree.items()}
            tree[WEIGHT] = np.asarray(cohort.n)
        if ask.hide == "none" and self.policy.suppress_own_cells:
            tree = {
                name: disclosure.suppress_small(value, self.policy.min_count)[0] if leaves[name].integer else value
                for name, value in tree.items()
            }
        if part.memory is not None:
            self._finite(part.memory)
            self.state.stage_memory(ask.key, part.memory)
        return tree, leaves

    def _finite(self, memory: Memory) -> None:
        """What is not finite would spoil every later step."""
        if not all(np.isfinite(array).all() for array in memory.values() if array.dtype.kind == "f"):
            raise DataError(
                "What this site would remember is not finite.",
                rule="finite-contribution",
                remedy="The site abstains. Lower the learning rate, or clip gradients.",
            )

    def _abstention(self, ask: Ask, error: UnisonoError) -> UnisonoError | None:
        """For a sum that may do without this site: what keeps it from having a part, without being anybody's fault."""
        ours = isinstance(error, WorkerError) and error.rule in ("worker-limits", "worker-died")
        if ask.partial and (ours or error.rule == "finite-contribution") and not isinstance(error, Abstention):
            return Abstention(error.what, rule=error.rule, remedy=error.remedy, where=error.where)
        return None


def _declared(ask: Ask, tree: dict[str, NDArray[Any]], leaves: dict[str, Leaf]) -> None:
    if set(tree) != set(leaves):
        raise DataError(
            f"{ask.method}.{ask.contribution} gave leaves {sorted(tree)}, declared {sorted(leaves)}.",
            rule="typed-leaves",
            remedy="This is a fault of the method; report it to its author.",
        )
