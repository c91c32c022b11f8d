"""The journal: what was written is read back, whatever was changed is told, and nothing is begun anew in silence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engine import estimates, hospitals, records, run, study
from unisono.errors import JournalError, StorageError
from unisono.federation.events import Event
from unisono.federation.journal import Journal
from unisono.federation.storage import write_whole

Contents = list[tuple[str, int, int, Any]]


def filled(path: Path) -> tuple[str, Contents]:
    """A small journal with every kind of record, closed; its digest and what it holds."""
    journal = Journal(path)
    journal.write("start", {"run": "r", "study": "s"})
    for step in range(3):
        journal.write("attempt", {"attempt": 1, "question": "q"}, step=step)
        journal.write("pending", {"session": {"accumulated": np.arange(4, dtype=np.uint64)}}, step=step)
        journal.write("opened", {"question": "q", "words": np.arange(40, dtype=np.uint64) + step}, step=step)
        journal.forget_pending(0, step)
    journal.write("finished", {"sites": ["leiden", "padua"]})
    contents = held(journal)
    digest = journal.digest
    journal.close()
    return digest, contents


def held(journal: Journal) -> Contents:
    kinds = ("start", "attempt", "pending", "opened", "snapshot", "finished")
    found = [r for kind in kinds for r in journal.all(kind)]
    return [
        (r.kind, r.epoch, r.step, None if r.body is None else {k: np.asarray(v).tolist() for k, v in r.body.items()})
        for r in found
    ]


def changed(path: Path, sql: str, *values: Any) -> None:
    """Change the database behind the journal's back."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=DELETE")
    database.execute(sql, values)
    database.commit()
    database.close()


def told(path: Path) -> JournalError:
    with pytest.raises(JournalError) as raised:
        Journal(path)
    assert raised.value.rule == "journal-integrity"
    assert "--fresh" in raised.value.remedy
    return raised.value


# -- round trip -------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back_after_closing(tmp_path: Path) -> None:
    digest, contents = filled(tmp_path / "journal.db")
    journal = Journal(tmp_path / "journal.db")
    assert journal.digest == digest
    assert held(journal) == contents
    last = journal.last("opened", epoch=0, step=2)
    assert last is not None
    assert last.body is not None
    assert last.body["words"].tolist() == [k + 2 for k in range(40)]
    assert journal.last("opened", epoch=1) is None
    assert [r.step for r in journal.all("opened")] == [0, 1, 2]
    journal.close()


def test_the_same_records_have_the_same_digest_and_others_another(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "a.db")[0], filled(tmp_path / "b.db")[0]
    assert one == other
    journal = Journal(tmp_path / "b.db")
    journal.write("finished", {})
    assert journal.digest != one
    journal.close()


def test_a_snapshot_prunes_the_sums_before_it_and_the_chain_still_holds(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for step in range(4):
        journal.write("opened", {"step": step}, step=step)
    snapshot = journal.write("snapshot", {"state": {"x": 1}}, step=4)
    journal.prune(snapshot, from_step=1)
    journal.write("opened", {"step": 4}, step=4)
    digest = journal.digest
    journal.close()
    journal = Journal(path)
    assert journal.digest == digest
    assert [r.body for r in journal.all("opened")] == [{"step": 0}, None, None, None, {"step": 4}]
    journal.close()


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_of_any_body_or_hash_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    filled(path)
    whole = path.read_bytes()
    database = sqlite3.connect(path)
    rows = database.execute("SELECT seq, body, body_digest, hash FROM records").fetchall()
    database.close()
    for seq, body, body_digest, link in rows:
        for column, value in (("body", body), ("body_digest", body_digest), ("hash", link)):
            if value is None:
                continue
            for at in {0, len(value) // 2, len(value) - 1, (7 * seq) % len(value)}:
                if isinstance(value, bytes):
                    flipped: Any = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
                else:
                    flipped = value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
                changed(path, f"UPDATE records SET {column} = ? WHERE seq = ?", flipped, seq)
                told(path)
                path.write_bytes(whole)
    Journal(path).close()


@pytest.mark.parametrize("column", ["kind", "epoch", "step"])
def test_a_record_that_was_moved_is_told(tmp_path: Path, column: str) -> None:
    filled(tmp_path / "journal.db")
    changed(
        tmp_path / "journal.db", f"UPDATE records SET {column} = ? WHERE seq = 3", "told" if column == "kind" else 7
    )
    told(tmp_path / "journal.db")


@pytest.mark.parametrize("seq", [0, 1, 5, 9])
def test_a_removed_record_is_told(tmp_path: Path, seq: int) -> None:
    filled(tmp_path / "journal.db")
    changed(tmp_path / "journal.db", "DELETE FROM records WHERE seq = ?", seq)
    told(tmp_path / "journal.db")


@pytest.mark.parametrize("seq", [0, 1, 3, 10])
def test_a_record_that_was_emptied_without_a_snapshot_is_told(tmp_path: Path, seq: int) -> None:
    filled(tmp_path / "journal.db")
    changed(tmp_path / "journal.db", "UPDATE records SET body = NULL WHERE seq = ?", seq)
    assert "emptied" in told(tmp_path / "journal.db").what


@pytest.mark.parametrize(
    "sql", ["DELETE FROM records", "DROP TABLE records", "ALTER TABLE records RENAME COLUMN body TO corpus"]
)
def test_a_journal_that_lost_its_records_or_their_names_is_told_and_not_begun_anew(tmp_path: Path, sql: str) -> None:
    filled(tmp_path / "journal.db")
    changed(tmp_path / "journal.db", sql)
    told(tmp_path / "journal.db")


def test_another_runs_journal_put_in_its_place_is_told(tmp_path: Path) -> None:
    filled(tmp_path / "a" / "journal.db")
    journal = Journal(tmp_path / "b" / "journal.db")
    journal.write("start", {"run": "another"})
    journal.close()
    (tmp_path / "a" / "journal.db").write_bytes((tmp_path / "b" / "journal.db").read_bytes())
    told(tmp_path / "a" / "journal.db")


def test_a_journal_cut_at_any_length_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    filled(path)
    whole = path.read_bytes()
    for length in {0, 1, 15, 16, 99, 100, 101, 4095, 4096, 4097, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        told(path)


def test_a_flipped_byte_anywhere_in_the_file_is_told_or_touches_no_record(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    digest, contents = filled(path)
    whole = path.read_bytes()
    found = 0
    for at in [*range(100), *range(100, len(whole), 23)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            journal = Journal(path)
        except (JournalError, StorageError):
            found += 1
            continue
        assert (journal.digest, held(journal)) == (digest, contents), at
        journal.close()
    assert found > 50
    path.write_bytes(whole)
    Journal(path).close()


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=300))
def test_a_file_that_is_no_journal_is_told(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / "journal.db.begun").write_text("mark")
    (folder / "journal.db").write_bytes(content)
    told(folder / "journal.db")


# -- storage ----------------------------------------------------------------------------------------------------------


def test_two_processes_on_one_journal_the_second_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    with pytest.raises(StorageError) as raised:
        Journal(tmp_path / "journal.db")
    assert raised.value.rule == "one-run-at-a-time"
    journal.close()
    Journal(tmp_path / "journal.db").close()


def test_a_full_disk_is_told_and_the_journal_goes_on_when_there_is_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.write("start", {"run": "r"})
    journal._db.execute("PRAGMA max_page_count=4")
    with pytest.raises(StorageError) as raised:
        journal.write("opened", {"words": np.zeros(20_000, np.uint64)}, step=0)
    assert raised.value.rule == "durable-storage"
    assert "goes on where it stopped" in raised.value.remedy
    journal._db.execute("PRAGMA max_page_count=100000")
    journal.write("opened", {"words": np.zeros(20_000, np.uint64)}, step=0)
    digest = journal.digest
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    assert journal.digest == digest
    journal.close()


LARGE = {"words": np.arange(100_000, dtype=np.uint64)}


def _bodies(folder: Path) -> list[Path]:
    return sorted((folder / "journal.db.bulk").glob("*"))


def test_a_large_sum_lies_in_a_file_that_only_its_owner_reads_until_a_snapshot_makes_it_useless(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.write("opened", LARGE, step=0)
    (body,) = _bodies(tmp_path)
    assert body.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "journal.db").stat().st_size < 100_000
    digest = journal.digest
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    assert journal.digest == digest
    found = journal.last("opened")
    assert found is not None
    assert found.body is not None
    np.testing.assert_array_equal(found.body["words"], LARGE["words"])
    journal.prune(journal.write("snapshot", {"state": 1}, step=1), from_step=0)
    assert _bodies(tmp_path) == []
    journal.close()
    Journal(tmp_path / "journal.db").close()


@pytest.mark.parametrize("harm", ["missing", "altered", "cut"])
def test_a_large_sum_whose_file_was_touched_is_damage(tmp_path: Path, harm: str) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.write("opened", LARGE, step=0)
    journal.close()
    (body,) = _bodies(tmp_path)
    content = body.read_bytes()
    if harm == "missing":
        body.unlink()
    else:
        body.write_bytes(content[:-1] + (b"" if harm == "cut" else bytes([content[-1] ^ 1])))
    with pytest.raises(JournalError) as raised:
        Journal(tmp_path / "journal.db")
    assert raised.value.rule == "journal-integrity"


def test_a_file_that_a_kill_left_without_its_record_is_swept_and_its_name_used_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.write("start", {"run": "r"})
    journal.close()
    (tmp_path / "journal.db.bulk").mkdir()
    (tmp_path / "journal.db.bulk" / "00000001.body").write_bytes(b"half a bo")
    (tmp_path / "journal.db.bulk" / "00000007.body").write_bytes(b"another")
    journal = Journal(tmp_path / "journal.db")
    assert _bodies(tmp_path) == []
    journal.write("opened", LARGE, step=0)
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    assert len(journal.all("opened")) == 1
    journal.close()


def test_a_large_body_is_removed_only_when_its_record_has_let_go_of_it_on_the_disk(tmp_path: Path) -> None:
    """A power cut that brought the record back would find its file gone."""
    journal = Journal(tmp_path / "journal.db")
    for step, body in ((0, LARGE), (1, {"words": np.zeros(3)})):
        journal.write("pending", body, step=step)
        journal.write("opened", {"words": np.zeros(3)}, step=step)
        said: list[str] = []
        journal._db.set_trace_callback(said.append)
        journal.forget_pending(0, step)
        journal._db.set_trace_callback(None)
        waits = not any("synchronous=NORMAL" in line for line in said)
        assert waits is (body is LARGE)
    assert _bodies(tmp_path) == []
    journal.close()


def test_a_record_that_may_come_soon_is_there_after_the_next_one_and_after_a_kill(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.write("opened", {"words": np.zeros(3)}, step=0, soon=True)
    level = journal._db.execute("PRAGMA synchronous").fetchone()[0]
    assert level == 2  # FULL again
    journal.flush()
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    assert len(journal.all("opened")) == 1
    journal.close()


def test_a_run_on_a_full_disk_stops_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = estimates(run(study("odds"), tmp_path / "whole"))
    room = 12

    def cramped(self: Journal, path: Path, **keywords: Any) -> None:
        opened(self, path, **keywords)
        self._db.execute(f"PRAGMA max_page_count={room}")

    opened: Callable[..., None] = Journal.__init__
    rules = []
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "__init__", cramped)
        for room in (12, 16, 20):  # noqa: B007  (read by `cramped`)
            error = run(study("odds"), tmp_path / "run").outcomes["odds"].error
            rules.append(None if error is None else error.rule)
    assert rules[0] == "durable-storage"
    assert estimates(run(study("odds"), tmp_path / "run")) == whole
    steps = [(r.epoch, r.step) for r in records(tmp_path / "run", "odds", "opened")]
    assert len(steps) == len(set(steps))


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError):
        run(study("odds"), tmp_path / "out")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "file"
    write_whole(path, b"first", "file")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError):
        write_whole(path, b"second", "file")
    assert path.read_bytes() == b"first"
    monkeypatch.undo()
    write_whole(path, b"second", "file")
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_damaged_journal_stops_a_run_and_nothing_is_asked(tmp_path: Path) -> None:
    run(study("odds"), tmp_path)
    changed(tmp_path / "odds" / "journal.db", "UPDATE records SET body = x'00' WHERE kind = 'opened'")
    events: list[Event] = []
    with pytest.raises(JournalError) as raised:
        run(study("odds"), tmp_path, data=hospitals(), observer=events.append)
    assert raised.value.rule == "journal-integrity"
    assert events == []
