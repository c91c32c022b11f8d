"""Results of hundreds of megabytes: sent from where they lie, fetched in pieces, bounded; and what stays at one hospital."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine
from tests.support.network import net, rule
from unisono.errors import NetworkError, ProtocolError
from unisono.network import results
from unisono.network.agent.results import keep, own
from unisono.network.coordinator import running
from unisono.network.researcher import Client
from unisono.network.wire.parcel import CHUNK_BYTES, Incoming, Outgoing
from unisono.report.audience import FILE as FILES
from unisono.site import sheets

MIB = 1 << 20
MODEL = np.random.default_rng(1).integers(0, 256, 9 * MIB + 5, np.uint8).tobytes()


def folder_of(path: Path, **files: bytes) -> Path:
    """A run's folder with these files, besides what is the coordinator's alone."""
    (path / "risk").mkdir(parents=True)
    (path / "risk" / "journal.db").write_bytes(b"opened sums")
    (path / FILES).write_text("who may see what")
    for name, content in files.items():
        (path / "risk" / name.replace("_", ".")).write_bytes(content)
    return path


def test_a_large_model_goes_to_many_hospitals_without_taking_memory_for_any_of_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, model_safetensors=bytes(64 * MIB))
    tracemalloc.start()
    try:
        parcels = [Outgoing({"to": "result", "files": results.result_files(folder)}) for _ in range(10)]
        for parcel in parcels:
            assert sum(len(parcel.chunk(at)) for at in range(0, parcel.size, CHUNK_BYTES)) == parcel.size > 64 * MIB
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_what_arrives_is_kept_as_it_was_sent_with_the_memory_of_no_more_than_a_chunk(tmp_path: Path) -> None:
    sent = Outgoing({"files": results.result_files(folder_of(tmp_path / "there", model_safetensors=MODEL))})
    tracemalloc.start()
    try:
        came = Incoming(sent.size, 1 << 31)
        for at in range(0, sent.size, CHUNK_BYTES):
            came.append(at, sent.chunk(at))
        assert keep(tmp_path / "here", came.tree()["files"]) == len(MODEL) + len("who may see what")
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()
    assert (tmp_path / "here" / "risk" / "model.safetensors").read_bytes() == MODEL
    assert not (tmp_path / "here" / "risk" / "journal.db").exists()


def asking(folder: Path) -> Client:
    """A researcher's client whose coordinator has this folder of results."""

    class Fake(Client):
        def __init__(self) -> None:
            self.calls = 0

        def call(self, name: str, /, timeout_s: float = 0.0, **body: Any) -> Any:
            self.calls += 1
            if "file" not in body:
                return {"files": results.listing(folder)}
            return {"data": results.piece(folder, body["file"], body["offset"])}

    return Fake()


def test_a_researcher_fetches_a_model_in_pieces_and_notices_one_that_changed_meanwhile(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, model_safetensors=MODEL, exact_json=bytes(results.PIECE_BYTES))
    client = asking(folder)
    files = client.files("s")
    assert set(files) == {FILES, "risk/model.safetensors", "risk/exact.json"}
    for name, sha256 in files.items():
        assert client.file("s", name, sha256) == (folder / name).read_bytes()
    assert client.calls == 1 + 1 + 3 + 2  # the list, a small one, 9 MiB, and one that ends with a piece
    (folder / "risk" / "model.safetensors").write_bytes(MODEL[::-1])
    with pytest.raises(NetworkError) as changed:
        client.file("s", "risk/model.safetensors", files["risk/model.safetensors"])
    assert changed.value.rule == "result-changed"
    for name in ("risk/journal.db", "../secret", "risk/none"):
        with pytest.raises(NetworkError):
            results.piece(folder, name, 0)


def test_names_that_lead_elsewhere_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    client = asking(tmp_path)
    for files in ({"../x": {"size": 1, "sha256": ""}}, {"x": {"size": 2 << 30, "sha256": ""}}):
        client.call = lambda *_, files=files, **__: {"files": files}  # type: ignore[method-assign]
        with pytest.raises(ProtocolError) as refused:
            client.files("s")
        assert refused.value.rule == "result-files"


def written_with(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Every run leaves this model beside its results."""
    write = running.write

    def also(run: Any, **settings: Any) -> Any:
        (run.out / "effect" / "model.safetensors").write_bytes(content)
        return write(run, **settings)

    monkeypatch.setattr(running, "write", also)


def test_a_model_reaches_the_researcher_and_every_hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_with(monkeypatch, MODEL)

    async def go() -> None:
        async with net(tmp_path) as opened:
            digest = await opened.submit(engine.study("effect"))
            await opened.until(digest, "finished")
            files = await opened.files(digest)
            assert files["effect/model.safetensors"] == MODEL
            for client in opened.sites.values():
                await client.until(lambda client=client: digest in client.results)  # type: ignore[misc]
                assert client.results[digest] == files

    asyncio.run(go())


def test_results_beyond_the_limit_are_refused_with_the_limit_and_the_coordinator_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_with(monkeypatch, MODEL)
    monkeypatch.setattr(results, "MOST_BYTES", 8 * MIB)

    async def go() -> None:
        async with net(tmp_path) as opened:
            digest = await opened.submit(engine.study("effect"))
            await opened.until(digest, "finished")
            assert await rule(opened.port, opened.researcher, call="result", study=digest) == "result-size"
            until, refused = time.monotonic() + 20, []
            while len(refused) < 3 and time.monotonic() < until:
                await asyncio.sleep(0.05)
                refused = [line["rule"] for line in opened.log() if line["event"] == "delivery-refused"]
            assert refused == ["result-size"] * 3
            assert opened.coordinator.studies.course.trouble == ""  # no courier died of it

    asyncio.run(go())
    with pytest.raises(NetworkError, match="8,388,608 bytes are sent"):
        results.result_paths(folder_of(tmp_path / "r", model_safetensors=MODEL))


def test_a_hospital_is_shown_what_a_study_left_with_it_alone(tmp_path: Path) -> None:
    class Entry:
        digest = "d" * 64
        document = json.dumps({"analyses": {"risk": {}, "table": {}, "other": {}}})

    place, another = sheets.folder_of(tmp_path, "d" * 64), sheets.folder_of(tmp_path, "e" * 64)
    (place / "risk").mkdir(parents=True)
    another.mkdir()
    (place / "risk" / "model.safetensors").write_bytes(b"own")
    (place / "risk" / "model.json.new").write_bytes(b"half")
    (place / "risk.json").write_text("{}")
    (another / "other.json").write_text("{}")  # another study's analysis of that name
    assert own(tmp_path, Entry()) == [place / "risk.json", place / "risk" / "model.safetensors"]  # type: ignore[arg-type]
