"""A site's half of the marks: what its hello says, what a welcome may hold, and what it remembers of its coordinator."""

from __future__ import annotations

from unisono.federation.lineage import Mark
from unisono.network.log import Log
from unisono.network.marks import from_wire, site_rolled_back
from unisono.network.wire.unisono_pb2 import Beat, Welcome
from unisono.site.lineage import SiteLineage


class Marks:
    """Of one site. name: its own, for messages."""

    def __init__(self, name: str, lineage: SiteLineage, log: Log) -> None:
        self._name = name
        self._lineage = lineage
        self._log = log

    def mine(self) -> Mark:
        """How far this site has come."""
        return self._lineage.mark()

    def remembered(self) -> Mark | None:
        """How far the coordinator had."""
        return self._lineage.coordinator()

    def welcomed(self, welcome: Welcome) -> None:
        """`NetworkError` (``rolled-back``) if the coordinator remembers this site farther than it is."""
        if self.mine().is_behind(from_wire(welcome, "remembered")):
            raise site_rolled_back(self._name)
        self.heard(welcome)

    def heard(self, said: Welcome | Beat) -> None:
        """The coordinator said how far it is. One that went back is logged, and not believed: what this site remembers of it goes
        to it with the next hello."""
        mark, before = from_wire(said, "mark"), self.remembered()
        if mark is None or mark == before:
            return
        if mark.is_behind(before):
            self._log.write("coordinator-rolled-back", count=mark.count)
            return
        if before is not None and mark.lineage != before.lineage:
            self._log.write("coordinator-restored", restored=mark.restored)
        self._lineage.heard(Mark(mark.lineage, mark.count))
