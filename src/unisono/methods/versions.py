"""Versions of methods, where two ends meet: a study is not begun over skew, and the refusal names site, method and both versions.

A method's two halves agree on what a sum means. A site of another version could add other numbers to it, unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisono.errors import ProtocolError


def same_methods(coordinator: Mapping[str, Any], site: Mapping[str, Any], name: str) -> None:
    """`ProtocolError` (``method-version``) if a method is of one version at the coordinator and of another at the site `name`.
    Both by the method's name. A method that one of the two does not speak of is found by other checks."""
    for method, here in coordinator.items():
        there = site.get(method, here)
        if type(here) is not int or type(there) is not int or here != there:
            raise ProtocolError(
                f"The coordinator runs {method!r} version {_said(here)}, {name} has version {_said(there)}.",
                rule="method-version",
                remedy="Install the same version of Unisono, or of the package that brings this method, at both ends; then submit "
                "the study again.",
            )


def _said(version: Any) -> str:
    return str(version) if type(version) is int else "that cannot be read"
