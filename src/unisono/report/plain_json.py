"""Writing and reading the run's files: whole or not at all, exact numbers, and errors that a user can act on."""

from __future__ import annotations

import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

from unisono.errors import StorageError
from unisono.federation.journal import storage


def write_bytes(path: Path, data: bytes, what: str) -> None:
    """Write `path` whole: aside, to disk, then renamed, so that a reader never meets half a file.

    what: the file in words, for the error. `StorageError` if the disk is full or the folder cannot be written.
    """
    with storage(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str, what: str) -> None:
    """`write_bytes` of UTF-8 text with ``\\n`` at the end of a line."""
    write_bytes(path, text.encode("utf-8"), what)


def dumps(value: Any) -> str:
    """Indented JSON. A float is written so that reading it gives the same bits; NaN and infinities become null."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """`value` (plain JSON values; tuples are lists) with None for every number that is not finite."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in `path`. `StorageError` (rule ``readable-files``) if it cannot be read as one."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(path, what, error.strerror or "it cannot be opened") from error
    except ValueError as error:
        raise unreadable(path, what, "it is not JSON") from error
    if not isinstance(value, dict):
        raise unreadable(path, what, "it is not a JSON object")
    return value


def unreadable(path: Path, what: str, why: str) -> StorageError:
    """The error for a file that is missing, damaged or of another version."""
    return StorageError(
        f"The {what} {path} cannot be read: {why}.",
        rule="readable-files",
        remedy="Run the same `unisono run` command again: it writes the file anew from the journal, and asks no hospital again.",
    )
