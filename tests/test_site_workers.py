"""A site's worker processes: the same answers as in the agent's own process, and whatever happens to one, the agent lives."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import engine, lung
from unisono.engines.embedded import run as embedded
from unisono.errors import DataError, MappingError, UnisonoError, WorkerError
from unisono.federation.ask import Ask
from unisono.federation.contribution import Facts, Memory
from unisono.federation.tree import pack
from unisono.methods import registry
from unisono.site.data.snapshot import freeze
from unisono.site.worker import LocalWorker
from unisono.site.workers import limits as worker_limits
from unisono.site.workers import pipe, running
from unisono.site.workers.limits import GIB, Limits
from unisono.site.workers.pipe import Garbled, Shared, decode, encode
from unisono.site.workers.process import ProcessWorker
from unisono.study.document import Study

ME = "turin"
SECRET = b"a secret of the site's, 32 bytes."
LIMITS = Limits(memory_bytes=2 * GIB, cpu_seconds=1.0, wall_seconds=60.0, start_seconds=120.0, result_bytes=1 << 26)

METHOD = '''
import ctypes, os, resource, sys
from dataclasses import dataclass
import numpy as np
from unisono.errors import MethodError
from unisono.federation.contribution import Declaration, contribution, receipt
from unisono.methods.base import Method, Spec
from unisono.methods.registry import method
from unisono.protection.leaves import moment

class Nothing(Spec):
    pass

@dataclass(frozen=True)
class Total:
    total: np.ndarray

@method("misbehaving", version=1, spec=Nothing)
class Misbehaving(Method[Nothing]):
    """Does what it is told."""

    def variables(self):
        return ("age",)

    def prepare(self, table):
        return table["age"]

    @contribution
    def do(self, data, what, size):
        if what == "exit":
            print("patient 7 is", data[0], flush=True)
            print("patient 7 is", data[0], file=sys.stderr, flush=True)
            os._exit(3)
        if what == "memory":
            return {"x": np.ones(size)}
        while what == "spin":
            pass
        if what == "method-error":
            raise MethodError("It does not converge.", rule="convergence", remedy="Try another.", where="here")
        if what == "bug":
            raise ValueError(f"patient 7 is {data[0]}")
        if what == "text":
            return {"x": np.array(["patient"])}
        if what == "echo":
            return {"x": size}
        if what == "change":
            size[0] = 1.0
        return {"x": np.arange(size, dtype=np.float64) + data[0], "few": np.float16([1.5]), "both": np.array([[True], [False]])}

    @do.declares
    def _(self, facts, what, size):
        return Declaration({"x": moment((1,), 1.0, "x")})

    @contribution
    def sum_up(self, data) -> Total:
        return Total(np.asarray(data.sum()))

    @sum_up.declares
    def _(self, facts):
        return Declaration({"total": moment((), 1e6, "total")})

    @receipt
    def read(self, data, found: Total):
        return {"own": float(data.sum()), "all": float(found.total), "kind": type(found).__name__}

    @receipt
    def look(self, data):
        mask = os.umask(0o077)
        cores, memory = resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_AS)
        print("this goes nowhere")
        return {
            "environment": dict(os.environ), "folder": os.listdir("."), "mode": os.stat(".").st_mode & 0o777, "mask": mask,
            "cores": list(cores), "memory": list(memory), "arguments": sys.argv, "modules": sorted(sys.modules),
            "open": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit()
                           and os.path.lexists(f"/proc/self/fd/{fd}")),
        }

    def plan(self):
        return ()

    async def run(self, federation):
        raise NotImplementedError

    @classmethod
    def result(cls, study, analysis, estimates, **rest):
        raise NotImplementedError
'''


# -- what is tested -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hospital's file."""
    folder = tmp_path_factory.mktemp("data")
    engine.files(folder, (ME,))
    return folder / f"{ME}.csv"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a method, as a site's administrator installs one."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "misbehaving.py").write_text(METHOD)
    about = folder / "misbehaving-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[unisono.methods]\nmisbehaving = misbehaving:Misbehaving\n")
    return folder


@pytest.fixture(scope="module")
def installed(packages: Path) -> Iterator[type[Any]]:
    """The same package in this process."""
    registry.methods()
    spec = importlib.util.spec_from_file_location("misbehaving", packages / "misbehaving.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["misbehaving"] = module
    spec.loader.exec_module(module)
    yield module.Total
    del registry._registered["misbehaving"], sys.modules["misbehaving"]


def told(*arguments: Any, name: str = "do", operation: Any = "sum") -> Ask:
    """An ask of the misbehaving method."""
    return Ask(
        run="r",
        study=misbehaving().digest(),
        analysis="bad",
        method="misbehaving",
        version=1,
        operation=operation,
        contribution=name,
        step=1,
        epoch=0,
        attempt=1,
        sites=(ME,),
        hide="secagg",
        encoding="exact",
        facts=Facts(100),
        arguments=list(arguments),
    )


def misbehaving() -> Study:
    return Study.model_validate({**lung.DOCUMENT, "analyses": {"bad": {"method": "misbehaving"}}})


@pytest.fixture(scope="module")
def bad(data: Path, packages: Path) -> Iterator[ProcessWorker]:
    """A worker over the misbehaving method; every test asks it again after the last one's fault."""
    with (
        pytest.MonkeyPatch.context() as patch,
        ProcessWorker(misbehaving(), data, None, ME, SECRET, LIMITS, (packages,)) as worker,
    ):
        patch.setenv("UNISONO_PASSWORD", "hunter2")
        yield worker


@pytest.fixture(scope="module")
def here(data: Path, installed: type[Any]) -> LocalWorker:
    """The same in this process."""
    return LocalWorker(misbehaving(), freeze(data, None, misbehaving(), ME), SECRET)


def gone(pid: int | None) -> bool:
    """Neither running nor a zombie of ours."""
    assert pid is not None
    return not Path(f"/proc/{pid}").exists()


def killed(pid: int | None) -> None:
    """From outside, as by a system that runs out of memory; dead when this returns."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def refused(call: Callable[[], object], rule: str, kind: type[UnisonoError] = WorkerError) -> UnisonoError:
    """The error, of exactly this kind and rule; with a remedy."""
    with pytest.raises(UnisonoError) as caught:
        call()
    assert (type(caught.value), caught.value.rule) == (kind, rule)
    assert caught.value.remedy
    return caught.value


def same_trees(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit."""
    assert list(one) == list(other)
    for name, value in one.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape)
        assert value.tobytes() == other[name].tobytes()


# -- the same answers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Ask]]:
    """Everything that one hospital's worker is asked in a run of all four analyses of the lung trial."""
    found: list[tuple[str, Ask]] = []

    class Noting(LocalWorker):
        def cohort(self, ask: Ask) -> Any:
            return self._noted("cohort", ask)

        def contribution(self, ask: Ask, memory: Memory) -> Any:
            return self._noted("contribution", ask, memory)

        def receipt(self, ask: Ask, memory: Memory) -> Any:
            return self._noted("receipt", ask, memory)

        def _noted(self, what: str, ask: Ask, *memory: Memory) -> Any:
            if self.snapshot.report.site == ME:
                found.append((what, ask))
            return getattr(super(), what)(ask, *memory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "LocalWorker", Noting)
        finished = engine.run(engine.study(), tmp_path_factory.mktemp("run"))
    assert set(engine.estimates(finished)) == {"table", "curves", "effect", "odds"}
    return found


def test_a_process_answers_all_four_analyses_bit_for_bit_and_stays_warm_and_is_replaced_when_killed_outside(
    asked: list[tuple[str, Ask]], data: Path
) -> None:
    study = engine.study()
    local = LocalWorker(study, freeze(data, None, study, ME), SECRET)
    with ProcessWorker(study, str(data), None, ME, SECRET) as worker:
        assert worker.start() == local.snapshot.report
        first, folder = worker.pid, Path(worker._running._folder)  # type: ignore[union-attr]
        assert {what for what, _ in asked} == {"cohort", "contribution", "receipt"}
        for what, ask in asked:
            given = (ask,) if what == "cohort" else (ask, {})
            expected, got = getattr(local, what)(*given), getattr(worker, what)(*given)
            if what == "contribution":
                same_trees(got.tree, expected.tree)
                assert got.memory is expected.memory is None
            elif what == "cohort":
                assert got.n == expected.n
                assert got.rows.tobytes() == expected.rows.tobytes()
            else:
                assert json.dumps(got.sheet) == json.dumps(expected.sheet)
        assert worker.digest() == local.digest()
        assert worker.pid == first  # one process for all of it
        killed(first)
        ask = next(ask for what, ask in asked if what == "contribution")
        same_trees(worker.contribution(ask, {}).tree, local.contribution(ask, {}).tree)
        assert worker.pid != first
        assert gone(first)
        second = worker.pid
    assert gone(second)
    assert not folder.exists()


def test_a_file_that_changed_while_the_process_was_replaced_is_refused(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "turin.csv"
    copy.write_bytes(data.read_bytes())
    with ProcessWorker(engine.study("odds"), copy, None, ME, SECRET, LIMITS) as worker:
        worker.start()
        lines = copy.read_text().splitlines(keepends=True)
        copy.write_text("".join(lines[:-1]))
        refused(worker.digest, "frozen-data", DataError)
        killed(worker.pid)
        refused(worker.digest, "frozen-data", DataError)
        assert worker.pid is None


def test_what_is_wrong_with_mapping_or_data_is_said_as_without_a_process(data: Path, tmp_path: Path) -> None:
    study = engine.study("odds")
    with pytest.raises(MappingError) as mapping:
        ProcessWorker(study, data, {"variables": {"agee": {"column": "age"}}}, ME, SECRET)
    assert mapping.value.rule == "known-variables"
    file = tmp_path / "turin.csv"
    file.write_text(data.read_text().replace("age", "years").replace("died", "dead"))
    with pytest.raises(DataError) as local:
        freeze(file, {"variables": {"ecog": {"column": "ecog"}}}, study, ME)
    with ProcessWorker(study, file, {"variables": {"ecog": {"column": "ecog"}}}, ME, SECRET, LIMITS) as worker:
        with pytest.raises(DataError) as process:
            worker.start()
        assert str(process.value) == str(local.value)
        assert worker.pid is None


# -- a method's faults ----------------------------------------------------------------------------------------------------


def test_a_method_s_errors_are_those_it_gives_without_a_process(bad: ProcessWorker, here: LocalWorker) -> None:
    zeros = np.zeros(3)
    zeros.flags.writeable = False  # as every argument is that came in a message
    pids = set()
    for ask in (told("method-error", 1), told("bug", 1), told("change", zeros), told(1, 2, 3)):
        with pytest.raises(UnisonoError) as local:
            here.contribution(ask, {})
        with pytest.raises(UnisonoError) as process:
            bad.contribution(ask, {})
        assert (type(process.value), process.value.to_dict()) == (type(local.value), local.value.to_dict())
        assert "patient" not in str(process.value)
        pids.add(bad.pid)
    assert len(pids) == 1
    refused(lambda: bad.contribution(told("text", 1), {}).tree, "declared-shape", DataError)
    refused(lambda: bad.contribution(told("go", 1, name="nothing"), {}).tree, "worker-fault")
    same_trees(bad.contribution(told("go", 5), {}).tree, here.contribution(told("go", 5), {}).tree)


def test_large_arrays_go_through_shared_memory_and_are_the_agent_s_own(bad: ProcessWorker, here: LocalWorker) -> None:
    large = 1_000_000
    got = bad.contribution(told("go", large), {}).tree
    same_trees(got, here.contribution(told("go", large), {}).tree)
    assert got["x"].flags.writeable
    again = bad.contribution(told("stop", large), {}).tree
    got["x"][:] = 0.0
    same_trees(again, here.contribution(told("go", large), {}).tree)
    refused(lambda: bad.contribution(told("go", LIMITS.result_bytes // 8 + 1), {}).tree, "worker-limits")
    refused(lambda: bad.contribution(told("echo", np.zeros(LIMITS.result_bytes // 8 + 1)), {}).tree, "worker-limits")
    sent = np.random.default_rng(1).normal(size=(1000, 1000)).T  # not as it lies in memory
    assert np.array_equal(bad.contribution(told("echo", sent), {}).tree["x"], sent)


def test_a_receipt_gets_an_opened_sum_as_the_type_it_was_declared_with(
    bad: ProcessWorker, here: LocalWorker, installed: type[Any]
) -> None:
    ask = told(installed(np.asarray(12.5)), name="read", operation="tell")
    assert bad.receipt(ask, {}).sheet == here.receipt(ask, {}).sheet
    assert bad.receipt(ask, {}).sheet["kind"] == "Total"


def test_a_process_knows_no_keys_and_has_an_empty_folder_and_limits(bad: ProcessWorker) -> None:
    seen = bad.receipt(told(name="look", operation="tell"), {}).sheet
    assert set(seen["environment"]) <= {
        *running._KEPT, *running._THREADS, "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PYTHONHASHSEED", "PYTHONPATH",
        "MALLOC_ARENA_MAX", "ARROW_DEFAULT_MEMORY_POOL",
    }  # fmt: skip
    assert seen["environment"]["OPENBLAS_NUM_THREADS"] == "1"
    assert seen["folder"] == []
    assert (seen["mode"], seen["mask"]) == (0o700, 0o077)
    assert seen["cores"] == [0, 0]
    assert seen["memory"] == [LIMITS.memory_bytes, LIMITS.memory_bytes]
    assert len(seen["arguments"]) == 4
    assert SECRET.decode() not in " ".join(seen["arguments"])
    modules = seen["modules"]
    keys = (
        "cryptography",
        "unisono.protection.secagg",
        "unisono.site.agent",
        "unisono.site.state",
        "unisono.site.home",
    )
    assert not [name for name in modules if name.startswith(keys)]
    assert not [name for name in seen["open"] if not name.startswith(("pipe:", "/dev/null", "/memfd:", "/proc/"))]


def test_a_process_that_exits_or_takes_too_much_is_replaced_and_the_agent_lives(bad: ProcessWorker) -> None:
    faults = (
        (told("exit", 1), "worker-died", "exit status 3"),
        (told("memory", 1 << 32), "worker-limits", "memory"),
        (told("spin", 1), "worker-limits", "processor time"),
    )
    for ask, rule, words in faults:
        bad.start()
        pid = bad.pid
        error = refused(lambda ask=ask: bad.contribution(ask, {}).tree, rule)  # type: ignore[misc]
        assert words in error.what
        assert "patient" not in str(error)
        if words.startswith("exit"):
            assert "bytes to its error stream" in error.what
        assert bad.pid is None
        assert gone(pid)


def test_closing_ends_a_request_in_the_middle_and_nothing_is_answered_afterwards(data: Path, packages: Path) -> None:
    worker = ProcessWorker(misbehaving(), data, None, ME, SECRET, LIMITS, (packages,))
    worker.start()
    pid = worker.pid
    errors: list[UnisonoError] = []

    def ask() -> None:
        with contextlib.suppress(AssertionError):
            errors.append(refused(lambda: worker.contribution(told("spin", 1), {}).tree, "worker-closed"))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    began = time.monotonic()
    worker.close()
    asking.join(20.0)
    assert time.monotonic() - began < 20
    assert len(errors) == 1
    assert gone(pid)
    refused(worker.digest, "worker-closed")
    worker.close()


def test_a_process_ends_by_itself_when_the_agent_dies(data: Path, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(misbehaving().model_dump_json())
    agent = tmp_path / "agent.py"
    agent.write_text(
        textwrap.dedent(f"""
        import threading
        from pathlib import Path
        from unisono.federation.ask import Ask
        from unisono.federation.tree import unpack
        from unisono.site.workers.process import ProcessWorker
        from unisono.study.document import Study

        study = Study.model_validate_json(Path({str(tmp_path / "study.json")!r}).read_text())
        worker = ProcessWorker(study, {str(data)!r}, None, "turin", bytes(32), None, (Path({str(packages)!r}),))
        worker.start()
        print(worker.pid, worker._running._folder, flush=True)
        worker.contribution(Ask.from_tree(unpack(Path({str(tmp_path / "ask")!r}).read_bytes())), {{}})
        """)
    )
    (tmp_path / "ask").write_bytes(pack(told("spin", 1).to_tree()))
    process = subprocess.Popen([sys.executable, str(agent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number, folder = process.stdout.readline().split()
    pid = int(number)
    time.sleep(0.3)  # in the middle of the request
    assert not gone(pid)
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 30.0  # left to itself, it would go on far longer
    while not gone(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert gone(pid)
    assert not Path(folder).exists()


# -- a process that does not keep to the form -----------------------------------------------------------------------------

FAKE = """
import os, struct, sys, time
answers = open({answers!r}, "rb").read()
if {reads}:
    magic, length = struct.unpack("<4sI", os.read(0, 8))
    while length:
        length -= len(os.read(0, length))
if {large}:
    os.pwrite(int(sys.argv[-1]), bytes({large}), 0)
while answers:
    answers = answers[os.write(1, answers):]
if {stays}:
    time.sleep(60)
"""


def faked(
    patch: pytest.MonkeyPatch, folder: Path, answers: bytes, *, reads: bool = True, large: int = 0, stays: bool = True
) -> None:
    """The next processes say this, whatever they are asked."""
    (folder / "answers").write_bytes(answers)
    script = FAKE.format(answers=str(folder / "answers"), reads=reads, large=large, stays=stays)
    patch.setattr(running, "command", lambda _, shared: [sys.executable, "-I", "-S", "-c", script, str(shared)])


def frame(message: Any) -> bytes:
    payload = pack(message)
    return pipe.HEADER.pack(b"UNW1", len(payload)) + payload


def begun(**changes: Any) -> dict[str, Any]:
    report = {"study": "s", "site": ME, "source": "turin.csv", "rows": 79, "variables": [], "notes": []}
    raw = np.frombuffer(json.dumps(report).encode(), np.uint8)
    fields = {"answer": "begun", "study": engine.study("odds").digest(), "digest": "0" * 64, "report": raw}
    return {**fields, **changes}


def lying(**header: Any) -> dict[str, Any]:
    return begun(report={"$shared": True, **header})


NO_ANSWERS: dict[str, bytes] = {
    "nothing, and it goes": b"",
    "garbage": bytes(1000),
    "a frame of 4 GiB": b"UNW1\xff\xff\xff\xff",
    "half a frame": frame(begun())[:-20],
    "no tree": pipe.HEADER.pack(b"UNW1", 5) + b"hello",
    "no mapping": frame([1, 2]),
    "an answer to another question": frame({"answer": "digest", "digest": "0" * 64}),
    "an unknown answer": frame({"answer": "keys please"}),
    "no digest": frame(begun(digest="../../etc/passwd")),
    "no text": frame(begun(study=7)),
    "another study": frame(begun(study="1" * 64)),
    "a report of another form": frame(begun(report=np.frombuffer(b'{"rows": "many"}', np.uint8))),
    "a report that is no JSON": frame(begun(report=np.frombuffer(b"[" * 100_000, np.uint8))),
    "an array beyond the memory": frame(lying(dtype="|u1", shape=[1 << 40])),
    "an array that is not there": frame(lying(dtype="|u1", shape=[100])),
    "an array of objects": frame(lying(dtype="|O", shape=[1])),
    "an array of a negative shape": frame(lying(dtype="|u1", shape=[-1])),
    "an array of a shape that is none": frame(lying(dtype="|u1", shape="wide")),
    "an array without a type": frame(lying(shape=[1])),
    "an error of another form": frame({"answer": "error", "error": {"kind": 1}}),
    "a fault with a sentence for a name": frame({"answer": "fault", "name": "patient 7 is 63"}),
}


@pytest.mark.parametrize("what", NO_ANSWERS)
def test_whatever_else_a_process_says_ends_it_and_is_an_error(
    what: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = "goes" not in what and "half" not in what
    faked(monkeypatch, tmp_path, NO_ANSWERS[what], stays=stays)
    with ProcessWorker(engine.study("odds"), data, None, ME, SECRET, LIMITS) as worker:
        error = refused(worker.start, "worker-died")
        assert "patient" not in str(error)
        assert worker.pid is None


@pytest.mark.parametrize("reads", [True, False])
def test_a_process_that_says_nothing_or_does_not_listen_is_ended_in_time(
    reads: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(monkeypatch, tmp_path, b"", reads=reads)
    patient = Limits(start_seconds=0.4, result_bytes=1 << 26)
    secret = SECRET if reads else bytes(pipe.INLINE)  # more than a pipe holds
    with ProcessWorker(engine.study("odds"), data, None, ME, secret, patient) as worker:
        began = time.monotonic()
        error = refused(worker.start, "worker-limits")
        assert time.monotonic() - began < 20
        assert "0.4 s" in error.what


def test_what_a_process_says_unasked_is_never_taken_for_an_answer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = frame({"answer": "digest", "digest": "1" * 64})
    faked(monkeypatch, tmp_path, frame(begun()) + ahead)
    with ProcessWorker(engine.study("odds"), data, None, ME, SECRET, LIMITS) as worker:
        assert worker.start().rows == 79
        first = worker.pid
        time.sleep(0.1)
        worker._warm()
        assert worker.pid != first
        assert gone(first)


def test_a_process_that_crashes_is_named_by_its_signal(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = [sys.executable, "-I", "-S", "-c", "import os; os.kill(os.getpid(), 11)"]
    monkeypatch.setattr(running, "command", lambda *_: crash)
    with ProcessWorker(engine.study("odds"), data, None, ME, SECRET, LIMITS) as worker:
        assert "SIGSEGV" in refused(worker.start, "worker-died").what


def test_where_no_process_can_be_started_the_agent_says_so(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "command", lambda *_: ["/no/such/interpreter"])
    with ProcessWorker(engine.study("odds"), data, None, ME, SECRET, LIMITS) as worker:
        refused(worker.start, "worker-died")
    monkeypatch.setattr(worker_limits.os, "name", "nt")
    refused(worker_limits.check_platform, "worker-platform")


@pytest.mark.parametrize(
    "changes", [{"memory_bytes": 1 << 20}, {"cpu_seconds": 0}, {"wall_seconds": float("nan")}, {"threads": 0}]
)
def test_limits_under_which_nothing_could_work_are_refused(changes: dict[str, Any]) -> None:
    refused(lambda: Limits(**changes), "worker-limits")


# -- the form itself ------------------------------------------------------------------------------------------------------


def _array(kind: str, shape: list[int], seed: int) -> Any:
    """Any bits, not-a-numbers and negative zeros among them."""
    dtype, size = np.dtype(kind), math.prod(shape)
    raw = np.random.default_rng(seed).integers(0, 2 if kind == "?" else 256, size * dtype.itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


_kinds = st.sampled_from(["?", "i2", "<i8", ">i8", "u1", "u2", "u8", "f2", "f4", "<f8", ">f8", "longdouble"])
_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.builds(_array, _kinds, st.lists(st.integers(0, 6), max_size=3), st.integers(0, 99)),
)
_names = st.text("abc", max_size=2)
_nested = st.dictionaries(_names, _leaves, max_size=4)
_trees = st.dictionaries(_names, st.one_of(_leaves, _nested, st.lists(_nested | _leaves, max_size=3)), max_size=5)


@contextlib.contextmanager
def shared_memory(limit: int = 1 << 20) -> Iterator[Shared]:
    memory = Shared.make(limit)
    try:
        yield memory
    finally:
        memory.close()


@pytest.fixture(scope="module", autouse=True)
def _small_inline() -> Iterator[None]:
    """Above 16 bytes an array is large, here: both ways are taken in every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "INLINE", 64)
        yield


def same(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        native = other.astype(other.dtype.newbyteorder("="))
        return bool(one.dtype == native.dtype and one.shape == other.shape and one.tobytes() == native.tobytes())
    if isinstance(other, dict):
        return set(one) == set(other) and all(same(one[name], other[name]) for name in other)
    if isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other and type(one) is type(other))


@settings(max_examples=50)
@given(_trees)
def test_every_tree_arrives_as_it_was_sent(tree: dict[str, Any]) -> None:
    with shared_memory() as memory:
        sent = encode(tree, memory)
        assert pipe.length_of(sent[:8]) == len(sent) - 8
        assert same(decode(sent[8:], memory), tree)


@pytest.mark.parametrize("seed", range(3))
def test_altered_and_truncated_frames_are_refused_or_read_and_nothing_else_happens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = {"answer": "tree", "names": ["a", "b"], "arrays": [_array("f8", [20], 1), _array("i2", [2, 3], 2)], "n": 1.5}
    read = 0
    with shared_memory() as memory:
        whole = encode(tree, memory)[8:]
        for _ in range(1000):
            altered = bytearray(whole[: rng.integers(len(whole) + 1)] if rng.random() < 0.3 else whole)
            for at in rng.integers(0, len(whole), rng.integers(1, 5)):
                altered[at : at + 1] = rng.bytes(1)
            with contextlib.suppress(Garbled):
                decode(bytes(altered), memory)
                read += 1
    assert 0 < read < 1000


def test_what_was_read_does_not_change_afterwards_and_a_memory_cut_off_is_no_crash() -> None:
    with shared_memory() as memory:
        sent = encode({"x": np.arange(1000.0)}, memory)[8:]
        read = decode(sent, memory)["x"]
        os.pwrite(memory.fd, bytes(8000), 0)
        assert read.tolist() == list(range(1000))
        os.ftruncate(memory.fd, 100)
        with pytest.raises(Garbled):
            decode(sent, memory)


def test_a_truth_value_that_is_neither_is_refused() -> None:
    with shared_memory() as memory:
        sent = encode({"x": np.zeros(1000, bool)}, memory)[8:]
        os.pwrite(memory.fd, b"\x02", 7)
        with pytest.raises(Garbled):
            decode(sent, memory)


TRAINS = """
import sys
from unisono.site.workers.limits import Limits, restrict
restrict(Limits().memory_bytes, Limits().result_bytes)
import numpy, pandas, torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 900, 2))
optimiser = torch.optim.SGD(model.parameters(), 0.1)
images, labels = torch.randn(64, 1, 32, 32), torch.arange(64) % 2
losses = []
for _ in range(5):
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimiser.zero_grad(), loss.backward(), optimiser.step()
    losses.append(loss.item())
print("trained" if losses[-1] < losses[0] else losses)
"""


def test_under_the_usual_limits_a_worker_trains_a_network(tmp_path: Path) -> None:
    environment = running.environment(str(tmp_path), Limits(), ())
    done = subprocess.run(
        [sys.executable, "-c", TRAINS],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
