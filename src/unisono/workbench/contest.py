"""Methods compared on one study under one budget: the same model, sites, validation patients, seeds, rounds and local work.

Every contestant runs over embedded sites, as `unisono run` would; the references run beside them in a light federation. A finished
run is kept in ``<out>/trials/`` and not repeated; one that was interrupted goes on from its journal.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from unisono.engines.embedded.outcome import Outcome
from unisono.engines.embedded.run import Run, Settings, SiteData, run_study
from unisono.errors import DataError, JournalError, StudyError, UnisonoError
from unisono.federation.contribution import Facts
from unisono.federation.events import Event
from unisono.federation.storage import storage, write_whole
from unisono.methods.base import Method
from unisono.methods.registry import build, check, find
from unisono.methods.training.training import Training
from unisono.protection.encoding.codec import encoding_of
from unisono.site.data.snapshot import freeze
from unisono.site.sheets import folder_of
from unisono.study.document import Study
from unisono.study.load import load
from unisono.workbench.light import Cohort, cohort
from unisono.workbench.references import alone, curve_of, federated, plain, pooled
from unisono.workbench.standings import Aim
from unisono.workbench.trial import ALONE, POOLED, REFERENCES, Trial

USUAL = ("fedavg", "fedprox", "scaffold", "fedadam", "fedbn", "ditto", "fedrep")
"""What is compared if nothing else is said: one server optimiser stands for the three."""
METHODS = ("fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedadagrad", "fedbn", "ditto", "fedrep")
TRIALS, RUNS, ABOUT = "trials", "runs", "contest.json"
_WORD_BYTES = {"fixed32": 4, "exact": 8}

Told = Callable[[str, int, str], None]
"""(method, seed, name of what was opened; empty when the trial is over)"""


@dataclass(frozen=True)
class Contest:
    """analysis: the one whose model, features and budget all contestants are given. seeds: each method runs once with each."""

    study: Study
    analysis: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Mapping[str, SiteData] = field(repr=False)
    out: Path

    def __post_init__(self) -> None:
        if not self.methods:
            raise StudyError(
                "No method to compare was named.",
                rule="comparable-methods",
                remedy=f"Name some, with commas between them: {', '.join(METHODS)}.",
            )
        if self.analysis not in self.study.analyses:
            raise StudyError(
                f"The study has no analysis {self.analysis!r}.",
                rule="known-analyses",
                remedy=f"Its analyses are {', '.join(self.study.analyses)}.",
            )
        for method in (self.study.analyses[self.analysis].method, *self.methods):
            if not issubclass(find(method), Training):
                raise StudyError(
                    f"{method!r} is no federated optimiser: what is compared trains one model under one budget.",
                    rule="comparable-methods",
                    remedy=f"Compare among {', '.join(m for m in METHODS)}; name the analysis that trains with --analysis.",
                )

    def names(self) -> list[tuple[str, int]]:
        """All trials, in the order in which they are run: the references of a seed first."""
        return [(method, seed) for seed in self.seeds for method in (*REFERENCES, *self.methods)]

    @property
    def aim(self) -> Aim:
        """What is compared, by the task: accuracy where there are classes."""
        method = build(self.study, self.analysis)
        assert isinstance(method, Training)
        kind = method.scoring.kind
        return Aim({"number": "r2", "cox": "concordance", "hazard": "concordance"}.get(kind, "accuracy"))

    def variant(self, method: str, seed: int) -> Study:
        """The study with this method and seed, and nothing else changed but what may be shown: in a simulation, everything.

        A setting of the method's own is taken from an analysis of the study that uses it, if there is one."""
        base = self.study.analyses[self.analysis]
        known = {field.alias or name for name, field in find(method).spec_type.model_fields.items()}
        settings = {key: value for key, value in base.parameters.items() if key in known}
        for written in self.study.analyses.values():
            if written.method == method:
                settings |= {k: v for k, v in written.parameters.items() if k not in base.parameters}
        document = self.study.model_dump(mode="json", exclude_unset=True)
        document["analyses"] = {self.analysis: {**settings, "method": method, "seed": seed}}
        document["release"] = {**document.get("release", {}), "min_count": 1}
        return load(document, check)

    def unable(self) -> dict[str, StudyError]:
        """Of the methods, those that cannot run on this model and budget, and why."""
        found: dict[str, StudyError] = {}
        for method in self.methods:
            try:
                self.variant(method, self.seeds[0])
            except StudyError as error:
                found[method] = error
        return found

    def run(self, told: Told = lambda *_: None) -> list[Trial]:
        """All trials, those that are finished already from their files; then what `out` holds of other methods, from a comparison of
        the same with these seeds. `StudyError`, before anything runs, for a method that cannot."""
        for method, error in self.unable().items():
            raise StudyError(f"{method} cannot be compared. {error.what}", rule=error.rule, remedy=error.remedy)
        self._same_as_before()
        trials = []
        for method, seed in self.names():
            path = self.out / TRIALS / f"{method}-seed{seed}.json"
            if not path.exists():
                self.trial(method, seed, told).save(self.out / TRIALS)
            trials.append(Trial.load(path))
            told(method, seed, "")
        return [*trials, *self._earlier()]

    def _earlier(self) -> list[Trial]:
        """The finished trials of methods that are not asked for now."""
        found = [Trial.load(path) for path in sorted((self.out / TRIALS).glob("*.json"))]
        now = (*REFERENCES, *self.methods)
        return [t for t in found if t.method not in now and t.seed in self.seeds and not t.failed]

    def about(self, trials: Sequence[Trial] = ()) -> dict[str, Any]:
        """What is run, for the record and for a reader; trials: what was."""
        there = (trial.method for trial in trials if trial.method not in REFERENCES)
        parameters = self.study.analyses[self.analysis].parameters
        budget = {key: parameters[key] for key in ("model", "local", "rounds", "validate") if key in parameters}
        return {
            "study": self.study.id,
            "analysis": self.analysis,
            "digest": self.study.digest(),
            "sites": {name: cohort.n for name, cohort in sorted(self._cohort.tables.items())},
            "hide": self.study.protection.hide,
            "methods": list(dict.fromkeys((*self.methods, *there))),
            "seeds": list(self.seeds),
            "budget": budget,
        }

    # -- one trial ------------------------------------------------------------------------------------------------------

    def trial(self, method: str, seed: int, told: Told = lambda *_: None) -> Trial:
        """One run: over embedded sites, or a reference. What stops a method is in the trial."""
        run = self._reference if method in REFERENCES else self._contestant
        return self._unless_it_fails(method, seed, lambda: run(method, seed, told))

    def light(self, method: str, seed: int) -> Trial:
        """The same in a light federation: no masks, no journal, nothing kept at the sites."""
        if method in REFERENCES:
            return self.trial(method, seed)
        return self._unless_it_fails(
            method, seed, lambda: federated(self.variant(method, seed), self.analysis, self._cohort, seed=seed)
        )

    def _unless_it_fails(self, method: str, seed: int, run: Callable[[], Trial]) -> Trial:
        try:
            with threadpool_limits(limits=1):
                return run()
        except (DataError, JournalError):
            raise  # of the sites' files and of the folder, not of the method
        except UnisonoError as error:
            return Trial(method, seed, failed=f"{error.what} (rule: {error.rule})")

    def _reference(self, method: str, seed: int, told: Told) -> Trial:
        study = self.variant("fedavg", seed)
        run = {POOLED: pooled, ALONE: alone}[method]
        return run(study, self.analysis, self._cohort, seed=seed, heard=lambda name: told(method, seed, name))

    def _contestant(self, method: str, seed: int, told: Told) -> Trial:
        study = self.variant(method, seed)
        events: list[Event] = []

        def observe(event: Event) -> None:
            events.append(event)
            if event.kind == "opened":
                told(method, seed, event.name)

        folder = self.out / RUNS / f"{method}-seed{seed}"
        run = run_study(study, self.data, folder, Settings(observer=observe))
        outcome = run.outcomes[self.analysis]
        if outcome.error is not None:
            raise outcome.error
        trial = self._of(run, outcome, method, seed, sent_bytes(build(study, self.analysis), events))
        _forget_vectors(folder)
        return trial

    def _of(self, run: Run, outcome: Outcome, method: str, seed: int, sent: int) -> Trial:
        assert outcome.answer is not None
        result = outcome.answer.result
        sheets = {
            name: folder_of(run.out / "sites" / name, run.study.digest()) / f"{self.analysis}.json"
            for name in run.sites
        }
        kept = {name: json.loads(path.read_text("utf-8")) for name, path in sheets.items() if path.exists()}
        for name, content in result.files().items():
            write_whole(run.out / self.analysis / name, content, "model")
        return Trial(
            method=method,
            seed=seed,
            metrics=plain(result.estimates["evaluation"] or {}),
            by_site={name: plain(sheet["joint"]) for name, sheet in kept.items() if "joint" in sheet},
            curve=curve_of(result),
            seconds=outcome.seconds,
            sent_bytes=sent,
        )

    @cached_property
    def _cohort(self) -> Cohort:
        """Every site's patients, as the study sees them; read once, for the references."""
        study = self.variant("fedavg", self.seeds[0])
        tables = {
            name: freeze(given.source, given.mapping, study, name).table for name, given in sorted(self.data.items())
        }
        return cohort(study, self.analysis, tables)

    def _same_as_before(self) -> None:
        """`JournalError` if the folder holds trials of another contest: they would be mixed."""
        path = self.out / ABOUT
        about = {key: value for key, value in self.about().items() if key not in ("methods", "seeds")}
        with storage(self.out, "comparison"):
            self.out.mkdir(parents=True, exist_ok=True)
            if path.exists() and json.loads(path.read_text("utf-8")) != json.loads(json.dumps(about)):
                raise JournalError(
                    f"{self.out} holds a comparison of another study, or of other sites.",
                    rule="one-run-a-folder",
                    remedy="Write to another folder with --out, or remove that one.",
                )
        write_whole(path, (json.dumps(about, indent=1) + "\n").encode(), "comparison")


def _forget_vectors(folder: Path) -> None:
    """What sites and coordinator wrote down of a finished run's steps: as large as all rounds. Sheets and models stay."""
    for path in (*folder.glob("sites/*/state.db*"), *folder.glob("*/journal.db*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def sent_bytes(method: Method[Any], events: Sequence[Event]) -> int:
    """What one site sent, without the keys and shares that travel beside it: the words of every opened sum."""
    facts = Facts(1)
    width = {
        f"{method.name}.{ask.contribution.name}": _WORD_BYTES[
            encoding_of(ask.contribution.declaration(facts, *ask.arguments).leaves)
        ]
        for ask in method.plan()
    }
    return sum(event.words * width.get(event.name, 8) for event in events if event.kind == "opened")
