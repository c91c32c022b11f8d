"""The worker process: it limits itself, reads one study's data, and answers the agent's requests until the pipe closes.

`python -m unisono.site.workers.child MEMORY RESULT FD` (bytes or 0, bytes, the shared memory), started by `process` and by
nobody else. What it needs to know comes over the pipe: the study, the data file's path, the secret of the row hashes. No
key, no address, no other study is told to it.

What a method prints goes to the error stream, of which the agent keeps only the length. Before the limits are set nothing
large is imported, so that the imports happen under them too.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisono.errors import DataError, ProtocolError, UnisonoError
from unisono.site.workers.limits import allow_cpu, restrict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from unisono.federation.ask import Ask
    from unisono.federation.contribution import Part
    from unisono.site.worker import LocalWorker
    from unisono.study.document import Study

FOLDER = "unisono-worker-"
"""How the name of a worker's empty folder begins."""
MEMORY = "memory "
"""How the names of a new memory's arrays begin, beside the leaves, whose names are words."""
MAX_TEXT = 64 * 1024
"""Characters of an error's text that are sent on."""

Answer = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Serve until the agent closes the pipe, or dies."""
    memory, result, fd = map(int, arguments)
    restrict(memory or None, result)
    questions, answers = _private_streams()
    _end_with_the_agent(questions)

    from unisono.site.workers.pipe import Garbled, Shared, encode, read_frame, write_frame

    shared = Shared(fd, result)
    out_of_memory = encode({"answer": "memory"}, shared)  # made now: then there may be no room for it
    serve = _Servant().answer
    while True:
        try:
            try:
                request = read_frame(questions, shared)
                if request is None:
                    return
                frame = encode(serve(request), shared)
            except UnisonoError as error:
                if _was_memory(error):
                    raise MemoryError from None
                frame = encode(_error(error), shared)
            except Garbled:  # the agent sends no such thing: something here read from the pipe
                return
        except MemoryError:
            frame = out_of_memory
        except Exception as error:  # noqa: BLE001  a method may be anybody's package, and its message may hold values
            frame = encode({"answer": "fault", "name": type(error).__name__}, shared)
        try:
            write_frame(answers, frame)
        except BrokenPipeError:
            return


class _Servant:
    """Answers requests from one study's frozen data, by a `LocalWorker`."""

    def __init__(self) -> None:
        self._study: Study | None = None
        self._worker: LocalWorker | None = None

    def answer(self, request: dict[str, Any]) -> Answer:
        """One request; errors are raised."""
        allow_cpu(request["cpu"])
        if request["do"] == "begin":
            return self._begin(request)
        worker = self._worker
        assert worker is not None  # the agent begins
        if request["do"] == "digest":
            return {"answer": "digest", "digest": worker.digest()}
        ask = self._ask(request["ask"])
        if request["do"] == "cohort":
            view = worker.cohort(ask)
            return {
                "answer": "cohort",
                "n": view.n,
                "rows": view.rows,
                "held_out": view.held_out,
                "source": view.source,
            }
        import numpy as np

        memory = dict(zip(request["memory"]["names"], request["memory"]["arrays"], strict=True))
        if request["do"] == "contribution":
            return _tree(worker.contribution(ask, memory))
        kept = worker.receipt(ask, memory)
        files = [np.ascontiguousarray(file, np.uint8) for file in kept.files.values()]
        return {
            "answer": "sheet",
            "json": _text(json.dumps(dict(kept.sheet))),
            "names": list(kept.files),
            "files": files,
        }

    def _begin(self, request: dict[str, Any]) -> Answer:
        from unisono.site.data.mapping import Mapping
        from unisono.site.data.snapshot import freeze
        from unisono.site.worker import LocalWorker
        from unisono.study.document import Study

        self._study = study = Study.model_validate_json(bytes(request["study"]))
        mapping = Mapping.model_validate_json(bytes(request["mapping"]))
        snapshot = freeze(request["source"], mapping, study, request["name"])
        self._worker = LocalWorker(study, snapshot, bytes(request["secret"]))
        report = _text(json.dumps(snapshot.report.to_dict()))
        return {"answer": "begun", "study": study.digest(), "digest": snapshot.digest, "report": report}

    def _ask(self, tree: dict[str, Any]) -> Ask:
        from unisono.federation.ask import Ask

        ask = Ask.from_tree(tree)
        ask.arguments[:] = [self._argument(ask, value) for value in ask.arguments]
        return ask

    def _argument(self, ask: Ask, value: Any) -> Any:
        """An opened sum that a receipt is given comes back as the type that its contribution declares."""
        from unisono.federation.contribution import BoundContribution, Contribution
        from unisono.site.worker import method_of

        if not isinstance(value, dict) or "$result" not in value:
            return value
        assert self._study is not None
        method = method_of(self._study, ask)
        for name in dir(type(method)):
            declared = getattr(type(method), name, None)
            if isinstance(declared, Contribution) and declared.result_type().__qualname__ == value["$result"]:
                bound: BoundContribution[..., Any] = BoundContribution(method, declared)
                return bound.rebuild(value["leaves"])
        raise ProtocolError(
            f"{ask.method!r} has no contribution that gives a {value['$result']}.",
            rule="ask-format",
            remedy="Install the same version of the method for the agent and for its workers.",
        )


def _tree(part: Part) -> Answer:
    tree = {**part.tree, **{f"{MEMORY}{name}": array for name, array in (part.memory or {}).items()}}
    for name, array in tree.items():
        if type(name) is not str or array.dtype.kind not in "biuf":
            raise DataError(
                f"The leaf {name!r} does not hold real numbers."
                if type(name) is str
                else "A leaf has a name that is no text.",
                rule="declared-shape",
                remedy="This is a fault of the method; report it to its author.",
            )
    return {
        "answer": "tree",
        "memory": part.memory is not None,
        "names": list(tree),
        "arrays": list(tree.values()),
    }


def _text(text: str) -> NDArray[np.uint8]:
    """As bytes: however long, it goes the way of the large arrays."""
    import numpy as np

    return np.frombuffer(text.encode(), np.uint8)


def _error(error: UnisonoError) -> Answer:
    fields = {key: value if value is None else str(value)[:MAX_TEXT] for key, value in error.to_dict().items()}
    return {"answer": "error", "error": fields}


def _was_memory(error: BaseException | None) -> bool:
    """Whether an error began as a lack of memory, which a method's fault is then only another name for."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _private_streams() -> tuple[int, int]:
    """The pipes under other numbers than 0 and 1: what prints cannot get into an answer."""
    questions, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return questions, answers


def _end_with_the_agent(questions: int) -> None:
    """Also in the middle of a request: a thread sleeps until the other end of the pipe is gone. Nobody else is left then
    to remove the folder, in which a method may have put something."""
    folder = Path.cwd()

    def watch() -> None:
        hung_up = select.poll()
        hung_up.register(questions, 0)
        hung_up.poll()
        if folder.name.startswith(FOLDER):  # the one made for it, and not a user's who started this by hand
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=watch, name="agent", daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
