"""What the coordinator asks: one step of an analysis, in full. Its digest goes into every mask, so that sites that were
asked different questions cannot be summed (secure aggregation, rule 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from unisono.errors import ProtocolError
from unisono.federation.contribution import BoundContribution, Declaration, Facts
from unisono.federation.tree import Tree, digest
from unisono.protection.leaves import Leaf, count

Operation = Literal["sum", "mean", "tell", "collect", "align"]
OPERATIONS: tuple[Operation, ...] = ("sum", "mean", "tell", "collect", "align")

PROTOCOL = 1
"""Version of the messages; a part of every digest."""

WEIGHT = "weight"
"""The leaf that a `mean` adds: the patients behind a site's part."""


@dataclass(frozen=True)
class Ask:
    """One federated operation over `sites` (sorted), in program order.

    run: the run's random name. study: the study's digest. step: the number of the operation in the analysis, from 0.
    epoch: how many times the analysis was begun anew on fewer sites (`on_dropout: continue`). attempt: tries at this step.
    arguments: the broadcast arguments, a list of trees.
    """

    run: str
    study: str
    analysis: str
    method: str
    version: int
    operation: Operation
    contribution: str
    step: int
    epoch: int
    attempt: int
    sites: tuple[str, ...]
    hide: str
    encoding: str
    facts: Facts
    arguments: list[Tree]

    @cached_property
    def digest(self) -> str:
        """Of everything: what masks and signatures are bound to."""
        return digest({"protocol": PROTOCOL, **self.to_tree()})

    @cached_property
    def question(self) -> str:
        """Digest of what is asked, whoever takes part and however often it is tried: a step has one question, for ever."""
        same = replace(self, run="", attempt=0, epoch=0, sites=(), hide="")
        return digest({"protocol": PROTOCOL, **same.to_tree()})

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What one opening is counted by: (run, analysis, epoch, step)."""
        return self.run, self.analysis, self.epoch, self.step

    @property
    def slot(self) -> str:
        """The name of the key material of this attempt."""
        return f"{self.analysis}/{self.epoch}/{self.step}/{self.attempt}"

    def check_types(self) -> None:
        """`ValueError` unless every field is of its type: a step of 0.5 or an epoch of True would be a name of its own."""
        texts = (self.run, self.study, self.analysis, self.method, self.contribution, self.hide, self.encoding)
        numbers = (self.version, self.step, self.epoch, self.attempt, self.facts.patients)
        if not all(type(text) is str for text in (*texts, self.operation, *self.sites, *self.facts.imputed)):
            raise ValueError("a name is not a text")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a number is not a whole number")
        if self.operation not in OPERATIONS:
            raise ValueError("there is no such operation")
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("the sites are not sorted, or one is there twice")

    def to_tree(self) -> dict[str, Tree]:
        """For messages and digests."""
        return {
            "run": self.run,
            "study": self.study,
            "analysis": self.analysis,
            "method": self.method,
            "version": self.version,
            "operation": self.operation,
            "contribution": self.contribution,
            "step": self.step,
            "epoch": self.epoch,
            "attempt": self.attempt,
            "sites": list(self.sites),
            "hide": self.hide,
            "encoding": self.encoding,
            "facts": {"patients": self.facts.patients, "imputed": dict(self.facts.imputed)},
            "arguments": self.arguments,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Ask:
        """The ask a message carried; `ProtocolError` if a field is missing, or is not what it should be."""
        try:
            facts = Facts(patients=tree["facts"]["patients"], imputed=dict(tree["facts"]["imputed"]))
            ask = cls(**{**tree, "sites": tuple(tree["sites"]), "facts": facts, "arguments": list(tree["arguments"])})
            ask.check_types()
            return ask
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(
                f"An ask cannot be read: {error}.",
                rule="ask-format",
                remedy="Coordinator and site run different versions of Unisono; install the same one.",
            ) from error


def leaves_of(
    operation: str, contribution: BoundContribution[..., Any], facts: Facts, arguments: tuple[Any, ...]
) -> dict[str, Leaf]:
    """The leaves that leave a site: for a mean, the declared ones times the number of patients, and that number."""
    return leaves_for(operation, contribution.declaration(facts, *arguments), facts)


def leaves_for(operation: str, declaration: Declaration, facts: Facts) -> dict[str, Leaf]:
    """`leaves_of` of a declaration already made."""
    if operation != "mean":
        return dict(declaration.leaves)
    scaled = {
        name: Leaf("moment", leaf.shape, leaf.bound * max(facts.patients, 1), leaf.meaning)
        for name, leaf in declaration.leaves.items()
    }
    return {**scaled, WEIGHT: count((), max(facts.patients, 1), "patients behind this part of the mean")}
