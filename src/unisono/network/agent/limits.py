"""What this hospital lets a study's worker process use: ``workers.json`` in the agent's folder, or the defaults."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, fields
from pathlib import Path

from unisono.errors import StorageError, WorkerError
from unisono.federation.storage import storage, write_whole
from unisono.site.workers.limits import Limits

FILE = "workers.json"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def limits_of(folder: Path) -> Limits:
    """The limits that were set; the defaults where none were. `StorageError` if the file is none: an unreadable limit is no limit that
    anybody chose."""
    path = folder / FILE
    with storage(path, "workers' limits"):
        if not path.exists():
            return Limits()
        content = path.read_bytes()
    try:
        said = json.loads(content)
        if not isinstance(said, dict) or not set(said) <= {field.name for field in fields(Limits)}:
            raise TypeError("not limits")
        for name, value in said.items():
            whole = name in ("memory_bytes", "result_bytes", "threads")
            if (
                type(value) is not int
                and not (value is None and name == "memory_bytes")
                and (whole or type(value) is not float)
            ):
                raise TypeError("not a number")
        return Limits(**said)
    except (TypeError, ValueError, WorkerError) as error:
        raise StorageError(
            f"The file {path} holds no limits of workers.",
            rule="readable-file",
            remedy="Set them anew with `unisono site limits`, or remove the file: the defaults hold then.",
        ) from error


def keep(folder: Path, limits: Limits) -> None:
    """Write them down; they hold from the agent's next start."""
    write_whole(folder / FILE, f"{json.dumps(asdict(limits), indent=2)}\n".encode(), "workers' limits", mode=0o600)


def size(text: str) -> int:
    """``16GiB``, ``512M`` or a number of bytes. `WorkerError` (``worker-limits``) for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise WorkerError(
            f"{text!r} is no size.", rule="worker-limits", remedy="Write a number with its unit: 16GiB, or 512MiB."
        )
    return math.floor(float(found[1]) * _UNITS[found[2].upper()])
