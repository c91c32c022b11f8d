"""Models by their `kind`: this package's, and those that a site's administrator installed (entry point ``unisono.models``)."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from unisono.errors import MissingExtra, StudyError
from unisono.methods.packages import GROUP_MODELS, Package, packages_of
from unisono.methods.training.models.base import ModelSpec

BUILT_IN = {
    "linear": "linear:Linear",
    "logistic": "linear:Linear",
    "mlp": "mlp:MLP",
    "cnn": "cnn:CNN",
    "resnet": "resnet:ResNet",
}
"""Kind -> module and class. Imported when they are named: they need PyTorch."""


def kinds() -> tuple[str, ...]:
    """Every kind that a study may name here."""
    return tuple(sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP_MODELS))}))


def installed() -> dict[str, Package]:
    """The distribution of every kind that a package brings, by kind; Unisono's own are not among them."""
    return packages_of(GROUP_MODELS)


def model_spec(written: Mapping[str, Any]) -> ModelSpec:
    """The settings under a study's ``model:``. `StudyError` for a kind that is not installed, `MissingExtra` without PyTorch,
    pydantic's `ValidationError` for settings that the kind does not have."""
    kind = written.get("kind")
    if not isinstance(kind, str):
        raise StudyError(
            "The model has no kind.", rule="known-models", remedy=f"Write `kind:` and one of {', '.join(kinds())}."
        )
    # Lists are what YAML has; the settings' own types are tuples.
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in written.items()}
    return spec_type(kind).model_validate(plain)


@cache
def spec_type(kind: str) -> type[ModelSpec]:
    """The settings of a kind. `StudyError` with the nearest names if there is none; two of one name are refused too."""
    points = [point for point in entry_points(group=GROUP_MODELS) if point.name == kind]
    if len(points) + (kind in BUILT_IN) > 1:
        raise StudyError(
            f"Two models are called {kind!r}.",
            rule="known-models",
            remedy="Remove one of the packages that provide it: `unisono site packages` lists them.",
        )
    need_torch()
    if kind in BUILT_IN:
        module, name = BUILT_IN[kind].split(":")
        found = getattr(import_module(f"{__package__}.{module}"), name)
    elif points:
        found = points[0].load()
    else:
        near = get_close_matches(kind, kinds(), 1)
        raise StudyError(
            f"There is no model {kind!r} here.",
            rule="known-models",
            remedy=(f"Did you mean {near[0]!r}? " if near else "")
            + f"Installed: {', '.join(kinds())}. A package of models is installed with `unisono site install`.",
        )
    if not (isinstance(found, type) and issubclass(found, ModelSpec)):
        raise StudyError(
            f"The package's model {kind!r} is no ModelSpec.",
            rule="known-models",
            remedy="Report it to the package's author: the entry point must name a subclass of ModelSpec.",
        )
    return found


def need_torch() -> None:
    """`MissingExtra` if PyTorch or safetensors is not installed."""
    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise MissingExtra(
            "Training needs PyTorch and safetensors, which are not installed.",
            rule="missing-extra",
            remedy="Install them with: pip install 'unisono[torch]'.",
        )
