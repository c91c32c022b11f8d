"""What must hold of a network whose processes were killed (`tests.support.ward`), when a study is over."""

from __future__ import annotations

import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support import engine
from tests.support.ward import CENTRE, SITES, Ward
from unisono.federation.journal import Journal
from unisono.site.audit import AuditLog
from unisono.study.document import Study

Step = tuple[str, str, int, int]
"""(run, analysis, epoch, step)"""


def everything(ward: Ward, study: Study, files: dict[str, bytes]) -> None:
    """The embedded run's estimates, bit for bit; every step opened once, for one set of sites, and on record at each."""
    for analysis in study.analyses:
        found = json.loads(files[f"{analysis}/result.json"])
        assert found["estimates"] == embedded(analysis)
        assert found["sites"] == sorted(SITES)
    openings(ward, study)


@cache
def embedded(analysis: str) -> Any:
    """The embedded run's estimates, as its result file holds them."""

    def run(folder: Path) -> Any:
        found = engine.run(engine.study(analysis), folder, data=engine.hospitals(SITES))
        return json.loads(json.dumps(engine.estimates(found)[analysis]))

    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:  # it has an event loop of its own
        return beside.submit(run, Path(folder)).result()


def openings(ward: Ward, study: Study) -> int:
    """Once each, by the journals, by every site's own memory, and by its audit log. How many steps were opened."""
    opened = {step for name in study.analyses for step in _opened(ward, study, name)}
    assert opened
    for site in SITES:
        unmasked = _unmasked(ward.folder(site).path)
        assert opened <= set(unmasked), (site, opened - set(unmasked))
        assert set(map(len, unmasked.values())) == {1}, site
        _remembered(ward.folder(site).path, opened)
    return len(opened)


def _opened(ward: Ward, study: Study, analysis: str) -> list[Step]:
    """By the coordinator's journal."""
    path = ward.home.folder(study.id, study.digest()) / analysis / "journal.db"
    with TemporaryDirectory() as copied:  # the service may still hold it
        shutil.copytree(path.parent, copied, dirs_exist_ok=True)
        journal = Journal(Path(copied) / path.name, read_only=True)
        try:
            start = journal.last("start")
            assert start is not None
            assert start.body is not None
            run = str(start.body["run"])
            steps = [(run, analysis, record.epoch, record.step) for record in journal.all("opened")]
        finally:
            journal.close()
    assert len(steps) == len(set(steps)), steps
    return steps


def _unmasked(folder: Path) -> dict[Step, set[tuple[str, ...]]]:
    """By a site's audit log: for which sets of survivors it ever gave its shares, by step."""
    audit = AuditLog(folder / "audit.jsonl")
    assert audit.verify(), folder
    found: dict[Step, set[tuple[str, ...]]] = {}
    for line in audit.path.read_text("utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "unmasked":
            run, analysis, epoch, step = event["step"]
            found.setdefault((run, analysis, epoch, step), set()).add(tuple(event["survivors"]))
    return found


def _remembered(folder: Path, opened: set[Step]) -> None:
    """By a site's own memory: of every step one set of survivors, and that it is over."""
    memory = sqlite3.connect(folder / "state.db")
    try:
        rows = memory.execute("SELECT run, analysis, epoch, step, survivors, closed FROM steps").fetchall()
    finally:
        memory.close()
    found = {row[:4]: row[4:] for row in rows}
    assert len(found) == len(rows)
    last = {key[:2]: max(other for other in opened if other[:2] == key[:2]) for key in opened}
    for key in opened:
        survivors, closed = found[key]
        assert set(json.loads(survivors)) == set(SITES)
        # The news that a step is over rides on the next question. The last one's has nothing to ride on, and may be lost.
        assert closed or key == last[key[:2]], (folder, key)


def logs(ward: Ward) -> None:
    """No fault of ours, at either end; nothing that a process said on its own."""
    for who in (CENTRE, *ward.sites):
        said = (ward.path / who / "process.log").read_text("utf-8")
        assert not said, f"{who}: {said}"
        for line in (ward.path / who / "log.jsonl").read_text("utf-8").splitlines():
            event = json.loads(line)
            assert event["event"] not in ("fault", "study-fault", "connection-broken"), (who, event)
