"""A site's memory of large vectors: files beside the database that nobody else reads, and that go when their step is over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unisono.errors import JournalError, StorageError
from unisono.federation.ask import Ask
from unisono.federation.contribution import Facts
from unisono.site.state import SiteState

LARGE = np.arange(100_000, dtype=np.uint32)
SMALL = np.arange(10, dtype=np.uint64)


def asked(step: int) -> Ask:
    return Ask(
        run="r",
        study="s",
        analysis="a",
        method="m",
        version=1,
        operation="sum",
        contribution="c",
        step=step,
        epoch=0,
        attempt=1,
        sites=("leiden", "padua"),
        hide="secagg",
        encoding="fixed32",
        facts=Facts(patients=10),
        arguments=[],
    )


def files(state: SiteState) -> list[Path]:
    return sorted(state.path.with_name(f"{state.path.name}.bulk").glob("*"))


def test_large_and_small_vectors_are_there_after_a_restart_as_they_were(tmp_path: Path) -> None:
    state = SiteState(tmp_path / "state.db")
    state.remember_vector(asked(0), SMALL)
    state.remember_vector(asked(1), LARGE)
    (file,) = files(state)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    state.close()
    state = SiteState(tmp_path / "state.db")
    for step, vector in ((0, SMALL), (1, LARGE)):
        known = state.step(asked(step).key)
        assert known is not None
        assert known.vector is not None
        assert known.vector.dtype == vector.dtype
        np.testing.assert_array_equal(known.vector, vector)
    state.close()


def test_a_step_that_is_over_takes_its_files_and_those_of_the_steps_before_along(tmp_path: Path) -> None:
    state = SiteState(tmp_path / "state.db")
    for step in range(3):
        state.remember_vector(asked(step), LARGE)
    state.close_step(asked(1).key)
    assert len(files(state)) == 1
    known = [state.step(asked(step).key) for step in range(3)]
    assert [step is not None and step.closed for step in known] == [True, True, False]
    assert [step is not None and step.vector is not None for step in known] == [False, False, True]
    state.close()


def test_a_file_that_a_kill_left_without_its_step_is_swept(tmp_path: Path) -> None:
    SiteState(tmp_path / "state.db").close()
    (tmp_path / "state.db.bulk").mkdir()
    (tmp_path / "state.db.bulk" / "half").write_bytes(b"half a vector")
    state = SiteState(tmp_path / "state.db")
    assert files(state) == []
    state.close()


def test_a_vector_whose_file_is_gone_is_damage_and_not_a_step_without_an_answer(tmp_path: Path) -> None:
    state = SiteState(tmp_path / "state.db")
    state.remember_vector(asked(0), LARGE)
    files(state)[0].unlink()
    known = state.step(asked(0).key)
    assert known is not None
    with pytest.raises(JournalError) as raised:
        _ = known.vector
    assert raised.value.rule == "journal-integrity"
    state.close()


def test_without_room_for_a_vector_nothing_is_promised_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SiteState(tmp_path / "state.db")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("unisono.federation.bulk.os.fsync", full)
        with pytest.raises(StorageError) as raised:
            state.remember_vector(asked(0), LARGE)
    assert raised.value.rule == "durable-storage"
    assert state.step(asked(0).key) is None
    assert files(state) == []
    state.remember_vector(asked(0), LARGE)
    assert state.step(asked(0).key) is not None
    state.close()
