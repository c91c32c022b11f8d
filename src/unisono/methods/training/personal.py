"""Personal models: what a site keeps of the model for itself, from round to round, and predicts its own patients with.

The part is in the site's memory and never leaves it. The model that a training gives is that of its best round, which is known
two rounds later; so a site remembers its part as it is (`mine`), as it was a round before, and as it was in the best round.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from unisono.federation.contribution import (
    BoundContribution,
    Declaration,
    Facts,
    Kept,
    Memory,
    contribution_with_memory,
    receipt_with_memory,
    within,
)
from unisono.methods.base import PlannedAsk
from unisono.methods.training.data import Patients
from unisono.methods.training.spec import TrainingSpec
from unisono.methods.training.training import Training
from unisono.study.document import Study
from unisono.study.problems import Problem

if TYPE_CHECKING:
    from unisono.methods.training.models.vector import Entry

S = TypeVar("S", bound=TrainingSpec)
Vector = NDArray[np.float32]
Array = NDArray[np.float64]


class Personal(Training[S]):
    """A method whose sites have a part of the model (or all of one) of their own."""

    personal: ClassVar[bool] = True

    def kept(self, entry: Entry) -> bool:
        """Whether a tensor is in the site's memory: what is its own; for a method with whole personal models every tensor."""
        return self.own(entry)

    @cached_property
    def own_part(self) -> NDArray[np.bool_]:
        """(p,) where a site's own numbers are."""
        return self.network.layout.mask(self.kept)

    # -- at a site ------------------------------------------------------------------------------------------------------

    def assembled(self, model: Vector, memory: Memory, round: int) -> Vector:
        """(p,) the model that was broadcast after `round` rounds, with this site's part as it was then."""
        whole = np.array(model, np.float32)
        whole[self.own_part] = self.part_of(memory, round)
        return whole

    def part_of(self, memory: Memory, round: int) -> Vector:
        """This site's part as it was after `round` rounds, for the last two and the best: a site that was not in a round has
        the part that it had before."""
        if not memory:
            return self.network.first[self.own_part]
        trained, best = (int(k) for k in memory["rounds"])
        if round >= trained:
            return np.asarray(memory["mine"])
        return np.asarray(memory["best"] if round == best else memory["before"])

    def remembered(self, memory: Memory, mine: Vector, round: int, best: int) -> Memory:
        """The memory after round `round`, with the new part `mine` (k,). best: the best round so far."""
        return {
            "mine": mine.astype(np.float32),
            "before": self.part_of(memory, round - 1),
            "best": self.part_of(memory, best),
            "rounds": np.array([round, best]),
        }

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution_with_memory
    def evaluation(
        self, data: Patients, memory: Memory, model: Vector, round: int, prepared: Array
    ) -> tuple[dict[str, NDArray[Any]], Memory]:
        """How well this site's own version of the model predicts its validation patients, after `round` rounds."""
        return self.evaluated(data, self.assembled(model, memory, round), prepared), memory

    @evaluation.declares
    def _(self, facts: Facts, model: Vector, round: int, prepared: Array) -> Declaration:
        del model, round, prepared
        return self.evaluation_declaration(facts)

    @receipt_with_memory
    def keep(
        self,
        data: Patients,
        memory: Memory,
        model: Vector,
        round: int,
        rounds: int,
        prepared: Array,
        patients: int,
        filled: Array,
    ) -> Kept:
        """This site's personal model, as files; and the benefit sheet: it on this site's validation patients, against one learned
        here alone."""
        from unisono.methods.training.benefit import benefit
        from unisono.methods.training.network import model_files

        place, whole = self.workplace(data, prepared), self.assembled(model, memory, round)
        sheet = benefit(place, self.scoring, data, whole, rounds, personal=True)
        facts = Facts(patients, self.imputed(filled))
        files = model_files(self, place.network, whole, place.prepared, facts, round, ("this hospital",))
        return Kept(sheet, {name: np.frombuffer(content, np.uint8) for name, content in files.items()})

    # -- the ask --------------------------------------------------------------------------------------------------------

    def with_best(self) -> dict[str, Any]:
        """Limits of what is broadcast: the best round so far, too."""
        return self.arguments() | {"best": within((), self.spec.rounds.most)}

    def planned_with_best(self, asked: BoundContribution[..., Any]) -> PlannedAsk:
        """The plan of an `update`."""
        return PlannedAsk(asked, (*self.example(), 0), self.spec.rounds.most)


def nothing_shared(spec: TrainingSpec, study: Study, own: Any, missing: Problem) -> list[Problem]:
    """`missing` if no tensor is a site's own by the predicate `own`; a problem too if all are."""
    from unisono.methods.training.network import Network
    from unisono.methods.training.preprocessing import Columns

    layout = Network.of(study, spec, Columns.of(study, spec)).layout
    mine = layout.mask(own)
    if not mine.any():
        return [missing]
    if mine[: layout.weights].all():
        what = "Nothing of this model is shared between the sites: all of it would be each site's own."
        return [Problem(("model",), what, "shared-part", "Choose a model with hidden layers, or another method.")]
    return []
