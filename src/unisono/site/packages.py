"""Packages of models and methods that this site's administrator installed: ``packages/<name>-<version>`` in the site's folder.

Installing checks the wheel's SHA-256 against what the administrator was told (by the researcher, or by whoever reviewed it), then
copies its files by pip without a network and without dependencies. Nothing of a package is executed by installing it. From then
on the site runs its code: in the agent to read a study and to list what it asks for, in the study's worker to train.

`activate` is the one place where the agent's process (and the steward's commands) learn of them; a worker gets the folders.
"""

from __future__ import annotations

import configparser
import hashlib
import importlib
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import zipfile
from datetime import datetime
from importlib.metadata import Distribution, PathDistribution
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from unisono.errors import PolicyRefusal, StorageError
from unisono.federation.storage import storage, write_whole
from unisono.methods.packages import GROUPS, content_digest, normalised

FOLDER = "packages"
RECORD = "packages.json"
MOST_BYTES = 2**30
_WHEEL = re.compile(r"^(?P<name>[A-Za-z0-9._]+)-(?P<version>[A-Za-z0-9._+!]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl$")
_PIP_S = 300.0

EntryPoints = dict[str, dict[str, str]]


class Installed(BaseModel):
    """One package of this site. wheel: SHA-256 of the file it came in; content: of what is installed (`content_digest`), which is
    what permits pin. entry_points: group -> name -> object. installed: ISO time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    wheel: str = Field(pattern=r"^[0-9a-f]{64}$")
    content: str = Field(pattern=r"^[0-9a-f]{64}$")
    entry_points: EntryPoints
    installed: str

    @property
    def folder(self) -> str:
        """Its folder under ``packages/``."""
        return f"{self.name}-{self.version}"


_RECORD: TypeAdapter[list[Installed]] = TypeAdapter(list[Installed])


def listed(site: Path) -> list[Installed]:
    """What is installed in a site's folder. `StorageError` if the record is damaged."""
    path = site / FOLDER / RECORD
    if not path.exists():
        return []
    with storage(path, "list of packages"):
        content = path.read_bytes()
    try:
        return _RECORD.validate_json(content)
    except ValidationError as error:
        raise StorageError(
            f"The file {path} cannot be read.",
            rule="readable-file",
            remedy="Remove the folder `packages` and install its wheels again.",
        ) from error


def folders(site: Path) -> tuple[Path, ...]:
    """The folders of the installed packages, for `sys.path`. `StorageError` (``package-changed``) if a file of one was changed."""
    found = []
    for package in listed(site):
        path = site / FOLDER / package.folder
        distribution = _distribution(path)
        if distribution is None or content_digest(distribution) != package.content:
            raise StorageError(
                f"The files of the package {package.name!r} in {path} are not the ones that were installed.",
                rule="package-changed",
                remedy="Install the wheel again: unisono site install WHEEL --sha256 ... --force. Find out who changed it.",
            )
        found.append(path)
    return tuple(found)


def activate(site: Path) -> tuple[Path, ...]:
    """Let this process find the packages' entry points; gives their folders. At the end of `sys.path`, so that they stand in the
    place of nothing. Before the registries of methods and models are asked for the first time."""
    paths = folders(site)
    known = set(sys.path)
    sys.path.extend(str(path.absolute()) for path in paths if str(path.absolute()) not in known)
    importlib.invalidate_caches()
    return paths


def install(site: Path, wheel: Path, sha256: str, now: datetime, *, replace: bool = False) -> Installed:
    """Verify a wheel and install it. The same one again changes nothing.

    `PolicyRefusal` if the file is no wheel (``wheel-only``), has another SHA-256 (``package-digest``), brings no model or method
    (``package-entry-points``), holds files that have no place in one (``package-files``), would stand in the place of another
    module (``package-names``), or another version is installed and `replace` is not said (``package-installed``).
    `StorageError` if it cannot be read or written.
    """
    name, version = _named(wheel)
    content = _read(wheel)
    found = hashlib.sha256(content).hexdigest()
    if not secrets.compare_digest(found, sha256.strip().lower()):
        raise _refused(
            f"{wheel.name} has the SHA-256 {found}, and not the one that was given.",
            "package-digest",
            "Install nothing. Get the file again, and the digest from a source that whoever sent the file cannot change.",
        )
    points = _checked(content, wheel.name, name, site)
    known = {package.name: package for package in listed(site)}
    before = known.get(name)
    if before is not None and (before.wheel, before.version) == (found, version) and not replace:
        folders(site)  # says so if its files were changed
        return before
    if before is not None and not replace:
        raise _refused(
            f"{name!r} is installed already, in version {before.version}.",
            "package-installed",
            "One version is installed at a time. Put this one in its place with --force: permits that pin the other one are refused then.",
        )
    made = _placed(site, wheel.name, content, name, version)
    package = Installed(
        name=name,
        version=version,
        wheel=found,
        content=made,
        entry_points=points,
        installed=now.isoformat(timespec="seconds"),
    )
    _keep(site, [*(p for p in known.values() if p.name != name), package])
    if before is not None and before.folder != package.folder:
        shutil.rmtree(site / FOLDER / before.folder, ignore_errors=True)
    return package


def remove(site: Path, name: str) -> Installed:
    """Remove a package. `PolicyRefusal` (``package-installed``) if there is none of that name."""
    known = listed(site)
    gone = next((package for package in known if package.name == normalised(name)), None)
    if gone is None:
        raise _refused(
            f"There is no package {name[:128]!r} here.",
            "package-installed",
            f"Installed: {', '.join(package.name for package in known) or 'none'}.",
        )
    _keep(site, [package for package in known if package is not gone])
    with storage(site / FOLDER / gone.folder, "package"):
        shutil.rmtree(site / FOLDER / gone.folder)
    return gone


# -- what a wheel may be --------------------------------------------------------------------------------------------------


def _named(wheel: Path) -> tuple[str, str]:
    match = _WHEEL.match(wheel.name)
    if match is None:
        raise _refused(
            f"{wheel.name[:200]!r} is not the name of a wheel.",
            "wheel-only",
            "Name a file NAME-VERSION-PYTHON-ABI-PLATFORM.whl. A source archive runs code when it is built, and is never installed.",
        )
    return normalised(match["name"]), match["version"]


def _read(wheel: Path) -> bytes:
    with storage(wheel, "wheel"):
        if wheel.stat().st_size > MOST_BYTES:
            raise _refused("The wheel is larger than 1 GiB.", "wheel-only", "Is it the right file?")
        return wheel.read_bytes()


def _checked(content: bytes, file: str, name: str, site: Path) -> EntryPoints:
    """The entry points of a wheel that may be installed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.namelist()
            infos = [m for m in members if m.endswith(".dist-info/METADATA") and m.count("/") == 1]
            if len(infos) != 1 or normalised(infos[0].partition("-")[0]) != name:
                raise ValueError("metadata")
            info = infos[0].partition("/")[0]
            _files(members, info, file)
            _modules(members, info, file, site / FOLDER)
            written = archive.read(f"{info}/entry_points.txt").decode() if f"{info}/entry_points.txt" in members else ""
    except (zipfile.BadZipFile, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise _refused(
            f"{file} is not a wheel of {name!r}.", "wheel-only", "Get the file again from its author."
        ) from error
    points = _points(written)
    if not any(group in points for group in GROUPS):
        raise _refused(
            f"{file} brings neither a model nor a method.",
            "package-entry-points",
            f"A package for a site declares entry points in the group {' or '.join(GROUPS)}. What it depends on belongs to the "
            "site's Python environment, which its administrator keeps.",
        )
    return points


def _files(members: list[str], info: str, file: str) -> None:
    """Only files under the package's own folders: nothing that an installer would put elsewhere, or Python run by itself."""
    data = f"{info.removesuffix('.dist-info')}.data/"
    for member in members:
        parts = member.split("/")
        if (
            member.startswith(("/", data))
            or ".." in parts
            or "\\" in member
            or (len(parts) == 1 and (member.endswith(".pth") or member in ("sitecustomize.py", "usercustomize.py")))
        ):
            raise _refused(
                f"{file} holds {member[:200]!r}, which does not belong into a package of models.",
                "package-files",
                "A package holds Python modules and their data, in folders of its own. Ask its author.",
            )


def _modules(members: list[str], info: str, file: str, ours: Path) -> None:
    """No module of Python's, of Unisono's or of the environment's; one of a package in `ours` may come again."""
    tops = {member.partition("/")[0].partition(".")[0] for member in members if not member.startswith(info)}
    for top in sorted(tops):
        spec = None if top in sys.stdlib_module_names else find_spec(top)
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        elsewhere = any(place and not Path(place).is_relative_to(ours.absolute()) for place in places)
        if top in sys.stdlib_module_names or top == "unisono" or elsewhere:
            raise _refused(
                f"{file} has a module {top[:128]!r}, as Python or another package here has.",
                "package-names",
                "It would stand in the other's place. Its author must call it otherwise; or uninstall the other one.",
            )


def _points(written: str) -> EntryPoints:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(written)
    except configparser.Error:
        return {}
    return {group: dict(parser.items(group)) for group in parser.sections()}


# -- putting it there -------------------------------------------------------------------------------------------------------


def _placed(site: Path, file: str, content: bytes, name: str, version: str) -> str:
    """Install these bytes, which were verified, into their folder. The digest of what is there then."""
    target = site / FOLDER / f"{name}-{version}"
    with storage(target, "package"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".installing-", dir=target.parent) as made:
            wheel = Path(made) / file
            wheel.write_bytes(content)
            _pip(wheel, Path(made) / "target")
            distribution = _distribution(Path(made) / "target")
            if distribution is None:
                raise _refused(f"{file} did not install as one package.", "wheel-only", "Ask its author.")
            digest = content_digest(distribution)
            shutil.rmtree(target, ignore_errors=True)
            (Path(made) / "target").rename(target)
    return digest


def _pip(wheel: Path, target: Path) -> None:
    """``pip install --target``, without a network, settings or dependencies. Nothing of a wheel runs by it."""
    flags = ["--isolated", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--no-color", "--quiet"]
    command = [sys.executable, "-m", "pip", *flags, "install", "--no-deps", "--no-index", "--no-compile"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter; the file's name was checked)
            [*command, "--target", str(target), str(wheel)],
            env={**kept, "PIP_CONFIG_FILE": os.devnull},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PIP_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(
            f"pip could not be run ({type(error).__name__}).", rule="pip", remedy="Install pip: python -m ensurepip."
        ) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise StorageError(
            f"pip could not install {wheel.name}: {said[-1][:300] if said else 'it did not say why'}",
            rule="pip",
            remedy="Is the wheel for this Python and this machine? Without pip: python -m ensurepip.",
        )


def _distribution(path: Path) -> Distribution | None:
    infos = sorted(path.glob("*.dist-info"))
    return PathDistribution(infos[0]) if len(infos) == 1 else None


def _keep(site: Path, packages: list[Installed]) -> None:
    ordered = sorted(packages, key=lambda package: package.name)
    content = json.dumps([package.model_dump(mode="json") for package in ordered], indent=2) + "\n"
    write_whole(site / FOLDER / RECORD, content.encode(), "list of packages")


def _refused(what: str, rule: str, remedy: str) -> PolicyRefusal:
    return PolicyRefusal(what, rule=rule, remedy=remedy)
