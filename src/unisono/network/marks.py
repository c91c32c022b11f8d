"""Marks on the wire: what each end says of how far its memory has come, and what it remembers of the other's.

A memory that went back has forgotten what it promised: a site, for which sites it unmasked a step; a coordinator, which sums it has.
Each end alone cannot see that of itself, so each remembers the other's mark. Why that is enough, and against whom it is not:
docs/backup.md.
"""

from __future__ import annotations

from typing import Any

from unisono.errors import NetworkError
from unisono.federation.lineage import ROLLED_BACK, Mark
from unisono.network.wire import unisono_pb2 as wire


def to_wire(mark: Mark | None) -> wire.Mark | None:
    """A mark as a field of a frame; None is a field that is not there."""
    return None if mark is None else wire.Mark(lineage=mark.lineage, count=mark.count, restored=mark.restored)


def from_wire(frame: Any, field: str) -> Mark | None:
    """The mark in a field of a frame; None where there is none, or what is there cannot be one."""
    if not frame.HasField(field):
        return None
    said = getattr(frame, field)
    mark = Mark(said.lineage, said.count, said.restored)
    return mark if mark.is_one else None


def to_tree(mark: Mark) -> list[str | int]:
    """A mark beside an answer."""
    return [mark.lineage, mark.count, mark.restored]


def from_tree(tree: Any) -> Mark | None:
    """The mark in a tree; None if it is none."""
    if not isinstance(tree, list) or [type(item) for item in tree] != [str, int, str]:
        return None
    mark = Mark(*tree)
    return mark if mark.is_one else None


def site_rolled_back(name: str) -> NetworkError:
    """A site's memory is an older copy of itself, or another one than it was, and nobody said so."""
    return NetworkError(
        f"The memory of {name} is older than it was when the coordinator last heard of it: its folder was put back from a copy, or two "
        "machines work on copies of it. It may have forgotten for whom it unmasked a sum.",
        rule=ROLLED_BACK,
        remedy="Stop every agent of this site. If the newest folder is still there, serve that one. If it is not, run `unisono site "
        "restore` on this folder: it closes what was going on, and every approval is decided anew (docs/backup.md).",
    )


def coordinator_rolled_back(by: str) -> NetworkError:
    """The coordinator's memory is an older copy of itself."""
    return NetworkError(
        f"The coordinator's memory is older than {by} remembers it: its folder was put back from a copy. Its runs would ask again what "
        "was answered, which sites refuse.",
        rule=ROLLED_BACK,
        remedy="The operator stops it and runs `unisono coordinator restore` on its folder, looks whom it had revoked since, and the "
        "researcher submits the study again: it is then begun anew (docs/backup.md).",
    )
