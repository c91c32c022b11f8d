"""A hospital's data frozen for one study: harmonised once, digested, and checked again at every round.

An edited file would make two rounds of one fit disagree, and would let the difference of two answers show one patient.
So the file's bytes are digested when they are read, and a file that has changed since stops the study at this site.
Images are decoded once into memory: what happens to their files later changes no answer, and stops the study when it is
next taken up, because their digest is part of the snapshot's.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import DataError
from unisono.site.data import mapping_file
from unisono.site.data.harmonise import Harmonised, harmonise
from unisono.site.data.mapping import Mapping
from unisono.site.data.readers import Source, read
from unisono.site.data.rows import row_hashes
from unisono.site.data.validation import Validation
from unisono.study.document import Study
from unisono.study.grid import grids
from unisono.study.table import Table

__all__ = ["Snapshot", "Source", "freeze", "row_hashes"]

_BLOCK = 1 << 20

Stamp = tuple[int, int, int, int]
"""Size, modification time and change time (ns), inode: some part differs when a file was edited or replaced."""


@dataclass
class _Seal:
    """The file as it was last seen with the right digest. The one thing about a snapshot that moves."""

    path: Path
    stamp: Stamp


@dataclass(frozen=True)
class Snapshot:
    """A site's patients for one study, which cannot change under it.

    table: read-only columns and images; report: what became of the data.
    source_digest: SHA-256 (hex) of the file's bytes, or of a DataFrame's harmonised columns.
    digest: SHA-256 (hex) of the source, the files of images, the mapping, and the study's variables and grids: two snapshots
        with one digest hold the same table.
    """

    table: Table
    report: Validation
    source_digest: str
    digest: str
    _seal: _Seal | None = field(default=None, repr=False, compare=False)

    def unchanged(self) -> None:
        """`DataError` (``frozen-data``) if the file was edited, replaced or removed since.

        Cheap while nothing touched the file; one that was only touched is digested again. A DataFrame was copied.
        """
        seal = self._seal
        if seal is None:
            return
        try:
            now = _stamp(seal.path)
            if now == seal.stamp:
                return
            digest = digest_file(seal.path)
            settled = _stamp(seal.path) == now
        except OSError:
            raise _changed(seal.path, "is not there any more, or cannot be read") from None
        if digest != self.source_digest or not settled:
            raise _changed(seal.path, "was changed after this study began")
        seal.stamp = now


def freeze(source: Source, mapping: Any, study: Study, name: str) -> Snapshot:
    """Read, harmonise and freeze a site's data.

    source: a CSV or Parquet file, a DataFrame or an Arrow table. name: the site's.
    mapping: a mapping file's path, a dict, a `Mapping`, or None for the identity.
    Raises `MappingError` and `DataError` with everything that is wrong.
    """
    loaded = mapping_file.load(mapping, study)
    wanted = loaded.columns(study)
    if not isinstance(source, str | os.PathLike):
        harmonised = harmonise(read(source, loaded.file, wanted), loaded, study, name)
        table = _frozen(harmonised.table, copy=True)
        source_digest = _digest_table(table)
        return Snapshot(table, harmonised.report, source_digest, _digest(source_digest, harmonised, loaded, study))
    path = Path(source).absolute()
    try:
        before = _stamp(path)
        source_digest = digest_file(path)
    except OSError:
        read(path, loaded.file, wanted)  # says what is wrong with the path
        raise _changed(path, "could not be read twice") from None
    harmonised = harmonise(read(path, loaded.file, wanted), loaded, study, name)
    seal = _Seal(path, before)
    snapshot = Snapshot(
        _frozen(harmonised.table, copy=False),
        harmonised.report,
        source_digest,
        _digest(source_digest, harmonised, loaded, study),
        seal,
    )
    snapshot.unchanged()  # what was digested is what was read
    return snapshot


def digest_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, a block at a time."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _stamp(path: Path) -> Stamp:
    info = path.stat()
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


def _changed(path: Path, what: str) -> DataError:
    return DataError(
        f"The data file {path.name} {what}.",
        rule="frozen-data",
        remedy="To go on, put the file back as it was; to use the new data, start the study again with --fresh.",
        where=str(path),
    )


def _frozen(table: Table, copy: bool) -> Table:
    """Read-only columns and images; columns are copied where someone else may hold the memory."""
    columns = {}
    for name, column in table.columns.items():
        kept = np.array(column, np.float64) if copy else np.ascontiguousarray(column, np.float64)
        kept.flags.writeable = False
        columns[name] = kept
    for images in table.images.values():
        images.flags.writeable = False
    return table.having(columns)


def _digest_table(table: Table) -> str:
    """SHA-256 (hex) of the columns' names and bits, with one zero and one NaN."""
    digest = hashlib.sha256(f"unisono-table {table.n}".encode())
    for name in sorted(table.columns):
        values = table[name] + 0.0
        values[np.isnan(values)] = np.nan
        digest.update(f"\0{name}\0".encode())
        digest.update(values.astype("<f8").tobytes())
    return digest.hexdigest()


def _digest(source: str, harmonised: Harmonised, mapping: Mapping, study: Study) -> str:
    parts: dict[str, Any] = {
        "source": source,
        "mapping": mapping.digest(),
        "variables": {name: variable.model_dump(mode="json") for name, variable in study.variables.items()},
        "grids": {name: asdict(rule) for name, rule in grids(study).items()},
    }
    if harmonised.pictures:  # studies without images have the digest that sites wrote down before there were any
        parts["pictures"] = dict(harmonised.pictures)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
