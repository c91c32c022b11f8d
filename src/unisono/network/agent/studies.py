"""The studies that this agent answers: each approved one with its data in a worker, behind the hospital's one `Site`.

What is answered is what the inbox says is approved. A study whose data cannot be read now is taken up when it can; one that was
withdrawn is stopped in the middle of an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from unisono.errors import PermitError, StorageError, UnisonoError
from unisono.federation.exchange import Message
from unisono.federation.lineage import Mark
from unisono.network.agent import datasets
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.inbox import OVER, Entry, Inbox
from unisono.network.beginning import Beginning
from unisono.network.log import Log
from unisono.site.agent import Site
from unisono.site.worker import Worker
from unisono.site.workers.limits import Limits
from unisono.site.workers.process import ProcessWorker
from unisono.study.document import Study

MakeWorker = Callable[[Study, datasets.Dataset, str, bytes], Worker]


def make_worker(
    study: Study,
    dataset: datasets.Dataset,
    site: str,
    secret: bytes,
    packages: Sequence[Path] = (),
    limits: Limits | None = None,
) -> Worker:
    """A worker process of its own, which has yet to be started. packages: folders of the site's packages of models and methods.
    limits: what it may use. `MappingError` if the mapping does not fit the study."""
    return ProcessWorker(study, dataset.file, dataset.mapping, site, secret, limits, packages)


class Studies:
    """Safe to use from several threads."""

    def __init__(self, folder: AgentFolder, site: Site, inbox: Inbox, log: Log, make: MakeWorker = make_worker) -> None:
        self._folder = folder
        self._site = site
        self._inbox = inbox
        self._log = log
        self._make = make
        self._workers: dict[str, Worker] = {}
        self._admitted: set[str] = set()
        self._closed = False
        self._taking = threading.Lock()
        """One study is taken up at a time: its data are read."""
        self._lock = threading.Lock()
        """Of the two collections; held for moments only, so that a study can be stopped while it is being taken up."""

    def answer(self, message: Message) -> object:
        """The site's answer, as `Site.answer`."""
        return self._site.answer(message)

    def take_up_all(self) -> None:
        """After a start: every approved study that is not over. One that cannot be taken up does not stop the others."""
        for entry in self._inbox.active():
            if entry.state != "refused":  # by another hospital: taken up when it is asked after all
                self._try(entry)

    def ready(self, study: str) -> None:
        """An approved study is taken up if it is not yet; where it cannot be, the site refuses by its own rule. `PermitError` if
        it is over, or was withdrawn: what the inbox says holds, also when nobody could tell this process."""
        decision, state = self._inbox.standing(study)
        if decision in ("withdrawn", "refused") or (decision and state in OVER):
            raise PermitError(
                f"The study is over at this site: {decision if decision != 'approved' else state}.",
                rule="permit-study",
                remedy="Nothing more of it comes from this site.",
                where=f"site {self._site.name}",
            )
        if decision == "approved" and study not in self._admitted:
            entry = self._inbox.get(study)
            assert entry is not None  # it has a standing
            self._try(entry)

    def begun(self, study: str, run: str, beginning: Beginning) -> None:
        """A site that was restored from a back-up answers a run only if it was begun under the permit that its steward signed since,
        which the run's own name must prove."""
        lineage = self._site.state.lineage
        if lineage.may_answer(run):
            return
        entry = self._inbox.get(study)
        if entry is not None and entry.permit and beginning.proves(run, self._site.name, entry.permit):
            lineage.begin(run)

    def mark(self) -> Mark:
        """How far this site's memory has come."""
        return self._site.state.lineage.mark()

    def _try(self, entry: Entry) -> None:
        try:
            self.take_up(entry)
        except UnisonoError as error:
            with suppress(StorageError):  # a full disk: the log has it, or counts it
                self._inbox.trouble(entry.digest, error.what)
            self._log.refused("not-taken-up", error, study=entry.digest)

    def take_up(self, entry: Entry) -> None:
        """Read the data and admit the study. Raises what stands in the way: the data, the mapping, the policy, the permit."""
        with self._taking:
            if entry.digest in self._admitted:
                return
            if not entry.is_active or self._closed:
                raise _not_approved(entry)
            study, permit = entry.study(), entry.permits()
            dataset = datasets.choose(self._folder, entry.dataset)
            worker = self._make(study, dataset, self._site.name, self._folder.home.secret())
            with self._lock:
                self._workers[entry.digest] = worker
            try:
                if isinstance(worker, ProcessWorker):
                    worker.start()
                self._site.admit(study, permit, entry.sites(), worker)
            except BaseException:
                self._let_go(entry.digest)
                raise
            with self._lock:
                stopped = self._closed or self._workers.get(entry.digest) is not worker
                if not stopped:
                    self._admitted.add(entry.digest)
            if stopped:  # meanwhile, by the steward or with the agent
                _close(worker)
                self._site.withdraw(entry.digest)
                raise _not_approved(entry)
        self._inbox.trouble(entry.digest, "")
        self._log.write("taken-up", study=entry.digest, id=entry.id, dataset=entry.dataset)

    def stop(self, study: str, why: str = "withdrawn") -> None:
        """Answer nothing more of a study: its worker is ended, in the middle of an answer too, and keys that were sent ahead are
        forgotten. why: as the audit log says it; of itself, this site's steward withdrew it."""
        known = self._let_go(study)  # first: an answer that is being made holds the site's lock
        if known or self._site.knows(study):
            self._site.release(study, why)
            self._log.write("stopped", study=study)

    def rest(self, study: str) -> None:
        """Nothing is asked of a study for now: its worker may go. It is taken up again if something is."""
        self._let_go(study)

    def _let_go(self, study: str) -> bool:
        """End a study's worker. False if it has none."""
        with self._lock:
            worker = self._workers.pop(study, None)
            self._admitted.discard(study)
        if worker is not None:
            _close(worker)
        return worker is not None

    @property
    def taken_up(self) -> tuple[str, ...]:
        """Digests of the studies that are answered now."""
        return tuple(sorted(self._admitted))

    @property
    def worker_pids(self) -> list[int]:
        """Of the worker processes that there are now."""
        with self._lock:
            workers = list(self._workers.values())
        return [worker.pid for worker in workers if isinstance(worker, ProcessWorker) and worker.pid is not None]

    def close(self) -> None:
        """End every worker. The site is closed by whoever made it."""
        with self._lock:
            self._closed = True
            studies = list(self._workers)
        for study in studies:
            self._let_go(study)
        with self._taking:  # one that was being taken up has noticed
            pass


def _close(worker: Worker) -> None:
    if isinstance(worker, ProcessWorker):
        worker.close()


def _not_approved(entry: Entry) -> PermitError:
    return PermitError(
        f"The study {entry.id!r} is not approved at this site.",
        rule="permit-study",
        remedy="Let the data steward decide: unisono site show, unisono site approve.",
    )
