"""The pictures that a column of file names leads to: found within the table's own folder, read once, fingerprinted, prepared.

Every file is read into memory once: what is fingerprinted is what is decoded, and what happens to the file later cannot
change an answer. Messages name rows and the files' names, never what is in them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unisono.site.data import columns
from unisono.site.data.columns import Values
from unisono.site.data.image_formats import Picture, Unreadable, decode
from unisono.site.data.image_pixels import prepared
from unisono.site.data.problems import ColumnError
from unisono.study.document import ImageVariable
from unisono.study.table import Images

MAX_FILE_BYTES = 256 << 20
MAX_DECODED_BYTES = 4 << 30
"""Of all pictures of one variable, as float32. A worker process that trains on them needs about three times as much."""
_NAME_SHOWN = 80
_CONTENT_BITS = 52
"""As many as a float64 holds exactly, beside its sign and exponent."""


@dataclass(frozen=True)
class Pictures:
    """One variable's pictures. content: (n,) which picture, NaN where there is none. images: (n, c, h, w) within [0, 1].
    digest: SHA-256 (hex) over every row's file. said: what was read and done, in words: formats and sizes, no values."""

    content: Values
    images: Images
    digest: str
    said: str


def read_pictures(column: Any, folder: Path | None, missing: frozenset[str], variable: ImageVariable) -> Pictures:
    """The pictures that a column (n,) of file names, relative to `folder`, leads to. `ColumnError` with every kind of problem."""
    names = _names(column, missing)
    if folder is None:
        raise ColumnError(
            "names files, and a table in memory has no folder to find them in,",
            "image-folder",
            "Write the table as CSV or Parquet into the folder of its images, and give its path.",
        )
    _fits_memory(len(names), variable)
    home = folder.resolve()
    content = np.full(len(names), np.nan)
    images = np.zeros((len(names), *variable.shape), np.float32)
    digest, seen, failed = hashlib.sha256(), _Seen(), _Failures()
    for row, name in enumerate(names):
        digest.update(b"-" * 32 if name is None else b"")
        if name is None:
            continue
        try:
            found = _read(home, name)
            picture = decode(found, variable)
            images[row] = prepared(picture, variable)
        except Unreadable as error:
            failed.add(error, row, name)
            continue
        file = hashlib.sha256(found).digest()
        digest.update(file)
        content[row] = int.from_bytes(file[:8], "big") >> (64 - _CONTENT_BITS)
        seen.add(picture)
    failed.tell()
    return Pictures(content, images, digest.hexdigest(), seen.say(variable))


def _names(column: Any, missing: frozenset[str]) -> list[str | None]:
    kind = columns.kind_of(column)
    if kind == "nothing":
        return [None] * len(column)
    if kind != "text":
        remedy = "Name the column that holds the names of the images' files, such as scans/17.png."
        raise ColumnError(f"holds {kind}s, not names of files,", "image-files", remedy)
    return [None if text is None or text in missing else text for text in columns.texts_of(column).to_pylist()]


def _fits_memory(n: int, variable: ImageVariable) -> None:
    size = n * int(np.prod(variable.shape)) * 4
    if size > MAX_DECODED_BYTES:
        raise ColumnError(
            f"names pictures that take {size / (1 << 30):.1f} GiB of memory when decoded, more than {MAX_DECODED_BYTES >> 30} GiB,",
            "size-limits",
            "Let the study declare a smaller `size`, or give the table's patients who may enter the study only.",
        )


# --- one file --------------------------------------------------------------------------------------------------------


def _read(home: Path, name: str) -> bytes:
    """The bytes of a regular file within `home`, links followed; at most `MAX_FILE_BYTES`."""
    written = PurePosixPath(name)
    if (
        "\0" in name
        or "\\" in name
        or written.is_absolute()
        or ".." in written.parts
        or (len(name) > 1 and name[1] == ":")
    ):
        raise _outside()
    try:
        path = (home / written).resolve(strict=True)
        if not path.is_relative_to(home):
            raise _outside()
        # Not through a link that was put there meanwhile; without waiting, should it be a pipe.
        with os.fdopen(
            os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb"
        ) as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise Unreadable("are no files", "image-files", "Name one file for each patient.")
            if info.st_size > MAX_FILE_BYTES:
                what = f"are larger than {MAX_FILE_BYTES >> 20} MiB"
                raise Unreadable(what, "size-limits", "Cut or shrink them before they are given to Unisono.")
            return stream.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        remedy = "Put them there, correct the names (relative to the table's folder), or list a code for none under `missing`."
        raise Unreadable("are not there", "image-files", remedy) from None
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that is too long, no permission
        raise Unreadable(
            "cannot be opened", "image-files", "Check the names and the permissions of the user that runs Unisono."
        ) from None


def _outside() -> Unreadable:
    return Unreadable(
        "are outside the table's folder",
        "image-folder",
        "Write names relative to the table's folder, with / between folders and without '..'; links may not lead out of it.",
    )


# --- all of them -----------------------------------------------------------------------------------------------------


class _Failures:
    """What went wrong, by kind, with rows and the first file's name."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], list[int]] = {}
        self._first: dict[tuple[str, str, str], str] = {}

    def add(self, error: Unreadable, row: int, name: str) -> None:
        kind = error.what, error.rule, error.remedy
        self._kinds.setdefault(kind, []).append(row)
        self._first.setdefault(kind, PurePosixPath(name).name[-_NAME_SHOWN:])

    def tell(self) -> None:
        """`ColumnError` for the first kind, the others beside it, if there are any."""
        errors = []
        for (what, rule, remedy), rows in self._kinds.items():
            named = f"names files that {what.removesuffix(',')} (first {self._first[what, rule, remedy]!r}),"
            errors.append(ColumnError(named, rule, remedy, np.array(rows)))
        if errors:
            errors[0].others = tuple(errors[1:])
            raise errors[0]


class _Seen:
    """Formats and sizes of what was read."""

    def __init__(self) -> None:
        self._formats: Counter[str] = Counter()
        self._sizes: list[tuple[int, int]] = []

    def add(self, picture: Picture) -> None:
        self._formats[picture.format] += 1
        self._sizes.append((picture.pixels.shape[1], picture.pixels.shape[2]))

    def say(self, variable: ImageVariable) -> str:
        """``117 PNG, 3 DICOM of 28 x 28 to 64 x 64 → 28 x 28 grey``: height x width."""
        if not self._sizes:
            return "no picture"
        formats = ", ".join(f"{count:,} {name}" for name, count in sorted(self._formats.items()))
        least, most = (pick(self._sizes, key=lambda s: (s[0] * s[1], s)) for pick in (min, max))
        sizes = " to ".join(f"{h} x {w}" for h, w in dict.fromkeys([least, most]))
        height, width = variable.size
        return f"{formats} of {sizes} → {height} x {width} {'grey' if variable.channels == 1 else 'colour'}"
