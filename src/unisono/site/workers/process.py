"""The agent's side of a worker: one process for each study, kept warm, limited, and replaced when it dies.

A worker holds data, and method code that may be anybody's package. It is trusted with nothing else: every wait has an end,
every length a limit, every answer a form. Whatever else comes ends the process with an error for this one request; the
next request starts a new one. The agent lives.

What the separation is worth, plainly. The worker gets no key, no path of one and no address; its environment is small, its
folder empty, its core dumps are off. But it runs as the same user on the same machine: code that means harm could look for
the agent's files by itself, and open a connection. Against that a hospital runs the agent's workers in a container, or as
another user without a network; nothing here does it for them.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from unisono.errors import DataError, UnisonoError, WorkerError
from unisono.federation.ask import Ask
from unisono.federation.contribution import Kept, Memory, Part
from unisono.federation.tree import Tree
from unisono.site.data import mapping_file
from unisono.site.data.validation import Validation
from unisono.site.worker import CohortView
from unisono.site.workers.child import MEMORY
from unisono.site.workers.limits import Limits, check_platform
from unisono.site.workers.pipe import Garbled, decode, encode
from unisono.site.workers.running import Ended, Running
from unisono.study.document import Study

MAX_SHEET = 16 << 20
"""Bytes of a sheet, or of the report on the data."""
MAX_TEXT = 64 * 1024
"""Characters of each part of an error."""

_REPORT: TypeAdapter[Validation] = TypeAdapter(Validation)

Answer = dict[str, Any]


class ProcessWorker:
    """A `Worker` in a process of its own. The same answers, bit for bit, as a `LocalWorker` over the same file.

    study: its document. source: a CSV or Parquet file. mapping: a mapping file, a dict, or None. name: the site's.
    secret: what keys the hashes of rows. limits: of the process. packages: folders of further Python packages that the
    site's administrator installed for this study, where the worker finds methods by their entry points.

    A start takes one or two seconds and the reading of the data; a request on a warm process adds half a millisecond to
    the method's own time, and one copy of each large array at either end.

    The mapping is read here and now (`MappingError`); the data by the process, at `start` or at the first request. Any
    thread may ask; one request is answered at a time. `close` it, or use it in a ``with`` statement.
    """

    def __init__(
        self,
        study: Study,
        source: Path | str,
        mapping: Path | str | dict[str, Any] | None,
        name: str,
        secret: bytes,
        limits: Limits | None = None,
        packages: Sequence[Path] = (),
    ) -> None:
        check_platform()
        self.study = study
        self.limits = limits or Limits()
        self._source = Path(source).absolute()  # the worker is in another folder
        self._mapping = mapping_file.load(mapping, study).model_dump_json(by_alias=True, exclude_unset=True)
        self._name = name
        self._secret = secret
        self._packages = tuple(packages)
        self._lock = threading.Lock()
        self._closed = False
        self._running: Running | None = None
        self._digest: str | None = None
        self._report: Validation | None = None
        self._views: dict[tuple[str, str], tuple[dict[str, float], CohortView]] = {}

    # -- the protocol -------------------------------------------------------------------------------------------------

    def digest(self) -> str:
        """Of the frozen snapshot; `DataError` if its file was changed since, also if the process was replaced meanwhile."""
        found: str = self._asked("digest", None)["digest"]
        return found

    def cohort(self, ask: Ask) -> CohortView:
        """The patients that the ask's analysis is answered on. Kept here: it is asked for before every step of a fit."""
        key, imputed = (ask.analysis, ask.method), dict(ask.facts.imputed)
        known = self._views.get(key)
        if known is None or known[0] != imputed:
            answer = self._asked("cohort", ask)
            answer["rows"].flags.writeable = False
            known = imputed, CohortView(answer["n"], answer["rows"], answer["held_out"], answer["source"])
            self._views[key] = known
        return known[1]

    def contribution(self, ask: Ask, memory: Memory) -> Part:
        """This site's part, unmasked, and its new memory, in arrays that the process cannot reach."""
        answer = self._asked("contribution", ask, memory)
        arrays = dict(zip(answer["names"], answer["arrays"], strict=True))
        own = answer["memory"]
        tree = {name: array for name, array in arrays.items() if not name.startswith(MEMORY)}
        kept = {name.removeprefix(MEMORY): array for name, array in arrays.items() if name.startswith(MEMORY)}
        return Part(tree, kept if own else None)

    def receipt(self, ask: Ask, memory: Memory) -> Kept:
        """What the site keeps of a `tell`."""
        answer = self._asked("receipt", ask, memory)
        return Kept(answer["sheet"], dict(zip(answer["names"], answer["files"], strict=True)))

    # -- its life -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        running = self._running
        return None if running is None else running.pid

    def start(self) -> Validation:
        """Start the process and read the data now. The report on the data, which stays at the site.

        `DataError`, `MappingError` as `freeze` raises them; `WorkerError` if the process dies of it.
        """
        with self._lock:
            self._warm()
            assert self._report is not None
            return self._report

    def close(self) -> None:
        """End the process at once, also in the middle of a request, which then fails (``worker-closed``). For good."""
        self._closed = True
        running = self._running
        if running is not None:
            running.kill()
        with self._lock:
            self._end()

    def __enter__(self) -> ProcessWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, what: str, ask: Ask | None, memory: Memory | None = None) -> Answer:
        request = {"do": what, "cpu": self.limits.cpu_seconds, "ask": None if ask is None else _tree_of(ask)}
        if memory is not None:
            request["memory"] = {"names": list(memory), "arrays": list(memory.values())}
        with self._lock:
            running = self._warm()
            return self._exchanged(running, request, self.limits.wall_seconds)

    def _warm(self) -> Running:
        """The process that is there, or a new one that has read the same data."""
        if self._running is not None and (self._closed or not self._running.quiet()):
            self._end()  # it died between two requests, or says what nobody asked
        if self._closed:
            raise _closed()
        if self._running is None:
            self._running = Running(self.limits, self._packages)
            try:
                self._begin(self._running)
            except BaseException:
                self._end()
                raise
        return self._running

    def _begin(self, running: Running) -> None:
        request = {
            "do": "begin",
            "cpu": max(self.limits.cpu_seconds, self.limits.start_seconds),
            "study": _bytes(self.study.model_dump_json().encode()),
            "source": str(self._source),
            "mapping": _bytes(self._mapping.encode()),
            "name": self._name,
            "secret": _bytes(self._secret),
        }
        try:
            begun = self._exchanged(running, request, self.limits.start_seconds)
        except DataError as error:
            if self._digest is None:
                raise
            raise self._changed() from error  # it names rows and files, and an answer that leaves the site may not
        if begun["study"] != self.study.digest():
            raise WorkerError(
                "The worker process reads the study as another one than the agent.",
                rule="worker-died",
                remedy="Install the same version of Unisono for both.",
            )
        if self._digest not in (None, begun["digest"]):
            raise self._changed()
        self._digest, self._report = begun["digest"], begun["report"]

    def _changed(self) -> DataError:
        return DataError(
            f"The data file {self._source.name}, or an image that it names, was changed after this study began.",
            rule="frozen-data",
            remedy="To go on, put the files back as they were; to use the new data, start the study again with --fresh.",
            where=str(self._source),
        )

    def _exchanged(self, running: Running, request: Tree, seconds: float) -> Answer:
        """One question and its answer. An answer that is an error is raised; without an answer the process is ended."""
        if self._closed:
            raise _closed()
        try:
            frame = encode(request, running.shared)
            answer = _checked(request["do"], decode(running.exchange(frame, seconds), running.shared))
            running.shared.clear()
        except UnisonoError:  # the worker's answer, or a question that does not travel: it goes on
            running.shared.clear()
            raise
        except _OutOfMemory:
            self._end()
            raise self._limit(f"more memory than {self.limits.memory_bytes} bytes", "memory_bytes") from None
        except Ended as ended:
            raise self._death(ended, request["do"], seconds) from None
        except Garbled:
            self._end()
            raise self._dead("gave an answer that cannot be read, and was ended") from None
        except BaseException:  # Ctrl-C: the answer would be taken for the next question's
            self._end()
            raise
        return answer

    def _end(self) -> int:
        """End the process that is there; its exit status."""
        running, self._running = self._running, None
        self._views.clear()
        return 0 if running is None else running.end()

    # -- how it ended -------------------------------------------------------------------------------------------------

    def _death(self, ended: Ended, what: str, seconds: float) -> WorkerError:
        running = self._running
        status = self._end()
        if self._closed:
            return _closed()
        if ended.why == "late":
            return self._limit(f"longer than {seconds:g} s", "start_seconds" if what == "begin" else "wall_seconds")
        if status == -signal.SIGXCPU:
            return self._limit(f"more processor time than {self.limits.cpu_seconds:g} s", "cpu_seconds")
        said = 0 if running is None else running.said
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        unshown = f"; it wrote {said} bytes to its error stream, not shown, for they may hold data" if said else ""
        return self._dead(f"ended ({how}{unshown})")

    def _limit(self, what: str, name: str) -> WorkerError:
        return WorkerError(
            f"The worker process took {what}, and was ended.",
            rule="worker-limits",
            remedy=f"Nothing left the site. Raise the worker's {name} if the study needs it; the next ask starts a new process.",
        )

    def _dead(self, what: str) -> WorkerError:
        return WorkerError(
            f"The worker process {what}.",
            rule="worker-died",
            remedy="Nothing left the site; the next ask starts a new process. If it dies again, look whether the machine "
            "lacks memory, and report it to the method's author, with the version of the package.",
        )


class _OutOfMemory(Exception):
    """The worker says that its memory did not suffice."""


def _tree_of(ask: Ask) -> dict[str, Tree]:
    """The ask; an opened sum among its arguments (a dataclass) goes with its type's name, to be made again there."""
    arguments = [
        {
            "$result": type(value).__qualname__,
            "leaves": {f.name: getattr(value, f.name) for f in dataclasses.fields(value)},
        }
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
        for value in ask.arguments
    ]
    return {**ask.to_tree(), "arguments": arguments}


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


def _closed() -> WorkerError:
    return WorkerError(
        "The worker of this study was closed.",
        rule="worker-closed",
        remedy="The study was withdrawn, or the site is stopping; nothing left.",
    )


# -- the forms of answers ---------------------------------------------------------------------------------------------

_EXPECTED = {"begin": "begun", "digest": "digest", "cohort": "cohort", "contribution": "tree", "receipt": "sheet"}


def _checked(asked: str, answer: Any) -> Answer:
    """The answer to this question, every part of its type; errors are raised. `Garbled` for anything else."""
    kind = answer.get("answer") if isinstance(answer, dict) else None
    if kind == "memory":
        raise _OutOfMemory
    if kind == "error":
        raise _error(answer.get("error"))
    if kind == "fault" and isinstance(answer.get("name"), str) and answer["name"].isidentifier():
        raise WorkerError(
            f"The worker process could not answer ({answer['name'][:80]}).",
            rule="worker-fault",
            remedy="Nothing left the site. Report it to the method's author, with the version of the package.",
        )
    if kind != _EXPECTED[asked] or not isinstance(answer, dict):
        raise Garbled("an answer to another question")
    if kind == "begun":
        digests = all(_is_digest(answer.get(name)) for name in ("study", "digest"))
        if not digests:
            raise Garbled("a digest that is none")
        return {**answer, "report": _report(answer.get("report"))}
    if kind == "sheet":
        if not _files_form(answer):
            raise Garbled("files in another form")
        return {"sheet": _json(answer.get("json")), "names": answer["names"], "files": answer["files"]}
    form = {"digest": _digest_form, "cohort": _cohort_form, "tree": _tree_form}[str(kind)]
    if not form(answer):
        raise Garbled("an answer in another form")
    return answer


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _digest_form(answer: Answer) -> bool:
    return _is_digest(answer.get("digest"))


def _cohort_form(answer: Answer) -> bool:
    n, rows = answer.get("n"), answer.get("rows")
    held_out = answer.get("held_out")
    if type(n) is not int or not isinstance(rows, np.ndarray) or not _is_digest(answer.get("source")):
        return False
    if held_out is not None:
        places = isinstance(held_out, np.ndarray) and held_out.dtype == np.uint64 and held_out.ndim == 1
        if not places or held_out.size > n or not bool((held_out[:-1] < held_out[1:]).all()):
            return False
    return rows.dtype == np.uint64 and rows.shape == (n,) and bool((rows[:-1] <= rows[1:]).all())


def _tree_form(answer: Answer) -> bool:
    names, arrays = answer.get("names"), answer.get("arrays")
    return (
        isinstance(names, list)
        and isinstance(arrays, list)
        and type(answer.get("memory")) is bool
        and len(names) == len(arrays) == len({name for name in names if isinstance(name, str)})
        and all(isinstance(array, np.ndarray) for array in arrays)
    )


def _files_form(answer: Answer) -> bool:
    names, files = answer.get("names"), answer.get("files")
    return (
        isinstance(names, list)
        and isinstance(files, list)
        and len(names) == len(files) == len({name for name in names if isinstance(name, str)})
        and all(isinstance(file, np.ndarray) and file.dtype == np.uint8 and file.ndim == 1 for file in files)
    )


def _json(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, np.ndarray) or raw.dtype != np.uint8 or raw.ndim != 1 or raw.size > MAX_SHEET:
        raise Garbled("a sheet in another form")
    try:
        found = json.loads(raw.tobytes())
    except (ValueError, RecursionError) as error:
        raise Garbled("a sheet that cannot be read") from error
    if not isinstance(found, dict):
        raise Garbled("a sheet in another form")
    return found


def _report(raw: Any) -> Validation:
    try:
        return _REPORT.validate_python(_json(raw))
    except ValidationError as error:
        raise Garbled("a report in another form") from error


def _error(fields: Any) -> UnisonoError:
    """The error that a worker raised, as the kind it has here; `Garbled` for what is none."""
    texts = ("kind", "what", "rule", "remedy")
    if not isinstance(fields, Mapping) or not all(isinstance(fields.get(name), str) for name in texts):
        raise Garbled("an error in another form")
    where = fields.get("where")
    told = {name: fields[name][:MAX_TEXT] for name in texts}
    return UnisonoError.from_dict({**told, "where": where[:MAX_TEXT] if isinstance(where, str) else None})


__all__ = ["Limits", "ProcessWorker"]
