"""What the coordinator asks: one step of an analysis, in full. Its digest goes into every mask, so that sites that were
asked different questions cannot be summed (secure aggregation, rule 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ProtocolError
from unisono.federation.contribution import BoundContribution, Declaration, Facts
from unisono.federation.tree import Tree, digest, unpack
from unisono.protection.leaves import Leaf, count

Operation = Literal["sum", "mean", "tell", "collect", "align"]
OPERATIONS: tuple[Operation, ...] = ("sum", "mean", "tell", "collect", "align")

PROTOCOL = 1
"""Version of the messages; a part of every digest."""

WEIGHT = "weight"
"""The leaf that a `mean` adds: the patients behind a site's part."""


@dataclass(frozen=True)
class Circle:
    """Among whom sums are made: one run of one analysis over one frozen set of sites. What keys are made for, before any
    question is known. epoch: how many times the analysis was begun anew on fewer sites."""

    run: str
    study: str
    analysis: str
    epoch: int
    sites: tuple[str, ...]
    hide: str

    def check_types(self) -> None:
        """`ValueError` unless every field is of its type."""
        if not all(type(text) is str for text in (self.run, self.study, self.analysis, self.hide, *self.sites)):
            raise ValueError("a name is not a text")
        if type(self.epoch) is not int or self.epoch < 0:
            raise ValueError("a number is not a whole number")
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("the sites are not sorted, or one is there twice")


class Arguments(list[Tree]):
    """Broadcast arguments, which may be a whole model: digested once for all that is derived from one ask."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of their tree, hexadecimal."""
        return digest(list(self))


@dataclass(frozen=True)
class Ask:
    """One federated operation over `sites` (sorted), in program order.

    run: the run's random name. study: the study's digest. step: the number of the operation in the analysis, from 0.
    epoch: how many times the analysis was begun anew on fewer sites (`on_dropout: continue`). attempt: tries at this step.
    arguments: the broadcast arguments, a list of trees. to: the site that alone reads the sum, and `receipt`: what it makes
    of it; both empty if the coordinator reads it. of: the one site that a `collect` asks; empty for all. partial: whether a
    sum of fewer sites than `sites` is meant too: for model updates, never for a statistical fit, which is over one frozen set.
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
    to: str = ""
    receipt: str = ""
    partial: bool = False
    of: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Arguments):
            object.__setattr__(self, "arguments", Arguments(self.arguments))

    def _digest(self) -> str:
        assert isinstance(self.arguments, Arguments)
        return digest({"protocol": PROTOCOL, **self.to_tree(), "arguments": self.arguments.digest})

    @cached_property
    def digest(self) -> str:
        """Of everything: what masks and signatures are bound to."""
        return self._digest()

    @cached_property
    def question(self) -> str:
        """Digest of what is asked, whoever takes part and however often it is tried: a step has one question, for ever."""
        return replace(self, run="", attempt=0, epoch=0, sites=(), hide="")._digest()

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What one opening is counted by: (run, analysis, epoch, step)."""
        return self.run, self.analysis, self.epoch, self.step

    @property
    def circle(self) -> Circle:
        """Among whom it is asked."""
        return Circle(self.run, self.study, self.analysis, self.epoch, self.sites, self.hide)

    def check_types(self) -> None:
        """`ValueError` unless every field is of its type: a step of 0.5 or an epoch of True would be a name of its own."""
        texts = (self.run, self.study, self.analysis, self.method, self.contribution, self.hide, self.encoding)
        numbers = (self.version, self.step, self.epoch, self.attempt, self.facts.patients)
        if not all(type(text) is str for text in (*texts, self.operation, *self.sites, *self.facts.imputed)):
            raise ValueError("a name is not a text")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a number is not a whole number")
        if not all(type(text) is str for text in (self.to, self.receipt, self.of)) or type(self.partial) is not bool:
            raise ValueError("the reader is not a name, or `partial` not yes or no")
        if bool(self.to) != bool(self.receipt) or (self.to and self.to not in self.sites):
            raise ValueError("a sum to a site names one of its sites and a receipt")
        if self.of and (self.of not in self.sites or self.operation != "collect"):
            raise ValueError("only a collect asks one site, of its own")
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
            "to": self.to,
            "receipt": self.receipt,
            "partial": self.partial,
            **({"of": self.of} if self.of else {}),
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
        # A model update is weighted by the share n_i / N of the patients: its part stays within the update's own bound.
        name: leaf
        if leaf.rule == "update"
        else Leaf("moment", leaf.shape, leaf.bound * max(facts.patients, 1), leaf.meaning)
        for name, leaf in declaration.leaves.items()
    }
    return {**scaled, WEIGHT: count((), max(facts.patients, 1), "patients behind this part of the mean")}


def opened_tree(
    operation: str, leaves: Mapping[str, Leaf], facts: Facts, total: Mapping[str, NDArray[np.float64]]
) -> dict[str, Any]:
    """What an opened sum says: for a mean, divided by the number of patients behind it."""
    if operation != "mean":
        return dict(total)
    weight = total[WEIGHT]
    share = weight / max(facts.patients, 1)  # of all patients: 1 unless sites are missing from a partial sum
    return {
        name: value / (share if leaves[name].rule == "update" else weight)
        for name, value in total.items()
        if name != WEIGHT
    }


def collected(packed: NDArray[np.uint8], leaves: Mapping[str, Leaf], site: str) -> dict[str, NDArray[Any]]:
    """The part that one site gave to a `collect`: `ProtocolError` unless it holds exactly the declared leaves, each an array of its
    declared shape (a blob: at most so many bytes), of real numbers within the declared bound."""
    tree = unpack(packed.tobytes())
    fits = (
        isinstance(tree, dict)
        and set(tree) == set(leaves)
        and all(map(fits_leaf, tree.values(), map(leaves.get, tree)))
    )
    if not fits:
        raise ProtocolError(
            f"What {site} gave is not what was declared.",
            rule="declared-shape",
            remedy="Coordinator and site run different versions of the method; install the same one.",
        )
    return dict(tree)


def fits_leaf(value: Any, leaf: Leaf | None) -> bool:
    """Whether a collected array is as its leaf declares."""
    if leaf is None or not isinstance(value, np.ndarray):
        return False
    if leaf.rule == "blob":
        return value.dtype == np.uint8 and value.ndim == 1 and value.size <= leaf.size
    numbers = value.dtype.kind in "biuf" and value.shape == leaf.shape
    return numbers and bool((np.abs(value.astype(np.float64)) <= np.asarray(leaf.bound)).all())


def weighted(leaf: Leaf, value: NDArray[Any], patients: int, facts: Facts) -> NDArray[Any]:
    """A site's part of a mean: times its patients, or for a model update times its share of all patients."""
    weight = patients / max(facts.patients, 1) if leaf.rule == "update" else patients
    part: NDArray[Any] = value * np.asarray(weight, value.dtype if value.dtype.kind == "f" else np.float64)
    return part
