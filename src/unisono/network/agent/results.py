"""What the coordinator sends to a site when a study is answered: its results, into the site's own folder and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UnisonoError
from unisono.federation.storage import write_whole
from unisono.network.agent.inbox import Entry
from unisono.network.results import check, refused
from unisono.report.load import STUDY
from unisono.site.sheets import folder_of
from unisono.study.load import load


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


def own(site: Path, entry: Entry) -> list[Path]:
    """What the study left at this hospital alone: sheets of its analyses, and files beside them, such as a model of this hospital's
    own. Nothing of it is anywhere else."""
    kept: list[Path] = []
    place = folder_of(site, entry.digest)
    for name in json.loads(entry.document).get("analyses", {}):
        found = [place / f"{name}.json", *sorted((place / name).glob("*"))]
        kept += [path for path in found if path.is_file() and path.suffix != ".new"]
    return kept


def keep(folder: Path, files: Any) -> int:
    """Write files by relative name; how many bytes. `ProtocolError`, before anything is written, for a name that leads anywhere
    else than into `folder`, for what is no file, and for too much."""
    if not isinstance(files, dict):
        raise refused("The results are no files.")
    for content in files.values():
        if not isinstance(content, np.ndarray) or content.dtype != np.uint8 or content.ndim != 1:
            raise refused("A result is not a file's bytes.")
    total = check({name: content.nbytes for name, content in files.items()})
    for name, content in files.items():
        write_whole(folder / name, content.data, "result")
    return total
