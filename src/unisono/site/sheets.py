"""What a `tell` leaves at a site: sheets in the site's own folder, marked as staying there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from unisono.errors import DataError
from unisono.federation.ask import Ask
from unisono.federation.contribution import Kept
from unisono.federation.storage import write_whole

NOTICE = "This file concerns one hospital alone and stays at that hospital."


_FILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""A name that a method may give to a file: no folder, nothing hidden."""


KEPT = "kept"
"""The folder of a site in which studies leave something: names that a study chose (of analyses) meet no file of the site's own there."""


def folder_of(home: Path, study: str) -> Path:
    """Where a study, named by its digest, leaves what stays at the site."""
    return home / KEPT / study[:16]


def keep_sheet(home: Path, ask: Ask, kept: Kept) -> Path:
    """Write ``<folder_of the study>/<analysis>.json``, and the files into its folder ``<analysis>/``. `DataError` for a file's name
    that is none."""
    place = folder_of(home, ask.study)
    for name, content in kept.files.items():
        if not _FILE.fullmatch(name):
            raise DataError(
                f"{ask.method}.{ask.contribution} gave a file a name that is none.",
                rule="file-names",
                remedy="Nothing left the site. This is a fault of the method; report it to its author.",
            )
        write_whole(place / ask.analysis / name, content.tobytes(), "site's file")
    path = place / f"{ask.analysis}.json"
    document = {"notice": NOTICE, "study": ask.study, "analysis": ask.analysis, **kept.sheet}
    write_whole(path, (json.dumps(document, indent=2) + "\n").encode(), "site's sheet")
    return path
