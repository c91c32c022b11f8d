"""What a method's file declares: contributions (one site's part of a sum) and receipts (what a site keeps of a `tell`).

A contribution is written once, as a method of the method's class, with two companions that keep it honest:

    @contribution
    def derivatives(self, data: SurvivalData, beta: Vector) -> Derivatives:      # runs at the site, sees patients
        ...

    @derivatives.declares                                                        # runs at both ends, sees no patient
    def _(self, facts: Facts, beta: Vector) -> Declaration:
        return Declaration(arguments={"beta": within((self.p,), 20.0)},
                           leaves={"score": moment((self.p,), 2.0 * facts.patients, "..."), ...})

The declaration bounds the arguments (an extreme argument isolates a patient: the site refuses it) and types every leaf.
The return value is a frozen dataclass of arrays or a dict of arrays whose names are the declaration's leaves.

What a site must remember between two steps (a control variate, a personal model) is its *memory*, named arrays that never leave it:

    @contribution_with_memory
    def update(self, data: TrainingData, memory: Memory, model: Vector) -> tuple[Update, Memory]:
        ...

The new memory counts from the moment when the site learns that its part was in the opened sum; until then, and if it was not,
the old one does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_args, get_type_hints, overload

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.protection.leaves import Leaf

M = TypeVar("M")
D = TypeVar("D")
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What has been opened about the cohort before an analysis and is part of every later ask of it.

    patients: in the cohort, over all sites (an opened sum): bounds that grow with n are multiples of it.
    imputed: the federated mean (or the index of the modal level) of each imputed variable.
    """

    patients: int
    imputed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Argument:
    """What a broadcast argument may be: its shape and the largest absolute value of an element."""

    shape: tuple[int, ...]
    limit: float


def within(shape: tuple[int, ...], limit: float) -> Argument:
    """An argument of `shape` with every |element| <= `limit`."""
    return Argument(shape, limit)


@dataclass(frozen=True)
class Declaration:
    """Limits of the arguments, by parameter name, and the typed leaves of the returned tree, in order."""

    leaves: Mapping[str, Leaf]
    arguments: Mapping[str, Argument] = field(default_factory=dict)


Declares = Callable[..., Declaration]

Memory = Mapping[str, NDArray[Any]]
"""What a site remembers between the steps of one analysis: named arrays, none at first. It stays at the site."""


@dataclass(frozen=True)
class Part:
    """One site's part of a sum, and what the site is to remember if the part counts (None: what it remembers already)."""

    tree: dict[str, NDArray[Any]]
    memory: dict[str, NDArray[Any]] | None = None


@dataclass(frozen=True)
class Kept:
    """What a site keeps of a `tell`. sheet: plain JSON values, written to ``<analysis>.json`` in the site's own folder. files: by
    name, bytes (uint8), written to its folder ``<analysis>/``."""

    sheet: Mapping[str, Any]
    files: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


class Contribution(Generic[M, D, P, T]):
    """One site's part of a sum: a pure function (data, arguments) -> tree of arrays, with its declaration.

    remembers: it is given the site's memory before the arguments, and gives (tree, new memory)."""

    def __init__(self, function: Callable[..., Any], *, remembers: bool = False) -> None:
        self.function = function
        self.remembers = remembers
        self.name = function.__name__
        self.meaning = (function.__doc__ or "").strip()
        self._declares: Declares | None = None

    def declares(self, function: Declares) -> Declares:
        """Decorator: ``(method, facts, *arguments) -> Declaration`` of this contribution."""
        self._declares = function
        return function

    @overload
    def __get__(self, instance: None, owner: type) -> Contribution[M, D, P, T]: ...
    @overload
    def __get__(self, instance: M, owner: type) -> BoundContribution[P, T]: ...
    def __get__(self, instance: M | None, owner: type) -> Contribution[M, D, P, T] | BoundContribution[P, T]:
        return self if instance is None else BoundContribution(instance, self)

    def declaration(self, method: M, facts: Facts, arguments: tuple[Any, ...]) -> Declaration:
        """The declaration at these arguments; a contribution without one cannot be asked for."""
        if self._declares is None:
            raise MethodError(
                f"The contribution {self.name!r} declares no leaves.",
                rule="typed-leaves",
                remedy=f"Add an @{self.name}.declares companion to the method's file.",
            )
        return self._declares(method, facts, *arguments)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the broadcast arguments, in order."""
        code = self.function.__code__
        return code.co_varnames[3 if self.remembers else 2 : code.co_argcount]

    def result_type(self) -> type[Any]:
        """The dataclass (or ``dict``) that a sum of this contribution is given back as."""
        hint = get_type_hints(self.function).get("return", dict)
        if self.remembers:
            hint = next(iter(get_args(hint)), dict)
        return hint if isinstance(hint, type) else dict


class BoundContribution(Generic[P, T]):
    """A contribution of one method instance: what `federation.sum` takes."""

    def __init__(self, method: Any, contribution: Contribution[Any, Any, P, T]) -> None:
        self.method = method
        self.contribution = contribution

    @property
    def name(self) -> str:
        return self.contribution.name

    def declaration(self, facts: Facts, *arguments: Any) -> Declaration:
        """Leaves and argument limits at these arguments."""
        return self.contribution.declaration(self.method, facts, arguments)

    def compute(self, data: Any, *arguments: Any) -> dict[str, NDArray[Any]]:
        """At the site, without a memory: this site's part, as named arrays."""
        return self.part(data, {}, *arguments).tree

    def part(self, data: Any, memory: Memory, *arguments: Any) -> Part:
        """At the site: this site's part, and what it is to remember. `MethodError` if the function gives no memory where it
        should."""
        function = self.contribution.function
        if not self.contribution.remembers:
            return Part(as_arrays(function(self.method, data, *arguments)))
        found = function(self.method, data, memory, *arguments)
        if not isinstance(found, tuple) or len(found) != 2:
            raise MethodError(
                f"The contribution {self.name!r} gives no memory beside its tree.",
                rule="method-contract",
                remedy="Return (tree, memory); report it to the method's author.",
            )
        return Part(as_arrays(found[0]), as_arrays(found[1]))

    def rebuild(self, leaves: Mapping[str, NDArray[Any]]) -> T:
        """At the coordinator: the opened sum as the type that the contribution returns."""
        kind = self.contribution.result_type()
        if dataclasses.is_dataclass(kind):
            return kind(**leaves)  # type: ignore[return-value]
        return dict(leaves)  # type: ignore[return-value]


def as_arrays(tree: Any) -> dict[str, NDArray[Any]]:
    """A contribution's returned dataclass or dict as named numpy arrays."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        items = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    else:
        items = dict(tree)
    return {name: np.asarray(value) for name, value in items.items()}


def contribution(function: Callable[Concatenate[M, D, P], T]) -> Contribution[M, D, P, T]:
    """Decorator: this method of a method's class is what leaves a site, as part of a sum."""
    return Contribution(function)


def contribution_with_memory(
    function: Callable[Concatenate[M, D, Memory, P], tuple[T, Memory]],
) -> Contribution[M, D, P, T]:
    """Decorator: a contribution that is given the site's memory, and gives a new one."""
    return Contribution(function, remembers=True)


class Receipt(Generic[M, D, P]):
    """What a site does with a `tell`: a pure function (data, arguments) -> a sheet, and files, that stay at the site.

    remembers: it is given the site's memory before the arguments; it does not change it."""

    def __init__(self, function: Callable[..., Mapping[str, Any] | Kept], *, remembers: bool = False) -> None:
        self.function = function
        self.remembers = remembers
        self.name = function.__name__
        self.meaning = (function.__doc__ or "").strip()

    @overload
    def __get__(self, instance: None, owner: type) -> Receipt[M, D, P]: ...
    @overload
    def __get__(self, instance: M, owner: type) -> BoundReceipt[P]: ...
    def __get__(self, instance: M | None, owner: type) -> Receipt[M, D, P] | BoundReceipt[P]:
        return self if instance is None else BoundReceipt(instance, self)


class BoundReceipt(Generic[P]):
    """A receipt of one method instance: what `federation.tell` takes."""

    def __init__(self, method: Any, receipt: Receipt[Any, Any, P]) -> None:
        self.method = method
        self.receipt = receipt

    @property
    def name(self) -> str:
        return self.receipt.name

    def compute(self, data: Any, *arguments: Any) -> dict[str, Any]:
        """At the site, without a memory: the sheet to keep, plain JSON values."""
        return dict(self.kept(data, {}, *arguments).sheet)

    def kept(self, data: Any, memory: Memory, *arguments: Any) -> Kept:
        """At the site: the sheet and the files to keep."""
        given = (memory, *arguments) if self.receipt.remembers else arguments
        found = self.receipt.function(self.method, data, *given)
        return found if isinstance(found, Kept) else Kept(dict(found))


def receipt(function: Callable[Concatenate[M, D, P], Mapping[str, Any] | Kept]) -> Receipt[M, D, P]:
    """Decorator: this method of a method's class makes a sheet that stays at the site."""
    return Receipt(function)


def receipt_with_memory(
    function: Callable[Concatenate[M, D, Memory, P], Mapping[str, Any] | Kept],
) -> Receipt[M, D, P]:
    """Decorator: a receipt that is given the site's memory."""
    return Receipt(function, remembers=True)
