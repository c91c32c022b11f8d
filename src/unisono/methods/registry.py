"""Methods by name: this package's, and those that a site's administrator installed (entry point ``unisono.methods``).

The registry is also where a study is checked against its methods: an analysis's parameters against its method's spec.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ValidationError

from unisono.errors import MethodError, StudyError
from unisono.methods.base import Method, Spec
from unisono.methods.packages import GROUP_METHODS, GROUP_MODELS, Package, brings, package_of, packages_of
from unisono.study.document import Study
from unisono.study.problems import Problem, from_pydantic

C = TypeVar("C", bound=type[Method[Any]])

_BUILT_IN = (
    "unisono.methods.cohort",
    "unisono.methods.statistics.describe",
    "unisono.methods.statistics.glm",
    "unisono.methods.survival.kaplan_meier",
    "unisono.methods.survival.cox",
    "unisono.methods.boosting.hist",
    "unisono.methods.boosting.bagging",
    "unisono.methods.boosting.cyclic",
    "unisono.methods.evaluation.evaluate",
    "unisono.methods.training.fedavg",
    "unisono.methods.training.fedprox",
    "unisono.methods.training.scaffold",
    "unisono.methods.training.fedadam",
    "unisono.methods.training.fedyogi",
    "unisono.methods.training.fedadagrad",
    "unisono.methods.training.fedbn",
    "unisono.methods.training.ditto",
    "unisono.methods.training.fedrep",
)
_registered: dict[str, type[Method[Any]]] = {}


def method(name: str, *, version: int, spec: type[Spec]) -> Callable[[C], C]:
    """Class decorator: register a `Method` under `name`."""

    def register(cls: C) -> C:
        if name in _registered and _registered[name].__qualname__ != cls.__qualname__:
            raise StudyError(
                f"Two methods are called {name!r}.",
                rule="method-names",
                remedy="Uninstall one of the two packages that provide it.",
            )
        missing: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
        if missing:
            raise MethodError(
                f"The method {name!r} does not say what its {' and '.join(sorted(missing))} is.",
                rule="method-contract",
                remedy="Write what `unisono.methods.base.Method` asks for; report it to the method's author.",
            )
        cls.name, cls.version, cls.spec_type = name, version, spec
        _registered[name] = cls
        return cls

    return register


@cache
def _load() -> None:
    for module in _BUILT_IN:
        import_module(module)
    for point in entry_points(group=GROUP_METHODS):
        point.load()


def methods() -> dict[str, type[Method[Any]]]:
    """Every installed method that a study may name, by name (the built-in ``cohort`` step is not one)."""
    _load()
    return {name: _registered[name] for name in sorted(_registered) if name != "cohort"}


def versions() -> dict[str, int]:
    """Of everything that is installed here, by name, the built-in ``cohort`` step too."""
    _load()
    return {name: _registered[name].version for name in sorted(_registered)}


def versions_for(study: Study) -> dict[str, int]:
    """What is installed here of what a study's analyses run, the built-in ``cohort`` step too. `StudyError` if one is not."""
    used = {"cohort", *(written.method for written in study.analyses.values())}
    return {name: find(name).version for name in sorted(used)}


def packages_for(study: Study) -> dict[str, Package]:
    """What a study's analyses run that a package brings, methods and models (``model: {kind: ...}``), by the package's name. What is
    not installed here is not among them."""
    found = {}
    for written in study.analyses.values():
        model = written.parameters.get("model")
        kind = model.get("kind") if isinstance(model, dict) else None
        brings_model = packages_of(GROUP_MODELS).get(kind) if isinstance(kind, str) else None
        for package in (_brought_by(written.method), brings_model):
            if package is not None:
                found[package.name] = package
    return {name: found[name] for name in sorted(found)}


def _brought_by(name: str) -> Package | None:
    """The package of a method; None for Unisono's own, and for one that is not installed."""
    _load()
    cls = _registered.get(name)
    if cls is None or cls.__module__.startswith("unisono."):
        return None
    points = [p for p in entry_points(group=GROUP_METHODS) if brings(p, cls.__module__)]
    return next((package_of(point.dist) for point in points if point.dist is not None), None)


def find(name: str) -> type[Method[Any]]:
    """The method of that name; `StudyError` with the nearest names if there is none."""
    _load()
    if name in _registered:
        return _registered[name]
    known = sorted(methods())
    near = get_close_matches(name, known, 1)
    raise StudyError(
        f"There is no method {name!r} here.",
        rule="known-methods",
        remedy=(f"Did you mean {near[0]!r}? " if near else "") + f"Installed: {', '.join(known)}.",
    )


def build(study: Study, analysis: str) -> Method[Any]:
    """The method instance of one analysis of a study that `check` found nothing wrong with."""
    written = study.analyses[analysis]
    cls = find(written.method)
    return cls(study, analysis, cls.spec_type.model_validate(written.parameters))


def check(study: Study) -> list[Problem]:
    """What is wrong with the analyses of a study, with paths from the top of the document."""
    problems: list[Problem] = []
    for name, written in study.analyses.items():
        here = ("analyses", name)
        try:
            cls = find(written.method)
        except StudyError as error:
            problems.append(Problem((*here, "method"), error.what, error.rule, error.remedy))
            continue
        try:
            spec = cls.spec_type.model_validate(written.parameters)
        except ValidationError as error:
            problems += from_pydantic(error, here, cls.spec_type, written.parameters)
            continue
        problems += [Problem((*here, *p.path), p.what, p.rule, p.remedy) for p in spec.problems(study)]
    return problems
