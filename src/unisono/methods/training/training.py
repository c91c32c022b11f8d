"""What all federated optimisers share: preprocessing, the rounds, validation, the end. Each method's own file says what its
sites do in a round (`update`) and what the coordinator makes of their mean (`step`).

What leaves a hospital, each as part of a sum: once `preprocessing`; in every round the method's `update`; at the end
`evaluation`, once or twice. What stays there: the split of its patients, its local model, and what `keep` leaves in its own
folder (the benefit sheet; a personal model).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError, ParticipationError
from unisono.federation.contribution import Declaration, Facts, Kept, contribution, receipt, within
from unisono.methods.base import Method, PlannedAsk
from unisono.methods.training.data import Patients, split
from unisono.methods.training.preprocessing import Columns
from unisono.methods.training.progress import LIMIT, MOST_LOSS, Answered, Progress
from unisono.methods.training.result import Ending, TrainingResult
from unisono.methods.training.scoring import Scoring
from unisono.methods.training.spec import CLASSES, TrainingSpec
from unisono.protection.leaves import Leaf, moment, update
from unisono.study.document import Study
from unisono.study.table import Table
from unisono.study.units import duration

if TYPE_CHECKING:
    from unisono.federation.federation import Federation
    from unisono.methods.training.models.vector import Entry
    from unisono.methods.training.network import Network
    from unisono.methods.training.workplace import Workplace

S = TypeVar("S", bound=TrainingSpec)
Vector = NDArray[np.float32]
Array = NDArray[np.float64]

MOST_STEPS = 1e9
"""Local steps of a round."""
STATISTICS_BOUND = 100.0
"""Of the change of a norm layer's running mean or variance in a round: its inputs are of order 1 to 10."""


@dataclass(frozen=True)
class Step:
    """One round at the coordinator: the next model (p,), what the method carries beside it, and what the sum said."""

    model: Vector
    memory: Mapping[str, NDArray[Any]]
    answered: Answered


class Training(Method[S]):
    """A federated optimiser. personal: its sites predict with models of their own. whole: the coordinator has a model that
    predicts. alone: one hospital learns by itself, to be compared with; nobody is told anything, so that nothing is refused."""

    kin: ClassVar[str] = "training"
    personal: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    def __init__(self, study: Study, analysis: str, spec: S) -> None:
        super().__init__(study, analysis, spec)
        self.columns = Columns.of(study, spec)
        self.scoring = Scoring(study, spec, self.columns)
        self.validates = spec.validation.fraction > 0
        self.alone = False

    @cached_property
    def network(self) -> Network:
        """Built when it is first needed; PyTorch is imported then."""
        from unisono.methods.training.network import Network

        return Network.of(self.study, self.spec, self.columns)

    @property
    def p(self) -> int:
        """Numbers in the model: trained ones, then the norms' running statistics."""
        return self.network.size

    @property
    def parameters(self) -> int:
        """0: the rule *parameters against n* is for fits that have one solution, from which a patient could be worked out;
        a network has more parameters than patients as a matter of course (docs/methods/training.md, *Threats*)."""
        return 0

    def own(self, entry: Entry) -> bool:
        """Whether a tensor of the model is each site's own, and never leaves it."""
        del entry
        return False

    @cached_property
    def shared(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(p,) each: which numbers of the model leave a site, trained ones and running statistics."""
        mine, trained = self.network.layout.mask(self.own), np.arange(self.p) < self.network.weights
        return ~mine & trained, ~mine & ~trained

    def variables(self) -> tuple[str, ...]:
        return (*self.spec.outcomes(), *self.spec.features)

    def prepare(self, table: Table) -> Patients:
        valid = split(table.n, self.spec.validation.fraction, self.spec.seed)
        return Patients(table, ~valid, valid)

    def held_out(self, data: Patients) -> NDArray[np.bool_]:
        return data.valid

    def workplace(self, data: Patients, prepared: Array) -> Workplace:
        """At the site: what it works with."""
        from unisono.methods.training.workplace import Workplace

        return Workplace.of(self, data, np.asarray(prepared, np.float64))

    def validated_in(self, round: int) -> bool:
        """Whether the model that is broadcast in this round is validated there."""
        return self.validates and (round - 1) % self.spec.validation.every == 0

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution
    def preprocessing(self, data: Patients) -> dict[str, NDArray[Any]]:
        """Of the patients who are trained on: sums and sums of squares of the numbers, numbers of patients by level."""
        from unisono.methods.training.local import load_pytorch

        load_pytorch()  # which takes seconds, and rounds may have a deadline: before the first one
        _ = self.network
        return self.columns.sums(data.table.rows(data.train))

    @preprocessing.declares
    def _(self, facts: Facts) -> Declaration:
        return Declaration(self.columns.leaves(float(max(facts.patients, 1))))

    @contribution
    def evaluation(self, data: Patients, model: Vector, round: int, prepared: Array) -> dict[str, NDArray[Any]]:
        """How well a model predicts this site's validation patients, after `round` rounds."""
        del round  # for methods with personal parts
        return self.evaluated(data, model, prepared)

    @evaluation.declares
    def _(self, facts: Facts, model: Vector, round: int, prepared: Array) -> Declaration:
        del model, round, prepared
        return self.evaluation_declaration(facts)

    @receipt
    def keep(
        self, data: Patients, model: Vector, round: int, rounds: int, prepared: Array, patients: int, filled: Array
    ) -> Kept:
        """The benefit sheet: the joint model on this site's validation patients, against one learned here alone."""
        from unisono.methods.training.benefit import benefit

        del round, patients, filled  # for methods with personal models
        return Kept(benefit(self.workplace(data, prepared), self.scoring, data, model, rounds))

    def evaluated(self, data: Patients, model: Vector, prepared: Array) -> dict[str, NDArray[Any]]:
        """`evaluation` of whichever model the site predicts with."""
        place = self.workplace(data, prepared)
        return self.scoring.part(place, data, model)

    # -- declarations, for the methods' own contributions ---------------------------------------------------------------

    def evaluation_declaration(self, facts: Facts) -> Declaration:
        """Leaves and arguments of an `evaluation`."""
        return Declaration(self.scoring.leaves(facts.patients), self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Limits of what is broadcast in every round: the model, the number of the round, the preprocessing."""
        return {
            "model": within((self.p,), LIMIT),
            "round": within((), self.spec.rounds.most),
            "prepared": within((self.columns.size,), 1.0),
        }

    def leaves(self) -> dict[str, Leaf]:
        """Leaves of a round: the change of the shared part of the model, and beside it the means that tell how it goes."""
        weights, statistics = (int(shared.sum()) for shared in self.shared)
        found = {"update": update((weights,), self.spec.update_bound, "Change of the model's weights, clipped.")}
        if statistics:
            meaning = "Change of the norm layers' running means and variances, clipped."
            found["statistics"] = update((statistics,), STATISTICS_BOUND, meaning)
        return found | self.told()

    def told(self) -> dict[str, Leaf]:
        """What travels beside an update."""
        right = "Share of patients who validate, and whom the model that was sent classifies rightly."
        correct = {"validation_correct": moment((), 1.0, right)} if self._classes else {}
        return correct | {
            "validation_loss": moment((), MOST_LOSS, "Loss of the model that was sent on validation patients."),
            "validation_patients": moment((), 1.0, "Share of patients who validate."),
            "loss": moment((), MOST_LOSS, "Mean loss during local training."),
            "steps": moment((), MOST_STEPS, "Number of local steps."),
            "clipped": moment((), 1.0, "Share of the changes of weights that were clipped."),
        }

    @property
    def _classes(self) -> bool:
        return self.spec.task_of(self.study) in CLASSES

    def plan(self) -> tuple[PlannedAsk, ...]:
        asks = [PlannedAsk(self.preprocessing, (), 1), self.planned()]
        return (*asks, *([PlannedAsk(self.evaluation, self.example(), 2)] if self.validates else []))

    @abstractmethod
    def planned(self) -> PlannedAsk:
        """The method's own contribution."""

    def example(self) -> tuple[Any, ...]:
        """Arguments of a round, for the plan."""
        return np.zeros(self.p, np.float32), 1, np.zeros(self.columns.size)

    # -- what the coordinator does with the sums ----------------------------------------------------------------------

    def begin(self) -> Mapping[str, NDArray[Any]]:
        """What the method carries beside the model, before the first round."""
        return {}

    @abstractmethod
    async def step(self, federation: Federation, progress: Progress) -> Step:
        """The next round, number ``progress.round + 1``."""

    async def run(self, federation: Federation) -> TrainingResult:
        federation.stragglers_after = None if self.spec.rounds.deadline is None else duration(self.spec.rounds.deadline)
        federation.patience = max(federation.patience, federation.deadline)  # sites train alone, for the benefit sheet
        progress = await self._begun(federation)
        while progress.round < self.spec.rounds.most and not progress.stopped:
            progress = await self._round(federation, progress)
            if progress.round % self.spec.rounds.snapshot == 0 and not progress.stopped:
                federation.snapshot(progress.to_tree())
        return await self._ended(federation, progress)

    async def _round(self, federation: Federation, progress: Progress) -> Progress:
        """One round further, or stopped."""
        try:
            step = await self.step(federation, progress)
        except ParticipationError as error:
            if error.rule != "enough-sites" or progress.best_round == 0:
                raise
            # Too many sites abstained. This round was not opened and never will be: a replay must not ask for it again.
            stopped = replace(progress, stopped="abstained", why=error.what)
            federation.snapshot(stopped.to_tree())
            return stopped
        known = self._known(progress, step.answered.validation, step.answered.correct)
        why = known.exploded(step.answered, step.model)
        if why is not None:
            return self._saved(known, why)
        patience = self.spec.validation.patience
        if patience is not None and known.since >= patience:
            return replace(known, stopped="early")
        if not self.validates:
            known = replace(known, best=known.model, best_round=known.round)
        return known.next(step.model, step.memory, step.answered)

    async def _begun(self, federation: Federation) -> Progress:
        saved = federation.restored()
        if saved is not None:
            return Progress.from_tree(saved)
        sums = await federation.sum(self.preprocessing)
        if not float(sums["patients"]):
            raise MethodError(
                "There is no patient to train on.",
                rule="training-patients",
                remedy="Choose a smaller `validate: fraction`.",
            )
        validating = federation.facts.patients - round(float(sums["patients"]))
        least = self.study.release.min_count
        if not self.alone:
            self.columns.check_varies(sums)
            _check_validating(validating, least)
        prepared = self.columns.prepared(sums, self.spec.preprocess.numbers, least)
        first = self.network.first
        return Progress(0, first, self.begin(), prepared, first, validating=validating)

    def answered(self, mean: Mapping[str, NDArray[Any]], federation: Federation) -> Answered:
        """What a round's opened mean says beside the update."""
        share = float(mean["validation_patients"])
        validated = share > 1e-9
        return Answered(
            loss=float(mean["loss"]),
            steps=float(mean["steps"]),
            validation=float(mean["validation_loss"]) / share if validated else None,
            correct=float(mean["validation_correct"]) / share if validated and self._classes else None,
            counted=tuple(federation.counted),
            clipped=float(mean["clipped"]),
        )

    def moved(self, model: Vector, mean: Mapping[str, NDArray[Any]], weights: NDArray[Any] | None = None) -> Vector:
        """The model plus the mean change; of the weights plus `weights` instead, if a method's server makes its own step."""
        moved = model.astype(np.float64)
        moved[self.shared[0]] += mean["update"] if weights is None else weights
        if "statistics" in mean:
            moved[self.shared[1]] += mean["statistics"]
        return moved.astype(np.float32)

    def _known(self, progress: Progress, validation: float | None, correct: float | None) -> Progress:
        """With what the round said of the model that it broadcast."""
        value = validation
        if self.spec.validation.metric == "accuracy" and correct is not None:
            value = -correct
        return progress.validated(value, validation, correct)

    def _saved(self, progress: Progress, why: str) -> Progress:
        """The best model before an explosion. `MethodError` if there is none better than the first one."""
        if progress.best_round == 0:
            raise MethodError(
                f"The training diverged in round {progress.round + 1}: {why}.",
                rule="diverged",
                remedy="Use a smaller `local: rate`, `local: {clip: 1.0}`, or fewer local steps in a round.",
            )
        return replace(progress, stopped="diverged", why=why)

    async def _ended(self, federation: Federation, progress: Progress) -> TrainingResult:
        """Evaluate, let the sites keep what is theirs, and make the result."""
        total, complete = None, True
        if self.validates and not progress.stopped:
            total = await federation.sum(self.evaluation, progress.model, progress.round, progress.prepared)
            complete = self.scoring.complete(total, progress.validating)
            progress = self._known(progress, *self.scoring.losses(total)) if complete else progress
        elif not progress.stopped:
            progress = replace(progress, best=progress.model, best_round=progress.round)
        if self.validates and (total is None or progress.best_round != progress.round):
            total = await federation.sum(self.evaluation, progress.best, progress.best_round, progress.prepared)
            complete = self.scoring.complete(total, progress.validating)
        facts = federation.facts
        filled = np.array([facts.imputed.get(name, np.nan) for name in self.spec.features])
        rounds = (progress.best_round, progress.round)
        await federation.tell(self.keep, progress.best, *rounds, progress.prepared, facts.patients, filled)
        metrics = None if total is None or not complete else self.scoring.metrics(total)
        ending = Ending(progress.stopped, progress.why, metrics, federation.sites, facts, complete)
        return TrainingResult.of(self, progress, ending)

    def imputed(self, filled: Array) -> dict[str, float]:
        """What fills the gaps of features, from the array that a `keep` is told: NaN where nothing does."""
        known = zip(self.spec.features, np.asarray(filled).tolist(), strict=True)
        return {name: value for name, value in known if not np.isnan(value)}

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> TrainingResult:
        return TrainingResult(study, analysis, estimates, **rest)


def _check_validating(patients: int, least: int) -> None:
    """`MethodError` (``validation-patients``) unless enough patients of all sites validate, or none."""
    if 0 < patients < least:
        raise MethodError(
            f"Fewer than {least} patients of all hospitals together would validate: too few for what a round tells of them.",
            rule="validation-patients",
            remedy="Choose a larger `validate: fraction`, or 0 for a training without validation.",
        )
