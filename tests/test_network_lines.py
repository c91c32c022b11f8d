"""A study over slow, lossy and hostile lines: the same estimates to the last bit, nothing computed twice, no step opened twice.

Weathers are carried by the relay of `tests.support.line` everywhere, and by the kernel's own queues where this machine has them.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support import engine, netem, wide
from tests.support.doors import Door, intercepting
from tests.support.hospitals import Answered, Hospitals, study_over
from tests.support.line import Line
from tests.support.network import SITES, Net, coordinator_home, now
from tests.support.weather import CLEAR, Fate, Weather
from unisono.cli.main import main
from unisono.federation.ask import Ask
from unisono.federation.contribution import Memory, Part
from unisono.methods import registry
from unisono.network.agent.datasets import Dataset
from unisono.network.enrolment.token import Token
from unisono.network.preflight.run import preflight
from unisono.network.preflight.target import target_of
from unisono.site.worker import LocalWorker, Worker
from unisono.study.document import Study

ROOT = Path(__file__).resolve().parent.parent
FAR = Weather(delay_s=0.15)
"""There and back: 300 ms."""
THIN = Weather(bytes_per_s=1e6 / 8)
"""1 Mbit/s."""
LOSSY = Weather(loss=0.2)


@cache
def embedded() -> Any:
    """The embedded run's estimates, as its result file holds them."""
    with TemporaryDirectory() as folder:
        found = engine.run(engine.study("odds"), Path(folder), data=engine.hospitals(SITES))
        return json.loads(json.dumps(engine.estimates(found)))


@cache
def computed() -> int:
    """Answers that the study takes, of all sites together."""
    with TemporaryDirectory() as folder:
        engine.run(engine.study("odds"), Path(folder), data=engine.hospitals(SITES))
        audits = [path.read_text("utf-8").splitlines() for path in Path(folder).glob("sites/*/audit.jsonl")]
        return sum(json.loads(line)["event"] == "answered" for lines in audits for line in lines)


def whole(answered: Answered) -> None:
    """Everything that must hold, whatever the line did."""
    assert answered.estimates == embedded()
    assert answered.computed == computed()
    assert answered.opened_twice == 0
    assert answered.events.get("fault", 0) == answered.events.get("request-refused", 0) == 0


@contextmanager
def lines(weather: Weather = CLEAR, fates: Mapping[str, Iterable[Fate]] | None = None) -> Iterator[dict[str, Line]]:
    """A line for each hospital, which lead nowhere yet."""
    with ExitStack() as opened:
        yield {
            site: opened.enter_context(Line(0, weather, fates=(fates or {}).get(site, ()), seed=k))
            for k, site in enumerate(SITES)
        }


def leading(made: Mapping[str, Line]) -> Callable[[int], dict[str, int]]:
    """Where each hospital dials, once it is known where the coordinator listens."""

    def ports(coordinator: int) -> dict[str, int]:
        for line in made.values():
            line.target = coordinator
        return {site: line.port for site, line in made.items()}

    return ports


# -- weather ----------------------------------------------------------------------------------------------------------


def by_relay(weather: Weather, folder: Path) -> Answered:
    with lines(weather) as made:
        return asyncio.run(study_over(folder, leading(made)))


def by_kernel(weather: Weather, folder: Path) -> Answered:
    command = [sys.executable, "-m", "tests.support.hospitals", str(folder)]
    done = subprocess.run(
        netem.inside(weather, command), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return Answered(**json.loads(done.stdout.splitlines()[-1]))


CARRIED = [
    pytest.param(carry, weather, id=f"{name}-{carry.__name__}")
    for name, weather in (("300ms", FAR), ("1Mbit", THIN), ("20%-loss", LOSSY))
    for carry in (by_relay, by_kernel)
    if carry is by_relay or netem.available(weather)
]
"""Each weather by the relay, and by the kernel where it can."""


@pytest.mark.parametrize(("carry", "weather"), CARRIED)
def test_a_study_over_a_slow_thin_or_lossy_line_gives_the_same_bits(
    carry: Callable[[Weather, Path], Answered], weather: Weather, tmp_path: Path
) -> None:
    whole(carry(weather, tmp_path))


def test_the_relay_is_as_slow_thin_and_lossy_as_it_says() -> None:
    async def there_and_back(line: Line, size: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        began = asyncio.get_running_loop().time()
        writer.write(bytes(size))
        await reader.readexactly(size)
        took = asyncio.get_running_loop().time() - began
        writer.close()
        return took

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = int(server.sockets[0].getsockname()[1])
        with Line(port, FAR) as far, Line(port, THIN) as thin, Line(port, LOSSY, seed=1) as lossy:
            assert 0.3 <= await there_and_back(far, 10) < 3
            assert 0.2 <= await there_and_back(thin, 25_000) < 6
            assert 0.2 <= await there_and_back(lossy, 40_000) < 60
            assert lossy.carried == {"up": 40_000, "down": 40_000}
        server.close()

    asyncio.run(go())


# -- links that are lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_links_reset_at_random_moments_lose_nothing_and_compute_nothing_twice(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    fates = {site: [Fate(draw.randint(3_000, 30_000)) for _ in range(6)] for site in SITES}
    with lines(fates=fates) as made:
        answered = asyncio.run(study_over(tmp_path, leading(made)))
        assert sum(line.connections for line in made.values()) > len(SITES) + 3
    whole(answered)


@pytest.mark.parametrize("how", ["up", "down", "both"])
def test_a_half_open_link_is_found_by_its_heartbeats_and_the_study_goes_on(how: Any, tmp_path: Path) -> None:
    fates = {"padua": [Fate(15_000, how)], "turin": [Fate(20_000, how)]}
    with lines(fates=fates) as made:
        answered = asyncio.run(study_over(tmp_path, leading(made), heartbeat_s=0.4))
        assert [line.connections for line in made.values()] == [1, 2, 2]
    whole(answered)


def test_with_heartbeats_below_a_proxy_s_idle_time_out_a_link_lives(tmp_path: Path) -> None:
    async def wait(hospitals: Hospitals) -> None:
        await hospitals.until(lambda: len(hospitals.logged("connected")) == len(SITES))
        await asyncio.sleep(6)  # what is waited for is that nothing happens

    with lines(Weather(idle_s=4)) as made:
        answered = asyncio.run(study_over(tmp_path, leading(made), during=wait, heartbeat_s=1.5))
        assert [line.connections for line in made.values()] == [1, 1, 1]
    whole(answered)


def test_with_heartbeats_above_a_proxy_s_idle_time_out_a_link_is_opened_again_and_the_study_ends_well(
    tmp_path: Path,
) -> None:
    async def wait(hospitals: Hospitals) -> None:
        await hospitals.until(lambda: all(len(hospitals.logged("connected", site)) > 1 for site in SITES))

    with lines(Weather(idle_s=1.0)) as made:
        answered = asyncio.run(study_over(tmp_path, leading(made), during=wait, heartbeat_s=5.0))
        assert min(line.connections for line in made.values()) > 1
    whole(answered)


# -- what stands in the door ------------------------------------------------------------------------------------------


def test_a_study_through_a_proxy_with_a_password(tmp_path: Path) -> None:
    door = Door("unisono:wörd")
    with Line(0, door=door) as line:
        answered = asyncio.run(study_over(tmp_path, proxy=lambda _: f"http://unisono:w%C3%B6rd@127.0.0.1:{line.port}"))
    whole(answered)
    assert len(door.asked) == len(SITES)
    assert len(set(door.asked)) == 1


def test_a_proxy_that_wants_a_windows_log_on_is_said_to_need_a_relay(tmp_path: Path) -> None:
    door = Door(schemes=("Negotiate", "NTLM"))
    with Line(0, door=door) as line:
        proxy = f"http://127.0.0.1:{line.port}"
        said, report = asyncio.run(turned_away(tmp_path, proxy=proxy))
    assert said["rule"] == "proxy-refused"
    assert "docs/preflight.md" in said["remedy"]
    assert "NTLM" in report.check("proxy").found
    assert "relay" in report.check("proxy").todo


def test_a_firewall_that_opens_tls_is_refused_and_named_by_serve_by_join_and_by_preflight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Line(0, tls=intercepting(tmp_path, "Hospital TLS Inspection")) as line:
        said, report = asyncio.run(turned_away(tmp_path, line))
        assert said["rule"] == "untrusted-coordinator"
        assert "issued by CN=Hospital TLS Inspection" in said["what"]
        assert report.check("certificate").details["intercepted"] is True
        assert "issued by CN=Hospital TLS Inspection" in report.check("certificate").found
        assert f"Exempt 127.0.0.1:{line.port} from TLS inspection" in report.request
        token = invitation(tmp_path / "again", line)
        with pytest.raises(SystemExit):
            main(["site", "join", token, "--home", str(tmp_path / "late")])
        assert "issued by CN=Hospital TLS Inspection" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def invitation(folder: Path, line: Line) -> str:
    """A token for a coordinator at the other end of this line."""
    home = coordinator_home(folder / "centre")
    return Token.make(home.authority(), f"127.0.0.1:{line.port}", "site", "padua", now=now()).encode()


async def turned_away(folder: Path, line: Line | None = None, proxy: str | None = None) -> tuple[dict[str, Any], Any]:
    """What a joined site's agent writes down when it dials over this line or proxy, and what preflight says."""
    net = await Net.open(folder, ())
    if line is not None:
        line.target = net.port
    hospitals = Hospitals(net, {} if line is None else dict.fromkeys(SITES, line.port), proxy)
    try:
        await hospitals.join()
        hospitals.serve()
        await hospitals.until(lambda: bool(hospitals.logged("unreachable", "padua")))
        agent = hospitals.folder("padua")
        target = target_of(agent.settings().address, now(), agent.path)
        report = await preflight(target, agent.path, now, {}, idle_s=0.05, proxy=proxy)
        return hospitals.logged("unreachable", "padua")[0], report
    finally:
        await hospitals.close()
        await net.close()


# -- resumed, not done again --------------------------------------------------------------------------------------------


def test_a_large_update_goes_on_where_the_link_was_cut_and_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 MB up from each hospital; each link is cut twice in the middle of it."""
    registry.methods()  # the built-in ones first
    monkeypatch.setattr(wide, "SIZE", 4_000_000)
    monkeypatch.setitem(registry._registered, wide.Wide.name, wide.Wide)
    message = 4 * wide.SIZE
    fates = {site: [Fate(message * part) for part in (0.35, 0.3)] for site in SITES}
    analyses = {"line": {"method": wide.Wide.name, "variable": "age"}}
    asked = engine.study("odds", analyses=analyses, protection={"threat": "malicious"})
    computed: Counter[str] = Counter()

    class Counting(LocalWorker):
        site = ""

        def contribution(self, ask: Ask, memory: Memory) -> Part:
            computed[self.site] += ask.contribution == "line"
            return super().contribution(ask, memory)

    def counting(study: Study, dataset: Dataset, site: str, secret: bytes) -> Worker:
        worker = Counting(study, dataset.freeze(study, site), secret)
        worker.site = site
        return worker

    with lines(fates=fates) as made:
        answered = asyncio.run(study_over(tmp_path, leading(made), study=asked, make_worker=counting))
        up = {site: line.carried["up"] for site, line in made.items()}
        assert [line.connections for line in made.values()] == [3, 3, 3]
    assert answered.estimates["line"]["error"] < 1e-3
    assert dict(computed) == dict.fromkeys(SITES, 1)
    assert answered.opened_twice == 0
    assert all(message < size < 1.3 * message for size in up.values()), up
