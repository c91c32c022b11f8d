"""What the coordinator sends to a site when a study is answered: its results, into the site's own folder and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import ProtocolError, UnisonoError
from unisono.federation.storage import write_whole
from unisono.network.agent.inbox import Entry
from unisono.report.load import STUDY
from unisono.study.load import load

MOST_FILES = 5000
MOST_BYTES = 1 << 30
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DEPTH = 6


def place(site: Path, entry: Entry, entries: Sequence[Entry]) -> Path:
    """The folder of a study's results, within the site's: named by its id where no other study has that."""
    alone = [other.id for other in entries].count(entry.id) == 1
    return site / "results" / (entry.id if alone else entry.short)


def found(site: Path, entry: Entry) -> Path | None:
    """Where the results of a study are; None if none came yet."""
    for folder in (site / "results" / entry.short, site / "results" / entry.id):
        with suppress(UnisonoError):
            if (folder / STUDY).exists() and load(folder / STUDY).digest() == entry.digest:
                return folder
    return None


def keep(folder: Path, files: Any) -> int:
    """Write files by relative name; how many bytes. `ProtocolError`, before anything is written, for a name that leads anywhere
    else than into `folder`, for what is no file, and for too much."""
    if not isinstance(files, dict) or len(files) > MOST_FILES:
        raise _refused("The results are no files, or too many.")
    total = 0
    for name, content in files.items():
        parts = name.split("/")
        # Windows reserves nothing that these patterns allow but device names, which an agent on POSIX does not meet.
        if len(parts) > _DEPTH or not all(_PART.fullmatch(part) for part in parts) or name.endswith(".new"):
            raise _refused(f"A result's name leads out of its folder, or is none ({name[:80]!r}).")
        if not isinstance(content, np.ndarray) or content.dtype != np.uint8 or content.ndim != 1:
            raise _refused("A result is not a file's bytes.")
        total += content.nbytes
    if total > MOST_BYTES:
        raise _refused(f"The results have {total:,} bytes; {MOST_BYTES:,} are taken.")
    for name, content in files.items():
        write_whole(folder / name, content.tobytes(), "result")
    return total


def _refused(what: str) -> ProtocolError:
    return ProtocolError(
        what, rule="result-files", remedy="Nothing was written. Report the coordinator; ask its operator for the files."
    )
