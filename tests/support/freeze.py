"""Freezes what this version of Unisono sends and stores, for the tests of every later one: ``tests/fixtures/wire-v<PROTOCOL>``.

    python -m tests.support.freeze

A study over three sites is stopped in its middle. Kept are the frames that went each way, a command, a token, and the memories of
coordinator and sites as files. Its keys were made for it and open nothing; its permits hold for a hundred years. Run this when
the wire or a file's form was changed on purpose: raise the version, keep the old folder, and make the new one.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support import engine
from tests.support.network import SERVICE, Net, channel
from unisono.engines.environment import environment
from unisono.network.coordinator.sites import Sites
from unisono.network.enrolment.token import Token
from unisono.network.link import CoordinatorEnd, SiteEnd
from unisono.network.wire import outbox
from unisono.network.wire.envelope import command
from unisono.network.wire.unisono_pb2 import Beat, Bye, Done, Frame, Hello, Progress
from unisono.network.wire.version import PROTOCOL
from unisono.site import permit

FIXTURES = Path(__file__).parents[1] / "fixtures"
STUDY = engine.study("odds")
CALL = {"call": "status", "study": STUDY.id}
_STOP_AT = 3
"""Steps that are opened before the coordinator is stopped."""
_FOR_EVER_DAYS = 36_500
_SMALL_BYTES = 1024
"""Messages of both kinds are to be seen: in one frame, and in chunks."""
_KEPT = {
    "consents.json",
    "coordinator.db",
    "members.db",
    "invitations.db",
    "journal.db",
    "state.db",
    "identity.key",
    "rows.key",
}
_HELLO = {"protocol": PROTOCOL, "software": "0.0.0", "session": "frozen", "open": [Progress(id=9, received=7)]}


def folder(version: int = PROTOCOL) -> Path:
    """Of one version of the wire."""
    return FIXTURES / f"wire-v{version}"


def frames(path: Path) -> list[bytes]:
    """What `keep` wrote."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def keep(path: Path, written: list[bytes]) -> None:
    """Each with its length before it, four bytes, the most significant first."""
    path.write_bytes(b"".join(len(one).to_bytes(4, "big") + one for one in written))


class Tap:
    """Hears the frames of one site's link, both ways, until there are enough of every kind."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.to_site: list[bytes] = []
        self.to_coordinator: list[bytes] = []

    def hear(self, end: Any, heard: list[bytes], of: Callable[[Any], bool]) -> Any:
        """In the place of an end's `receive`."""
        receive = end.receive

        def both(self: Any, frame: Frame) -> None:
            if of(self):
                heard.append(frame.SerializeToString(deterministic=True))
            receive(self, frame)

        return mock.patch.object(end, "receive", both)


async def _midway(opened: Net, tap: Tap) -> str:
    """Run the study until some of its steps were opened, and stop. Its digest."""
    enough = asyncio.Event()
    ask = Sites.ask
    loop = asyncio.get_running_loop()

    async def counted(self: Sites, name: str, tree: Any) -> dict[str, Any]:
        message = tree.get("message", {})
        if message.get("kind") == "mask" and message["ask"]["step"] >= _STOP_AT:
            loop.call_soon_threadsafe(enough.set)
            await asyncio.get_running_loop().create_future()  # never answered: the coordinator is stopped here
        return await ask(self, name, tree)

    site = opened.sites[tap.site]
    with (
        mock.patch.object(Sites, "ask", counted),
        mock.patch.object(permit, "VALID_DAYS", _FOR_EVER_DAYS),
        mock.patch.object(outbox, "SMALL_BYTES", _SMALL_BYTES),
        tap.hear(SiteEnd, tap.to_site, lambda end: end is site.end),
        tap.hear(CoordinatorEnd, tap.to_coordinator, lambda end: end.session == site.session),
    ):
        digest = await opened.submit(STUDY)
        async with asyncio.timeout(60):
            await enough.wait()
        await opened.close()
    return digest


async def _first_words(opened: Net) -> tuple[bytes, bytes]:
    """A hello with fixed words, and its welcome."""
    site = opened.sites["padua"]
    hello = Frame(hello=Hello(**_HELLO)).SerializeToString()
    async with channel(opened.port, site.credentials) as open_:
        call = open_.stream_stream(SERVICE + "Connect")()
        await call.write(hello)
        return hello, bytes(await call.read())


async def _freeze(out: Path, work: Path) -> None:
    opened = await Net.open(work, dial=False)
    tap = Tap("padua")
    try:
        hello, welcome = await _first_words(opened)
        for client in opened.sites.values():
            client.start()
    except BaseException:
        await opened.close()
        raise
    authority, made = opened.home.authority(), datetime.now(UTC)
    token = Token.make(authority, "coordinator.example:443", "site", "padua", now=made)
    digest = await _midway(opened, tap)
    parting = (Done(id=7), Beat(time_ms=1_700_000_000_000), Bye(rule="two-agents", what="Why.", remedy="What to do."))
    tap.to_site += [Frame(**{type(one).__name__.lower(): one}).SerializeToString() for one in parting]  # type: ignore[arg-type]
    keep(out / "to-coordinator.frames", [hello, *tap.to_coordinator])
    keep(out / "to-site.frames", [welcome, *tap.to_site])
    (out / "command").write_bytes(command(CALL).SerializeToString(deterministic=True))
    (out / "token").write_text(token.encode() + "\n", "ascii")
    await asyncio.to_thread(_pack, work, out / "memories.tar.xz")
    about = {
        "frozen": made.isoformat(),
        "study": digest,
        "environment": environment(),
        "permit": opened.sites["padua"].permits[digest].model_dump(mode="json"),
    }
    (out / "about.json").write_text(f"{json.dumps(about, indent=2)}\n", "utf-8")


def _pack(work: Path, out: Path) -> None:
    """Every memory with the mark beside it, and the sites' keys; nobody's name, no time, no path but its own."""
    with tarfile.open(out, "w:xz") as tar:
        for path in sorted(work.rglob("*")):
            if path.name in _KEPT or path.name.removesuffix(".begun") in _KEPT:
                member = tarfile.TarInfo(path.relative_to(work).as_posix())
                member.size = path.stat().st_size
                tar.addfile(member, io.BytesIO(path.read_bytes()))


def memories(out: Path, version: int = PROTOCOL) -> None:
    """The files as they were, below `out`."""
    with tarfile.open(folder(version) / "memories.tar.xz") as tar:
        tar.extractall(out, filter="data")


def main() -> None:
    """Freeze this version, in the place of what was frozen of it before."""
    out = folder()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="freeze-") as work:
        asyncio.run(_freeze(out, Path(work)))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    sys.stdout.write(f"{out}: {size:,} bytes\n")


if __name__ == "__main__":
    main()
