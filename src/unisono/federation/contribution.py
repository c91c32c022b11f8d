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
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints, overload

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


class Contribution(Generic[M, D, P, T]):
    """One site's part of a sum: a pure function (data, arguments) -> tree of arrays, with its declaration."""

    def __init__(self, function: Callable[Concatenate[M, D, P], T]) -> None:
        self.function = function
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
        return code.co_varnames[2 : code.co_argcount]

    def result_type(self) -> type[Any]:
        """The dataclass (or ``dict``) that a sum of this contribution is given back as."""
        hint = get_type_hints(self.function).get("return", dict)
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
        """At the site: this site's part, as named arrays."""
        function: Callable[..., T] = self.contribution.function
        return as_arrays(function(self.method, data, *arguments))

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


class Receipt(Generic[M, D, P]):
    """What a site does with a `tell`: a pure function (data, arguments) -> a sheet that stays at the site."""

    def __init__(self, function: Callable[Concatenate[M, D, P], Mapping[str, Any]]) -> None:
        self.function = function
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
        """At the site: the sheet to keep, plain JSON values."""
        function: Callable[..., Mapping[str, Any]] = self.receipt.function
        return dict(function(self.method, data, *arguments))


def receipt(function: Callable[Concatenate[M, D, P], Mapping[str, Any]]) -> Receipt[M, D, P]:
    """Decorator: this method of a method's class makes a sheet that stays at the site."""
    return Receipt(function)
