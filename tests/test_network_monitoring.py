"""Metrics and health on loopback, and services that end in order: what an institution's own monitoring sees and may rely on."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support import engine
from tests.support.network import SITES, Net, coordinator_home, net, now, ok, rule
from unisono.errors import NetworkError
from unisono.network.agent import datasets
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.folder import Settings as SiteSettings
from unisono.network.agent.join import join
from unisono.network.agent.serve import Options, serve
from unisono.network.agent.steward import Desk
from unisono.network.link import CoordinatorEnd
from unisono.network.log import Log
from unisono.network.monitoring.address import loopback, names_loopback
from unisono.network.monitoring.exposition import Family, Histogram, by, one, render
from unisono.network.monitoring.listener import CONNECTIONS, HEADER_BYTES, Listener, Shown
from unisono.network.monitoring.tally import MOST_RULES, Tally

ROOT = Path(__file__).parents[1]
GET = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9464\r\n\r\n"
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(page: str) -> Numbers:
    """Every sample, as Prometheus' own library reads the page."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def number(found: Numbers, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


async def said(port: int, request: str) -> tuple[int, str]:
    """Status and body that a request gets; status 0 if the connection is only closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode("latin-1"))
    async with asyncio.timeout(30):
        try:
            answer = (await reader.read()).decode()
        except ConnectionError:
            answer = ""
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body


async def got(port: int, path: str) -> tuple[int, str]:
    return await said(port, GET.format(path=path))


async def numbers(port: int) -> Numbers:
    status, page = await got(port, "/metrics")
    assert status == 200, page
    return parsed(page)


async def shows(port: int, name: str, value: float, **labels: str) -> None:
    """Returns when a number is this one."""
    async with asyncio.timeout(60):
        while number(await numbers(port), name, **labels) != value:  # noqa: ASYNC110  (over a socket)
            await asyncio.sleep(0.1)


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def shown_at(log: Path) -> int:
    """The port where a service says that it shows its numbers."""
    (address,) = {line["address"] for line in lines(log) if line["event"] == "monitoring"}
    return int(address.rpartition(":")[2])


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  (a file, another process)
            await asyncio.sleep(0.1)


# -- the text -------------------------------------------------------------------------------------------------------------


def test_the_page_is_what_prometheus_own_library_reads() -> None:
    took = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        took.observe(seconds)
    odd = 'a "quoted" \\ back\nslash'
    page = render(
        [
            one("up_seconds", "gauge", "With\na line and a \\.", 1.5, site=odd),
            by("done_total", "counter", "Done.", "kind", {"b": 2, "a": 1}),
            Family("took_seconds", "histogram", "Took.", took.samples(who="x")),
            Family("nothing", "gauge", "Left out.", ()),
        ]
    ).decode()
    found = parsed(page)
    assert number(found, "up_seconds", site=odd) == 1.5
    assert number(found, "done_total", kind="b") == 2
    buckets = [number(found, "took_seconds_bucket", who="x", le=edge) for edge in ("0.1", "1", "+Inf")]
    assert buckets == [2, 3, 4]
    assert number(found, "took_seconds_count", who="x") == 4
    assert number(found, "took_seconds_sum", who="x") == pytest.approx(7.65)
    assert "nothing" not in page
    assert page.endswith("\n")


def test_events_are_counted_by_rule_and_no_stranger_can_make_labels_without_bound() -> None:
    tally = Tally()
    for k in range(1000):
        tally("delivery-refused", {"rule": f"made-up-{k}"})
        tally("connected", {})
    tally("refused", {"rule": "Not A Rule\n" * 10})
    tally("refused", {"rule": "calls-at-once"})
    samples = {(s.labels["event"], s.labels["rule"]): s.value for s in tally.family().samples}
    assert samples["connected", ""] == 1000
    assert samples["refused", "other"] == samples["refused", "calls-at-once"] == 1
    refused = [value for (event, _), value in samples.items() if event == "delivery-refused"]
    assert sum(refused) == 1000
    assert len(refused) == MOST_RULES + 1


# -- where, and for whom --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:9464", "localhost:9464", "127.8.8.8:0"])
def test_an_address_of_loopback_is_taken(text: str) -> None:
    assert loopback(text).port in (0, 9464)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0" + ".0:9464", "metrics-loopback"),
        ("[::]:9464", "metrics-loopback"),
        ("10.1.2.3:9464", "metrics-loopback"),
        ("unisono.example.org:9464", "metrics-loopback"),
        ("127.0.0.1.example.org:9464", "metrics-loopback"),
        ("127.0.0.1", "metrics-address"),
        ("127.0.0.1:99999", "metrics-address"),
        ("9464", "metrics-address"),
    ],
)
def test_any_other_address_is_refused_also_as_a_setting(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as refused:
        loopback(text)
    assert refused.value.rule == why
    if why == "metrics-loopback":
        assert "reverse proxy" in refused.value.remedy
    with pytest.raises(NetworkError):
        SiteSettings(name="padua", address="c:443", ca_fingerprint="", metrics=text)
    with pytest.raises(NetworkError):
        coordinator_home(tmp_path / "centre", metrics=text)


def test_a_host_header_counts_only_if_it_is_loopback() -> None:
    assert all(names_loopback(host) for host in ("localhost", "127.0.0.1:9464", "[::1]", "LocalHost:1"))
    assert not any(
        names_loopback(host)
        for host in ("", "evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "10.0.0.1")
    )


def with_listener(
    path: Path, test: Callable[[int, Path], Awaitable[None]], shown: Shown | None = None, request_s: float = 5.0
) -> None:
    async def families() -> list[Family]:
        return [one("one", "gauge", "One.", 1)]

    async def checks() -> dict[str, str]:
        return {"work": ""}

    async def go() -> None:
        log = Log(path / "log.jsonl", now)
        listener = Listener(shown or Shown(families, checks), log, request_s)
        address = await listener.start(loopback("127.0.0.1:0"))
        try:
            await test(address.port, log.path)
        finally:
            await listener.stop()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", address.port)

    asyncio.run(go())


def test_it_answers_get_for_loopback_and_nothing_else(tmp_path: Path) -> None:
    async def test(port: int, _: Path) -> None:
        assert await got(port, "/healthz") == (200, "ok\n")
        assert (await got(port, "/metrics?x=1"))[0] == 200
        assert json.loads((await got(port, "/readyz"))[1]) == {"ready": True, "checks": {"work": "ok"}}
        assert (await got(port, "/etc/passwd"))[0] == 404
        for request, status in (
            ("POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
            ("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
            ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),  # a web page whose name leads to 127.0.0.1
            ("GET /metrics HTTP/1.1\r\n\r\n", 421),
            ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 421),
            ("GET /metrics\r\n\r\n", 400),
            ("\x16\x03\x01\r\n\r\n", 400),
        ):
            assert (await said(port, request))[0] == status, request
        assert (await said(port, "GET / HTTP/1.1\r\nX: " + "x" * HEADER_BYTES * 2))[0] in (431, 0)

    with_listener(tmp_path, test)


def test_who_is_slow_is_cut_off_and_too_many_at_a_time_are_told_to_come_later(tmp_path: Path) -> None:
    async def test(port: int, _: Path) -> None:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
        for _, writer in slow:
            writer.write(b"GET /metrics HTT")
        assert (await got(port, "/metrics"))[0] in (503, 0)  # what it asked is not even read
        async with asyncio.timeout(30):
            for reader, writer in slow:
                assert await reader.read() == b""
                writer.close()
        assert (await got(port, "/metrics"))[0] == 200

    with_listener(tmp_path, test, request_s=1.0)


def test_a_fault_of_ours_ends_the_request_and_is_logged_without_its_words(tmp_path: Path) -> None:
    async def families() -> list[Family]:
        raise ValueError("age 71")

    async def checks() -> dict[str, str]:
        return {"store": "The disk is full.", "studies": ""}

    async def test(port: int, log: Path) -> None:
        assert await got(port, "/metrics") == (500, "fault\n")
        status, body = await got(port, "/readyz")
        assert status == 503
        assert json.loads(body) == {"ready": False, "checks": {"store": "The disk is full.", "studies": "ok"}}
        assert (await got(port, "/healthz"))[0] == 200
        assert [line["kind"] for line in lines(log) if line["event"] == "fault"] == ["ValueError"]
        assert "71" not in str(lines(log)).split("fault")[1]

    with_listener(tmp_path, test, Shown(families, checks))


# -- the coordinator ------------------------------------------------------------------------------------------------------


def test_the_coordinator_shows_sites_studies_steps_bytes_and_refusals(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, metrics="127.0.0.1:0") as opened:
            port = shown_at(opened.home.log)
            digest = await opened.submit(engine.study("table"))
            await opened.until(digest, "finished")
            assert await rule(opened.port, opened.researcher, call="members") == "known-calls"
            found = await numbers(port)
            assert number(found, "unisono_coordinator_sites_known") == 3
            assert number(found, "unisono_coordinator_sites_online") == 3
            assert number(found, "unisono_coordinator_streams") == 3
            assert number(found, "unisono_coordinator_studies", state="finished") == 1
            assert number(found, "unisono_coordinator_studies", state="running") == 0
            steps = number(found, "unisono_coordinator_run_events_total", kind="opened")
            assert steps == number(found, "unisono_coordinator_step_seconds_count") > 0
            for site in SITES:
                for direction in ("in", "out"):
                    assert number(found, "unisono_coordinator_site_bytes_total", site=site, direction=direction) > 0
            assert number(found, "unisono_events_total", event="refused", rule="known-calls") == 1
            assert 0 < number(found, "unisono_certificate_expires_in_seconds", certificate="server") < 366 * 86400
            assert number(found, "unisono_certificate_expires_in_seconds", certificate="authority") > 366 * 86400
            assert number(found, "unisono_store_bytes", file="coordinator.db") > 0
            assert number(found, "unisono_disk_free_bytes") > 0
            assert digest not in str(found)  # labels do not grow with studies
            assert (await got(port, "/readyz"))[0] == 200
            await opened.sites["turin"].stop()
            await shows(port, "unisono_coordinator_sites_online", 2)
            assert number(await numbers(port), "unisono_coordinator_site_online", site="turin") == 0
            await not_ready(opened, port)
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(go())


async def not_ready(opened: Net, port: int) -> None:
    """Ready no longer: a courier that died by a fault, then a store that cannot be written. Alive all the while."""
    await asyncio.gather(opened.coordinator.studies.course.couriers["padua"].stop(), return_exceptions=True)
    status, body = await got(port, "/readyz")
    checks = json.loads(body)["checks"]
    assert (status, checks["store"], "padua" in checks["studies"]) == (503, "ok", True)
    opened.coordinator._store.check()
    with opened.coordinator._store._lock:
        opened.coordinator._store._db.execute("PRAGMA query_only=ON")  # what a full or read-only disk comes to
    status, body = await got(port, "/readyz")
    assert status == 503
    assert "cannot be written" in json.loads(body)["checks"]["store"]
    with opened.coordinator._store._lock:
        opened.coordinator._store._db.execute("PRAGMA query_only=OFF")
    assert (await got(port, "/healthz"))[0] == 200


def test_without_being_asked_nothing_is_shown_and_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path / "first", (), metrics="127.0.0.1:0") as first:
            with pytest.raises(NetworkError) as taken:
                await Net.open(tmp_path / "second", (), metrics=f"127.0.0.1:{shown_at(first.home.log)}")
            assert taken.value.rule == "metrics-address"
        async with net(tmp_path / "third", ()) as quiet:
            assert "monitoring" not in {line["event"] for line in lines(quiet.home.log)}

    asyncio.run(go())


# -- the site's agent -----------------------------------------------------------------------------------------------------


async def joined(opened: Net, folder: AgentFolder) -> None:
    """A hospital with its data, which has joined."""
    name = folder.path.name
    token = (await ok(opened.port, opened.operator, call="invite", role="site", name=name))["token"]
    await join(token, folder, now())
    file = folder.path.with_suffix(".csv")
    engine.frame(name).to_csv(file, index=False)
    datasets.add(folder, "lung", file, None, now())


def approve(folder: AgentFolder) -> None:
    """As the steward does at a terminal, after a call with the others."""
    desk = Desk(folder)
    try:
        others = [site for site in SITES if site != folder.path.name]
        desk.verify(others, "lung", "telephone", "steward", now(), None)
        desk.approve(desk.sheet("lung", None, now()), now())
    finally:
        desk.close()


def test_a_site_shows_its_connection_requests_studies_and_certificate(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("leiden", "turin")) as opened:
            folder = AgentFolder(tmp_path / "padua")
            await joined(opened, folder)
            await opened.coordinator.stop()
            stop = asyncio.Event()
            agent = asyncio.ensure_future(serve(folder, stop, Options(metrics="127.0.0.1:0")))
            await until(lambda: any(line["event"] == "unreachable" for line in lines(folder.log)))
            port = shown_at(folder.log)
            status, body = await got(port, "/readyz")
            assert status == 503
            assert json.loads(body)["checks"]["connected"].startswith("unreachable: ")
            assert number(await numbers(port), "unisono_site_connected") == 0
            assert (await got(port, "/healthz"))[0] == 200
            await opened.restart()
            await until(lambda: any(line["event"] == "connected" for line in lines(folder.log)))
            assert (await got(port, "/readyz"))[0] == 200
            digest = await opened.submit(engine.study("table"))
            await until(lambda: any(line["event"] == "offered" for line in lines(folder.log)))
            await asyncio.to_thread(approve, folder)
            found = await numbers(port)
            assert number(found, "unisono_site_workers") == 1
            assert number(found, "unisono_site_workers_resident_bytes") > 10 * 2**20
            await opened.until(digest, "finished")
            found = await numbers(port)
            assert number(found, "unisono_site_connected") == 1
            assert number(found, "unisono_events_total", event="connected", rule="") == 1
            assert number(found, "unisono_site_studies", decision="approved") == 1
            assert number(found, "unisono_site_decisions_untold") == 0
            assert abs(number(found, "unisono_site_clock_skew_seconds")) < 60
            assert number(found, "unisono_site_request_seconds_count", kind="exchange", outcome="answered") > 0
            assert number(found, "unisono_site_bytes_total", direction="out") > 0
            assert number(found, "unisono_certificate_expires_in_seconds", certificate="site") > 0
            assert digest not in str(found)
            stop.set()
            await asyncio.wait_for(agent, 30)
            assert [line["event"] for line in lines(folder.log)][-1] == "stopped-serving"

    asyncio.run(go())


# -- orderly stops, with real processes -----------------------------------------------------------------------------------


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process, killed in the end whatever happens."""
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    started = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stdout is not None
        started.stdout.close()


def rest(started: subprocess.Popen[str]) -> str:
    """What it says until it ends."""
    assert started.stdout is not None
    return started.stdout.read()


def workers_of(pid: int) -> list[int]:
    """Processes that it started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def test_a_coordinator_that_runs_a_study_says_so_and_ends_well_at_ctrl_c(tmp_path: Path) -> None:
    async def go() -> None:
        opened = await Net.open(tmp_path)
        try:
            await opened.coordinator.stop()
            command = ("-m", "unisono.cli.main", "coordinator", "serve", "--home", str(opened.home.path))
            with process(*command, "--metrics", "127.0.0.1:0") as service:
                await until(lambda: sum(line["event"] == "serving" for line in lines(opened.home.log)) == 2)
                opened.sites["turin"].approving = False
                digest = await opened.submit(engine.study("table"))
                turin = opened.sites["turin"]
                await turin.until(lambda: digest in turin.offers)
                await turin.approve(digest)
                await turin.stop()  # the run waits for it
                port = shown_at(opened.home.log)
                await shows(port, "unisono_coordinator_studies", 1, state="running")
                service.send_signal(signal.SIGINT)
                heard = await asyncio.to_thread(rest, service)
                assert service.wait(30) == 0, heard
            assert "studies under way: lung" in heard
            assert "Traceback" not in heard
            stopping = [line for line in lines(opened.home.log) if line["event"] == "stopping"]
            assert stopping[-1]["studies"] == ["lung"]
            assert lines(opened.home.log)[-1]["event"] == "stopped"
        finally:
            for client in opened.sites.values():
                await client.stop()

    asyncio.run(go())


async def hangs(end: CoordinatorEnd) -> None:
    """Returns when a request goes on and on."""
    async with asyncio.timeout(60):
        asked: set[int] = set()
        while not asked & set(end._asked):
            asked = set(end._asked)
            await asyncio.sleep(1.0)


def test_a_site_finishes_within_a_bound_also_while_a_method_hangs(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("leiden", "turin")) as opened:
            folder = AgentFolder(tmp_path / "padua")
            await joined(opened, folder)
            for name in ("leiden", "turin"):
                opened.sites[name].approving = False
            with process(
                "-m", "unisono.cli.main", "site", "serve", "--home", str(folder.path), "--metrics", "127.0.0.1:0"
            ) as agent:
                await until(lambda: any(line["event"] == "connected" for line in lines(folder.log)))
                digest = await opened.submit(engine.study("table"))
                await until(lambda: any(line["event"] == "offered" for line in lines(folder.log)))
                await asyncio.to_thread(approve, folder)
                (worker,) = workers_of(agent.pid)
                os.kill(worker, signal.SIGSTOP)  # a method that never ends
                try:
                    for name in ("leiden", "turin"):
                        await opened.sites[name].until(lambda name=name: digest in opened.sites[name].offers)
                        await opened.sites[name].approve(digest)
                    port = shown_at(folder.log)
                    # The site answers the first messages, which need no data, and then hangs.
                    end = opened.coordinator.sites.line("padua").end
                    await hangs(end)
                    agent.send_signal(signal.SIGTERM)
                    await until(lambda: any(line["event"] == "stopping" for line in lines(folder.log)))
                    assert "stopped" in json.loads((await got(port, "/readyz"))[1])["checks"]["serving"]
                    began = time.monotonic()
                    heard = await asyncio.to_thread(rest, agent)
                    assert agent.wait(60) == 0, heard
                    assert time.monotonic() - began < 60
                finally:
                    with suppress(ProcessLookupError):  # as it should be
                        os.kill(worker, signal.SIGKILL)
            assert "answers under way: 1" in heard
            assert heard.rstrip().endswith("stopped")

    asyncio.run(go())


STUCK = """
import asyncio, sys, time
from unisono.network.stopping import asked_by_signals

async def serve():
    with asked_by_signals(lambda: print("late", flush=True), float(sys.argv[1])) as asked:
        print("serving", flush=True)
        await asked.wait()
        print("stopping", flush=True)
        time.sleep(600)  # it waits for something, and the loop does not turn

asyncio.run(serve())
"""


def test_what_does_not_end_in_time_is_ended_and_a_second_signal_ends_it_at_once() -> None:
    with process("-c", STUCK, "0.5") as late, process("-c", STUCK, "600") as twice:
        for service in (late, twice):
            assert service.stdout is not None
            assert service.stdout.readline() == "serving\n"
            service.send_signal(signal.SIGTERM)
        assert twice.stdout is not None
        assert twice.stdout.readline() == "stopping\n"
        twice.send_signal(signal.SIGTERM)  # so soon after the first one: the same
        assert late.wait(30) == 0
        heard = rest(late)
        assert "late" in heard
        assert "without waiting longer" in heard
        time.sleep(1.1)
        assert twice.poll() is None
        twice.send_signal(signal.SIGINT)
        assert twice.wait(30) == 128 + signal.SIGINT
        assert "stopped at once" in rest(twice)


# -- what the docs say ----------------------------------------------------------------------------------------------------


@cache
def written_events() -> dict[str, set[str]]:
    """Every event that the source writes to a service's log, with its fields as far as they are named there."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "src/unisono/network").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            on, event = ast.unparse(node.func), node.args[0]
            if not isinstance(event, ast.Constant) or not isinstance(event.value, str):
                continue
            if on.endswith(("_log.write", "log.write", "_log.refused", ").write")):
                fields = {word.arg for word in node.keywords if word.arg is not None}
                fields |= {"rule", "what", "remedy"} if on.endswith("refused") else set()
                found.setdefault(event.value, set()).update(fields)
            elif on.endswith("_observe") and len(node.args) == 2 and isinstance(node.args[1], ast.Dict):
                keys = {key.value for key in node.args[1].keys if isinstance(key, ast.Constant)}
                found.setdefault(event.value, set()).update(str(key) for key in keys)
    return found


def test_every_event_of_the_logs_is_documented_with_its_fields() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", (ROOT / "docs/operations.md").read_text("utf-8"), re.MULTILINE)
    documented: dict[str, set[str]] = {}
    for event, fields in rows:
        documented.setdefault(event, set()).update(re.findall(r"`(\w+)`", fields))
    written = written_events()
    assert set(written) == set(documented)
    for event, fields in written.items():
        assert fields <= documented[event], event


def test_the_alert_rules_ask_for_numbers_that_there_are(tmp_path: Path) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"]
    alerts = [alert for group in rules for alert in group["rules"]]
    assert len(alerts) == 5
    source = "".join(
        file.read_text("utf-8")
        for pattern in ("monitoring/*.py", "*/monitor.py")
        for file in (ROOT / "src/unisono/network").glob(pattern)
    )
    docs = (ROOT / "docs/operations.md").read_text("utf-8")
    named = set(re.findall(r'"((?:unisono|process)_[a-z_]+)"', source))
    assert {name for name in named if f"`{name}`" not in docs and f"`{name}{{" not in docs} == set()
    for alert in alerts:
        asked = set(re.findall(r"(?:unisono|process)_[a-z_]+", alert["expr"]))
        assert asked
        assert asked <= named, alert["alert"]
        events = set(re.findall(r'event=~?"([^"]+)"', alert["expr"]))
        assert {event for text in events for event in text.split("|")} <= set(written_events())
        assert {"summary", "description"} <= set(alert["annotations"])
        assert alert["labels"]["severity"] in ("warning", "critical")
