"""Disks that are full in the middle of everything, at the coordinator and at a site: what is said, that nothing is lost, and that
after room was made the run ends with the same estimates."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine
from tests.support.disk import Disk, small_disk
from tests.support.network import SITES, Client, Net, net

STUDY = engine.study("odds")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run without trouble estimates."""
    found = engine.estimates(engine.run(STUDY, tmp_path_factory.mktemp("embedded")))["odds"]
    return json.loads(json.dumps(found))


async def estimates(opened: Net, digest: str) -> Any:
    return json.loads((await opened.files(digest))["odds/result.json"])["estimates"]


def at_message(client: Client, phase: str, number: int, do: Callable[[], None]) -> None:
    """Do something when a site was asked so many messages of a phase, before it answers."""
    answer = client._answer

    async def answered(tree: Any) -> Any:
        message = tree.get("message", {}) if tree["to"] == "exchange" else {}
        if message.get("kind") == phase and client.answered[phase] == number - 1:
            do()
        return await answer(tree)

    client._answer = answered  # type: ignore[method-assign]


def on(disk: Disk, folder: Path, name: str) -> None:
    """A folder of the test lies on the small disk."""
    (disk.path / name).mkdir()
    (folder / name).symlink_to(disk.path / name)


def test_x(tmp_path: Path, expected: Any) -> None:
    async def go(disk: Disk) -> None:
        async with net(tmp_path) as opened:
            at_message(opened.sites["padua"], "mask", 3, disk.fill)
            digest = await opened.submit(STUDY)
            for k in range(40):
                await asyncio.sleep(0.25)
                print(k, (await opened.status(digest))["state"], (await opened.status(digest))["why"])
                if k == 10:
                    disk.free()
                    print(await opened.submit(STUDY))
            for l in opened.log(): print(l)

    with small_disk(tmp_path, 8) as disk:
        on(disk, tmp_path, "centre")
        asyncio.run(go(disk))
    assert 0

def test_y(tmp_path: Path, expected: Any) -> None:
    async def go(disk: Disk) -> None:
        async with net(tmp_path) as opened:
            at_message(opened.sites["padua"], "mask", 3, disk.fill)
            digest = await opened.submit(STUDY)
            for k in range(40):
                await asyncio.sleep(0.25)
                print(k, (await opened.status(digest))["state"], (await opened.status(digest))["why"])
                if k == 10:
                    disk.free()
                    print(await opened.submit(STUDY))
            for l in opened.log(): print(l)

    with small_disk(tmp_path, 8) as disk:
        on(disk, tmp_path, "padua")
        asyncio.run(go(disk))
    assert 0
