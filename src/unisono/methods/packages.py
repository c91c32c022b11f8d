"""Packages that bring methods or models: which distribution, which version, and the digest of what is installed of it.

No code travels: coordinator and sites install such a package themselves, and it must be the same one at all of them. What they
compare is a digest of the installed files, so that it does not matter by which tool or from where they were installed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisono.errors import ProtocolError

GROUP_METHODS = "unisono.methods"
GROUP_MODELS = "unisono.models"
GROUPS = (GROUP_METHODS, GROUP_MODELS)

_WRITTEN_BY_THE_INSTALLER = re.compile(
    r"\.dist-info/(RECORD(\.jws|\.p7s)?|INSTALLER|REQUESTED|direct_url\.json)$|\.pyc$|(^|/)__pycache__/|^\.\./|^/"
)
_BLOCK = 1 << 20


class Package(BaseModel):
    """One installed distribution. sha256: `content_digest` of it (hexadecimal)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1, max_length=128)
    version: str = Field(min_length=1, max_length=128)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def to_tree(self) -> dict[str, str]:
        """As it travels in a message."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}

    def said(self) -> str:
        """For a message: version and the beginning of the digest."""
        return f"version {self.version} (sha256 {self.sha256[:12]})"


def packages() -> dict[str, Package]:
    """Every package here that brings methods or models, by its normalised name."""
    found = {p.name: p for group in GROUPS for p in packages_of(group).values()}
    return {name: found[name] for name in sorted(found)}


def packages_of(group: str) -> dict[str, Package]:
    """The package of every entry point of a group, by the entry point's name."""
    return {point.name: package_of(point.dist) for point in entry_points(group=group) if point.dist is not None}


def package_of(distribution: Distribution) -> Package:
    """A distribution as it is installed here now."""
    name = normalised(distribution.metadata["Name"])
    return Package(name=name, version=distribution.version, sha256=content_digest(distribution))


def brings(point: EntryPoint, module: str) -> bool:
    """Whether a module is of the package that has this entry point."""
    return point.module.partition(".")[0] == module.partition(".")[0]


def normalised(name: str) -> str:
    """As package indexes compare names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def content_digest(distribution: Distribution) -> str:
    """SHA-256 (hex) over the path and SHA-256 of every file that came with the package, as it is on the disk now. What the
    installer adds (its record, compiled modules) does not count."""
    digest = hashlib.sha256(b"unisono-package-1\n")
    listed = {path.as_posix(): path for path in distribution.files or ()}
    for name in sorted(listed):
        if _WRITTEN_BY_THE_INSTALLER.search(name):
            continue
        try:
            with open(listed[name].locate(), "rb") as file:  # noqa: PTH123  (methods know no paths of their own)
                blocks = hashlib.sha256()
                while block := file.read(_BLOCK):
                    blocks.update(block)
            line = f"{name} {blocks.hexdigest()}\n"
        except OSError:
            line = f"{name} missing\n"
        digest.update(line.encode())
    return digest.hexdigest()


# -- where two ends meet ------------------------------------------------------------------------------------------------


def to_tree(found: Mapping[str, Package] | Iterable[Package]) -> dict[str, dict[str, str]]:
    """Packages as they travel, by name."""
    values = found.values() if isinstance(found, Mapping) else found
    return {package.name: package.to_tree() for package in values}


def same_packages(coordinator: Mapping[str, Any], site: Mapping[str, Any], name: str) -> None:
    """`ProtocolError` (``package-version``) if the site `name` lacks a package that the study needs, or has another one than the
    coordinator. Both by the package's name; values as `Package.to_tree` gives them, from outside, so perhaps anything."""
    for package, here in coordinator.items():
        ours, theirs = _read(here), _read(site.get(package))
        if ours is None or theirs is None or ours != theirs:
            has = "has none that can be read" if site.get(package) is not None else "has not installed it"
            raise ProtocolError(
                f"The coordinator runs the package {package[:128]!r}, {'which cannot be read' if ours is None else ours.said()}; "
                f"{name} {has if theirs is None else 'has ' + theirs.said()}.",
                rule="package-version",
                remedy=f"The study's models or methods come from it. Give {name}'s administrator the same wheel (unisono site install "
                "WHEEL --sha256 ...; then start the agent anew), and submit the study again.",
            )


def _read(value: Any) -> Package | None:
    if isinstance(value, Package):
        return value
    try:
        return Package.model_validate(value)
    except ValidationError:
        return None
