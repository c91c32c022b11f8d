"""What a `tell` leaves at a site: sheets in the site's own folder, marked as staying there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from unisono.errors import DataError
from unisono.federation.ask import Ask
from unisono.federation.contribution import Kept
from unisono.federation.storage import storage, write_whole

NOTICE = "This file concerns one hospital alone and stays at that hospital."


_FILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""A name that a method may give to a file: no folder, nothing hidden."""


def keep_sheet(home: Path, ask: Ask, kept: Kept) -> Path:
    """Write ``<home>/<analysis>.json``, and the files into ``<home>/<analysis>/``. `DataError` for a file's name that is none."""
    for name, content in kept.files.items():
        if not _FILE.fullmatch(name):
            raise DataError(
                f"{ask.method}.{ask.contribution} gave a file a name that is none.",
                rule="file-names",
                remedy="Nothing left the site. This is a fault of the method; report it to its author.",
            )
        folder = home / ask.analysis
        with storage(folder, "site's files"):
            folder.mkdir(exist_ok=True)
        write_whole(folder / name, content.tobytes(), "site's file")
    path = home / f"{ask.analysis}.json"
    document = {"notice": NOTICE, "study": ask.study, "analysis": ask.analysis, **kept.sheet}
    write_whole(path, (json.dumps(document, indent=2) + "\n").encode(), "site's sheet")
    return path
