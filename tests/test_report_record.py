"""result.json: exact, ordered, whole or not at all, and without a number of a single hospital."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import lung
from unisono.errors import StorageError
from unisono.report import plain_json
from unisono.report.participation import Participation, Recovered, Waited
from unisono.report.record import AnalysisRecord, protection_of
from unisono.study.document import Protection

KEYS = [
    *("analysis", "method", "question", "sites", "participation", "converged"),
    *("protection", "journal_digest", "estimates", "notes", "cohort", "study"),
]


def record(**changes: object) -> AnalysisRecord:
    study = lung.study()
    made = {
        "analysis": "effect",
        "method": "cox",
        "question": study.question,
        "sites": list(lung.SITES),
        "participation": Participation(
            sites=list(lung.SITES),
            sums=9,
            recovered=[Recovered(step=1, name="totals", site="turin")],
            waited=[Waited(step=2, name="derivatives", sites=["leiden"])],
            left=[],
        ),
        "converged": True,
        "protection": protection_of(study, 4),
        "journal_digest": "ab" * 32,
        "estimates": {"n": 226, "coefficients": [{"name": "age", "coef": 0.1 + 0.2}]},
        "notes": ["A note."],
        "cohort": {"read": None, "patients": 226},
        "study": study.digest(),
    }
    return AnalysisRecord.model_validate({**made, **changes})


def test_the_file_has_exactly_the_promised_keys_in_order(tmp_path: Path) -> None:
    path = record().write(tmp_path)
    assert list(json.loads(path.read_text("utf-8"))) == KEYS


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    record().write(tmp_path)
    assert AnalysisRecord.read(tmp_path) == record()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_back_to_the_same_bits(value: float) -> None:
    again = json.loads(record(estimates={"x": value}).to_json())["estimates"]["x"]
    assert math.copysign(1, again) == math.copysign(1, value)
    assert again == value


def test_numbers_that_are_not_finite_are_null() -> None:
    assert plain_json.finite({"a": [math.nan, math.inf, 1.5], "b": (1, None)}) == {
        "a": [None, None, 1.5],
        "b": [1, None],
    }
    assert json.loads(plain_json.dumps({"a": math.nan})) == {"a": None}


def test_protection_is_stated_with_threshold_and_tolerated_drop_outs() -> None:
    found = protection_of(lung.study(), 4)
    assert (found.threshold, found.tolerated_drop_outs, found.sites, found.colluding) == (3, 1, 4, 1)
    assert (found.hide, found.threat, found.graph, found.must_stay) == ("secagg", "semi-honest", "complete graph", 3)
    assert found.sentence == "4 sites, 1 colluder: 3 must stay; 1 drop-out after masking is tolerated."


def test_result_json_names_graph_threshold_threat_and_who_must_stay(tmp_path: Path) -> None:
    asked = lung.study(protection={"hide": "secagg+", "threat": "malicious", "colluding": 1})
    path = record(protection=protection_of(asked, 40)).write(tmp_path)
    found = json.loads(path.read_text("utf-8"))["protection"]
    assert {k: v for k, v in found.items() if k != "sentence"} == {
        "hide": "secagg+",
        "threat": "malicious",
        "colluding": 1,
        "sites": 40,
        "graph": "10-regular graph",
        "threshold": 6,
        "must_stay": 32,
        "tolerated_drop_outs": 4,
    }


def test_without_protection_the_sentence_says_that_nothing_is_hidden() -> None:
    found = protection_of(lung.study(protection=Protection(hide="none").model_dump()), 4)
    assert (found.graph, found.threshold, found.must_stay, found.tolerated_drop_outs) == (None, None, None, None)
    assert "Nothing hides" in found.sentence


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record().write(tmp_path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unisono.report.plain_json.os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as refused:
        record(converged=False).write(tmp_path)
    assert refused.value.rule == "durable-storage"
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"analysis": "effect"}', '{"analysis": 3}'])
def test_a_damaged_file_is_a_storage_error_with_a_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text, "utf-8")
    with pytest.raises(StorageError, match="cannot be read") as refused:
        AnalysisRecord.read(tmp_path)
    assert "unisono run" in refused.value.remedy


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    document = json.loads(record().to_json())
    (tmp_path / "result.json").write_text(json.dumps({**document, "padua": {"n": 46}}), "utf-8")
    with pytest.raises(StorageError, match="padua"):
        AnalysisRecord.read(tmp_path)
