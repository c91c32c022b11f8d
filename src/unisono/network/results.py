"""Results on their way: what of a run's folder is for others, read without taking memory for it, and what may be written down where
it arrives. A trained model has hundreds of megabytes, and goes to every hospital that took part.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import NetworkError, ProtocolError, StorageError
from unisono.federation.storage import storage
from unisono.report.audience import FILE as FILES

MOST_FILES = 5000
MOST_BYTES = 1 << 30
"""Of one study's results, all files together: what is sent, and what is taken."""
PIECE_BYTES = 4 << 20
"""Of a file that a researcher fetches; a hospital is sent its files as one message, in the link's own chunks."""

_MAPPED_BYTES = 1 << 20
"""From this size on a file is looked at where it lies."""
_PRIVATE = ("journal.db", "run.lock", "consents.json")
"""What of a run's folder stays with the coordinator: opened sums, small numbers not blanked."""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DEPTH = 6


def result_paths(folder: Path) -> dict[str, Path]:
    """What a run wrote for those who may read its results, by relative name. Empty before there are any. `StorageError` if the
    folder cannot be read; `NetworkError` (``result-size``) if it is more than is sent."""
    found: dict[str, Path] = {}
    with storage(folder, "folder of results"):
        if not (folder / FILES).exists():
            return {}
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            private = any(part.startswith(_PRIVATE) for part in parts) or path.name.endswith(".new")
            if path.is_file() and not private:
                found["/".join(parts)] = path
        total = sum(path.stat().st_size for path in found.values())
    if total > MOST_BYTES or len(found) > MOST_FILES:
        raise NetworkError(
            f"The study's results are {len(found):,} files of {total:,} bytes; {MOST_FILES:,} files and {MOST_BYTES:,} bytes are sent.",
            rule="result-size",
            remedy="They are complete in the study's folder at the coordinator: its operator hands them over another way. A study "
            "of fewer or smaller models has smaller ones.",
        )
    return found


def result_files(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """As `result_paths`, with what is in the files."""
    return {name: content_of(path) for name, path in result_paths(folder).items()}


def content_of(path: Path) -> NDArray[np.uint8]:
    """A file's bytes. A large one is looked at where it lies, however many look at it: results are written whole, under a name of
    their own at first, and never changed in place. `StorageError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < _MAPPED_BYTES:
                return np.frombuffer(file.read(), np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"A result of this study cannot be read: {path.name}.",
            rule="result-file",
            remedy="The coordinator's operator must repair the folder; running the study again writes it anew.",
        ) from error


# -- fetched in pieces ------------------------------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, dict[str, Any]]:
    """By name, each file's size and SHA-256 (hexadecimal)."""
    files = result_files(folder)
    return {name: {"size": int(c.size), "sha256": hashlib.sha256(c.data).hexdigest()} for name, c in files.items()}


def piece(folder: Path, name: str, offset: int) -> NDArray[np.uint8]:
    """At most `PIECE_BYTES` of a result, from `offset` on. `NetworkError` if it is none of the results."""
    path = result_paths(folder).get(name)
    if path is None or offset < 0:
        raise NetworkError(
            f"There is no result {name[:200]!r} of this study.",
            rule="no-results",
            remedy="Fetch the results again: unisono study result.",
        )
    return content_of(path)[offset : offset + PIECE_BYTES]


# -- where they arrive ------------------------------------------------------------------------------------------------------------


def check(sizes: Mapping[Any, int]) -> int:
    """How many bytes files of these names and sizes are together. `ProtocolError` for a name that leads anywhere else than into one
    folder, and for too much."""
    if len(sizes) > MOST_FILES:
        raise refused("The results are too many files.")
    for name in sizes:
        parts = name.split("/") if isinstance(name, str) else [""]
        # Windows reserves nothing that these patterns allow but device names, which an agent on POSIX does not meet.
        if len(parts) > _DEPTH or not all(_PART.fullmatch(part) for part in parts) or name.endswith(".new"):
            raise refused(f"A result's name leads out of its folder, or is none ({str(name)[:80]!r}).")
    total = sum(sizes.values())
    if total > MOST_BYTES:
        raise refused(f"The results have {total:,} bytes; {MOST_BYTES:,} are taken.")
    return total


def refused(what: str) -> ProtocolError:
    """What came is not taken."""
    return ProtocolError(
        what, rule="result-files", remedy="Nothing was written. Report the coordinator; ask its operator for the files."
    )
