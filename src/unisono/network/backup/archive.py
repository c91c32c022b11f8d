"""The one form of a back-up: a plain tar of named files, a manifest last with the SHA-256 and size of each, all of it sealed.

Written whole or not at all, mode 0600. Read without trust: into an empty folder beside the one that is restored, regular files with
plain relative names only, each once, none larger than the archive; and used only when every file is as the manifest says and the
archive ends where it should. Nothing is compressed, so nothing can grow.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from unisono.errors import NetworkError, StorageError
from unisono.federation.storage import storage
from unisono.network.backup.sealed import CHUNK, SealedReader, SealedWriter, altered
from unisono.version import VERSION

MANIFEST = "manifest.json"
MOST_FILES = 100_000
_MANIFEST_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*(/[A-Za-z0-9_][A-Za-z0-9._ -]*)*")
_LONGEST = 250
"""Of a file's name: about what one block of a tar's header holds."""
_BLOCK = tarfile.BLOCKSIZE
_WHAT = "back-up"

Kind = Literal["site", "coordinator"]


class Entry(BaseModel):
    """One file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What an archive says of itself. name: the site's or coordinator's. made: when."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    form: Literal[1] = 1
    kind: Kind
    name: str
    made: AwareDatetime
    software: str = VERSION
    files: dict[str, Entry]


@dataclass(frozen=True)
class Source:
    """A file to be kept: under which name, and where it lies now."""

    name: str
    path: Path


def write(
    to: Path, passphrase: str, kind: Kind, name: str, made: datetime, sources: Iterable[Source], *, memory_bits: int
) -> Manifest:
    """Write an archive. `StorageError` if there is a file of that name already, or the disk is full: no part of one is then left."""
    aside = to.with_name(f"{to.name}.new")
    with storage(to, _WHAT):
        if to.exists():
            raise StorageError(
                f"{to} is there already.",
                rule="keep-files",
                remedy="Name another file; old back-ups are yours to remove.",
            )
        to.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with storage(to, _WHAT), os.fdopen(handle, "wb") as file:
            sealed = SealedWriter(file, passphrase, memory_bits=memory_bits)
            entries = {source.name: _put(sealed, source) for source in sources}
            manifest = Manifest(kind=kind, name=name, made=made.astimezone(UTC), files=entries)
            content = manifest.model_dump_json(indent=1).encode()
            sealed.write(_header(MANIFEST, len(content)) + content + _padding(len(content)) + bytes(2 * _BLOCK))
            sealed.finish()
            file.flush()
            os.fsync(file.fileno())
            aside.replace(to)
        return manifest
    finally:
        aside.unlink(missing_ok=True)


def _put(sealed: SealedWriter, source: Source) -> Entry:
    """A file as long as it is when it is opened: one that only grows is kept as it was."""
    with storage(source.path, "file"), source.path.open("rb") as file:
        size, done, digest = os.fstat(file.fileno()).st_size, 0, hashlib.sha256()
        sealed.write(_header(source.name, size))
        while done < size:
            data = file.read(min(CHUNK, size - done))
            if not data:
                raise StorageError(
                    f"{source.path} became shorter while it was read.",
                    rule="backup-form",
                    remedy="Run the same command again.",
                )
            digest.update(data)
            sealed.write(data)
            done += len(data)
    sealed.write(_padding(size))
    return Entry(size=size, sha256=digest.hexdigest())


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    try:
        if not _is_plain(name):
            raise ValueError("a name with signs that no file of ours has")
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:  # too long, or too large, for a tar's header too
        raise StorageError(
            f"A file is called {name[:_LONGEST]!r}, which cannot be kept in a back-up.",
            rule="backup-names",
            remedy="It is none of Unisono's own: move it elsewhere, and run the same command again.",
        ) from error


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _is_plain(name: str) -> bool:
    """A relative name, without any way out of the folder that it is put into."""
    return len(name) <= _LONGEST and _NAME.fullmatch(name) is not None and ".." not in name.split("/")


@contextmanager
def opened(archive: Path, passphrase: str, into: Path, kind: Kind) -> Iterator[Manifest]:
    """The archive's files in the new folder `into` (mode 0700), all of them checked; the folder is removed if what is done
    with it fails. `NetworkError` if the archive is not a whole and unaltered back-up of that kind."""
    with storage(archive, _WHAT), archive.open("rb") as file:
        sealed = SealedReader(file, passphrase)
        into.mkdir(mode=0o700)
        try:
            manifest = _unpacked(sealed, into, os.fstat(file.fileno()).st_size)
            if manifest.kind != kind:
                raise _other_kind(manifest)
            yield manifest
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise


def _other_kind(manifest: Manifest) -> NetworkError:
    return NetworkError(
        f"This is the back-up of a {manifest.kind}, {manifest.name!r}.",
        rule="backup-kind",
        remedy=f"Restore it with: unisono {manifest.kind} restore.",
    )


def _unpacked(sealed: SealedReader, into: Path, limit: int) -> Manifest:
    found: dict[str, Entry] = {}
    while True:
        block = sealed.read(_BLOCK)
        if len(block) != _BLOCK:
            raise altered("it ends in the middle of a file")
        info = _info(block)
        if info.name == MANIFEST:
            break
        if info.name in found or len(found) >= MOST_FILES or not 0 <= info.size <= limit:
            raise altered("a file is in it twice, or is larger than all of it")
        limit -= info.size
        found[info.name] = _kept(sealed, info, into)
    manifest = _manifest(sealed, info.size)
    if manifest.files != found:
        raise altered("its files are not those that it lists")
    if sealed.read(2 * _BLOCK + 1) != bytes(2 * _BLOCK):
        raise altered("there is something after its end")
    return manifest


def _info(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise altered("it is no archive of files") from error
    if info.type != tarfile.REGTYPE or info.linkname or not _is_plain(info.name):
        raise altered("it holds what is no plain file within a folder")
    return info


def _kept(sealed: SealedReader, info: tarfile.TarInfo, into: Path) -> Entry:
    path, digest = into / info.name, hashlib.sha256()
    with storage(path, "restored file"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            _copy(sealed, info.size, file, digest)
            file.flush()
            os.fsync(file.fileno())
    return Entry(size=info.size, sha256=digest.hexdigest())


def _copy(sealed: SealedReader, size: int, file: BinaryIO, digest: hashlib._Hash) -> None:
    left = size
    while left:
        data = sealed.read(min(CHUNK, left))
        if not data:
            raise altered("it ends in the middle of a file")
        digest.update(data)
        file.write(data)
        left -= len(data)
    sealed.read(-size % _BLOCK)


def _manifest(sealed: SealedReader, size: int) -> Manifest:
    if not 0 <= size <= _MANIFEST_BYTES:
        raise altered("its list of files is too long")
    content = sealed.read(size)
    sealed.read(-size % _BLOCK)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise altered("its list of files cannot be read, or is of another version") from error
