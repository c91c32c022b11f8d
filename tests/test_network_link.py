"""The link between a site and the coordinator: requests and answers over connections that break at any frame."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest

from unisono.errors import ProtocolError
from unisono.network.coordinator.sites import beginning
from unisono.network.link import CoordinatorEnd, Restarted, SiteEnd
from unisono.network.wire.outbox import SMALL_BYTES, Outbox
from unisono.network.wire.parcel import CHUNK_BYTES, STAGED_BYTES, Incoming, Outgoing
from unisono.network.wire.unisono_pb2 import Beat, Begin, Chunk, Frame


class Wire:
    """A connection in this process that carries frames until it is cut after `lives` of them."""

    def __init__(self, coordinator: CoordinatorEnd, site: SiteEnd, lives: float = float("inf")) -> None:
        self.coordinator, self.site, self.lives = coordinator, site, lives
        self.up, self.down = Outbox(), Outbox()

    async def run(self) -> None:
        """Say hello, then carry until it is cut or cancelled."""
        theirs = {p.id: p.received for p in self.coordinator.welcome(self.site.session)}
        self.coordinator.connected({p.id: p.received for p in self.site.progress()}, self.down)
        self.site.connected(theirs, self.up)
        tasks = [
            asyncio.ensure_future(self._carry(self.down, self.site.receive)),
            asyncio.ensure_future(self._carry(self.up, self.coordinator.receive)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self.coordinator.disconnected(self.down)
            self.site.disconnected(self.up)

    async def _carry(self, outbox: Outbox, receive: Any) -> None:
        async for frame in outbox.frames():
            if self.lives <= 0:
                return
            self.lives -= 1
            receive(Frame.FromString(frame.SerializeToString()))
            await asyncio.sleep(0)


async def doubled(tree: Any) -> Any:
    await asyncio.sleep(0)
    return {"words": tree["words"] * np.uint32(2), "n": tree["n"]}


def test_a_request_is_answered_over_a_whole_connection() -> None:
    async def go() -> None:
        coordinator, site = CoordinatorEnd(), SiteEnd(doubled, "s1")
        wire = asyncio.ensure_future(Wire(coordinator, site).run())
        words = np.arange(3_000_000, dtype=np.uint32)
        answer = await coordinator.request({"words": words, "n": 7})
        assert answer["n"] == 7
        assert np.array_equal(answer["words"], words * 2)
        wire.cancel()

    asyncio.run(go())


@pytest.mark.parametrize("seed", range(8))
def test_connections_that_break_at_random_lose_nothing_and_compute_nothing_twice(seed: int) -> None:
    async def go() -> None:
        draw = random.Random(seed)
        computed: list[int] = []

        async def once(tree: Any) -> Any:
            computed.append(tree["n"])
            return await doubled(tree)

        coordinator, site = CoordinatorEnd(), SiteEnd(once, "s1")
        sizes = [draw.choice((0, 10, CHUNK_BYTES // 4, CHUNK_BYTES, STAGED_BYTES)) for _ in range(6)]
        asked = [
            asyncio.ensure_future(coordinator.request({"words": np.full(size, n, np.uint32), "n": n}))
            for n, size in enumerate(sizes)
        ]
        connections = 0
        while not all(task.done() for task in asked):
            wire = asyncio.ensure_future(Wire(coordinator, site, lives=draw.randint(1, 12)).run())
            await asyncio.wait([wire, asyncio.gather(*asked)], return_when=asyncio.FIRST_COMPLETED)
            wire.cancel()
            connections += 1
        assert connections > 2
        for n, (size, task) in enumerate(zip(sizes, asked, strict=True)):
            assert np.array_equal(task.result()["words"], np.full(size, 2 * n, np.uint32))
        assert sorted(computed) == list(range(6))

    asyncio.run(go())


def test_another_process_at_the_site_loses_what_was_open_with_the_old_one() -> None:
    async def go() -> None:
        coordinator = CoordinatorEnd()

        async def never(_: Any) -> Any:
            await asyncio.sleep(60)

        first = asyncio.ensure_future(Wire(coordinator, SiteEnd(never, "s1")).run())
        asked = asyncio.ensure_future(coordinator.request({"n": 1}))
        await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.ensure_future(Wire(coordinator, SiteEnd(doubled, "s2")).run())
        with pytest.raises(Restarted):
            await asked
        answer = await coordinator.request({"words": np.ones(1, np.uint32), "n": 2})
        assert answer["words"].tolist() == [2]
        second.cancel()

    asyncio.run(go())


def test_a_new_life_of_the_coordinator_is_not_given_what_the_life_before_it_asked_for() -> None:
    async def go() -> None:
        site = SiteEnd(doubled, "s1")
        earlier = CoordinatorEnd(before=beginning())
        old = asyncio.ensure_future(earlier.request({"words": np.ones(1, np.uint32), "n": 1}))
        await asyncio.sleep(0)
        await Wire(earlier, site, lives=1).run()  # killed when the question is there, and the answer is not
        assert len(site.progress()) == 1
        assert not old.done()
        later = CoordinatorEnd(before=beginning())
        new = asyncio.ensure_future(later.request({"words": np.ones(1, np.uint32), "n": 2}))
        await asyncio.sleep(0)
        life = asyncio.ensure_future(Wire(later, site).run())
        assert (await new)["n"] == 2
        life.cancel()
        old.cancel()

    asyncio.run(go())


def test_a_request_that_was_given_up_is_forgotten_at_the_site() -> None:
    async def go() -> None:
        coordinator = CoordinatorEnd()

        async def never(_: Any) -> Any:
            await asyncio.sleep(60)

        site = SiteEnd(never, "s1")
        wire = asyncio.ensure_future(Wire(coordinator, site).run())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(coordinator.request({"n": 1}), 0.02)
        for _ in range(1000):
            if not site.progress():
                break
            await asyncio.sleep(0.01)
        assert site.progress() == []
        wire.cancel()

    asyncio.run(go())


def test_a_request_that_cannot_be_read_or_answered_gets_an_error_for_an_answer() -> None:
    async def go() -> None:
        async def broken(tree: Any) -> Any:
            raise ZeroDivisionError(tree["secret"])

        coordinator, site = CoordinatorEnd(), SiteEnd(broken, "s1")
        wire = asyncio.ensure_future(Wire(coordinator, site).run())
        answer = await coordinator.request({"secret": "a value"})
        assert answer["error"]["rule"] == "site-fault"
        assert "a value" not in str(answer)
        number = 77
        site.receive(Frame(begin=Begin(id=number, size=4)))
        site.receive(Frame(chunk=Chunk(id=number, offset=0, data=b"junk")))
        await asyncio.sleep(0.01)
        assert site._open[number].answer is not None
        wire.cancel()

    asyncio.run(go())


def test_frames_that_no_site_of_ours_sends_are_refused() -> None:
    async def go() -> None:
        coordinator = CoordinatorEnd(limit=1000)
        asked = asyncio.ensure_future(coordinator.request({"n": 1}))
        await asyncio.sleep(0)
        for frame, rule in (
            (Frame(chunk=Chunk(id=1, offset=0, data=b"x")), "message-order"),
            (Frame(begin=Begin(id=1, size=1001)), "message-size"),
            (Frame(), "message-order"),
        ):
            with pytest.raises(ProtocolError) as refused:
                coordinator.receive(frame)
            assert refused.value.rule == rule
        coordinator.receive(Frame(beat=Beat()))
        coordinator.receive(Frame(chunk=Chunk(id=99, offset=0, data=b"late")))
        coordinator.receive(Frame(begin=Begin(id=1, size=4)))
        with pytest.raises(ProtocolError):
            coordinator.receive(Frame(chunk=Chunk(id=1, offset=2, data=b"xx")))
        coordinator.receive(Frame(chunk=Chunk(id=1, offset=0, data=b"junk")))
        with pytest.raises(ProtocolError) as unread:
            await asked
        assert unread.value.rule == "tree-format"

    asyncio.run(go())


def test_a_parcel_comes_in_chunks_and_goes_together_again() -> None:
    tree = {"a": np.arange(7, dtype=np.float64), "b": [np.zeros((3, 500_000), np.float32), "text"], "c": np.empty(0)}
    out = Outgoing(tree)
    into = Incoming(out.size, out.size)
    while not into.complete:
        chunk = out.chunk(into.received)
        assert 0 < len(chunk) <= CHUNK_BYTES
        into.append(into.received, chunk)
    back = into.tree()
    assert np.array_equal(back["a"], tree["a"])
    assert back["b"][0].shape == (3, 500_000)
    assert not back["b"][0].flags.writeable
    assert back["c"].size == 0


def test_a_short_frame_overtakes_a_long_parcel_and_parcels_take_turns() -> None:
    async def go() -> None:
        outbox = Outbox()
        outbox.send(1, Outgoing({"a": np.zeros(CHUNK_BYTES, np.uint8), "b": np.zeros(CHUNK_BYTES, np.uint8)}))
        outbox.send(2, Outgoing({"a": np.zeros(SMALL_BYTES, np.uint8)}))
        frames = outbox.frames()
        seen = [await anext(frames) for _ in range(3)]
        outbox.put(Frame(beat=Beat()))
        seen += [await anext(frames) for _ in range(2)]
        kinds = [(f.WhichOneof("kind"), f.chunk.id) for f in seen]
        assert kinds == [("begin", 0), ("begin", 0), ("chunk", 1), ("beat", 0), ("chunk", 2)]

    asyncio.run(go())


def test_a_small_parcel_is_one_frame_and_takes_along_what_is_done() -> None:
    async def go() -> None:
        outbox = Outbox()
        outbox.done(6)
        outbox.done(7)
        outbox.send(8, Outgoing({"n": 1}))
        frames = outbox.frames()
        frame = await anext(frames)
        assert (frame.begin.id, list(frame.begin.done)) == (8, [6, 7])
        assert len(frame.begin.data) == frame.begin.size > 0
        outbox.done(8)
        alone = await anext(frames)  # nothing comes that could take it along
        assert (alone.WhichOneof("kind"), alone.done.id) == ("done", 8)
        outbox.done(9)
        outbox.close()
        assert [f.done.id async for f in frames] == [9]

    asyncio.run(go())


def test_a_small_answer_that_was_cut_off_before_it_came_is_sent_again_whole() -> None:
    async def go() -> None:
        coordinator, site = CoordinatorEnd(), SiteEnd(doubled, "s1")
        asked = asyncio.ensure_future(coordinator.request({"words": np.arange(5, dtype=np.uint32), "n": 3}))
        await asyncio.sleep(0)
        await Wire(coordinator, site, lives=1).run()
        await Wire(coordinator, site, lives=0).run()
        wire = asyncio.ensure_future(Wire(coordinator, site).run())
        assert (await asked)["words"].tolist() == [0, 2, 4, 6, 8]
        wire.cancel()

    asyncio.run(go())
