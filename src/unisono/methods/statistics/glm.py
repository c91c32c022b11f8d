"""Generalised linear models: linear, logistic and poisson regression, equal to the pooled fit.

McCullagh & Nelder, *Generalized Linear Models*, 2nd ed. (1989). Canonical links; Newton's method on sums over hospitals
of the score and the information. Coefficients, standard errors, p-values (from the normal distribution, for every
family) and log-likelihoods are those of statsmodels' ``GLM``; `weights` are its ``var_weights``.

What leaves a hospital, as part of a sum: once `totals` (how many patients, outcomes and weights), and a few times
`normal_equations` (score, information, deviance at coefficients that everybody sees).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.errors import MethodError
from unisono.federation.contribution import Declaration, Facts, contribution, within
from unisono.methods.base import Method, PlannedAsk, Spec
from unisono.methods.design import Design, covariate_problems, unknown_variable, variables_of
from unisono.methods.registry import method
from unisono.methods.statistics import glm_checks
from unisono.methods.statistics.families import EXPECTED_CAP, FAMILIES, Bounds, FamilyName, Room
from unisono.methods.statistics.glm_result import GlmResult, estimates
from unisono.methods.statistics.irls import LIMIT, Climb, NormalEquations, climb
from unisono.protection.leaves import count, moment
from unisono.study.document import BooleanVariable, NumberVariable, Study
from unisono.study.problems import Problem
from unisono.study.table import Table

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

MOST_ASKS = 60
"""Sums of the normal equations in one analysis; a fit takes 4 to 8."""


class GlmSpec(Spec):
    """Parameters of a GLM.

    offset: a number variable added to the linear predictor. exposure: a positive number (person-time); its logarithm is
    the offset. weights: a positive number variable; a patient of weight 2 has half the variance.
    ridge: the fit maximises ``log-likelihood - ridge/2 * sum(coefficient^2)`` in study units, the intercept left out.
    """

    outcome: str
    family: FamilyName
    covariates: list[str] = Field(min_length=1)
    offset: str | None = None
    exposure: str | None = None
    weights: str | None = None
    ridge: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)

    def problems(self, study: Study) -> list[Problem]:
        return [
            *covariate_problems(study, self.covariates),
            *glm_checks.outcome_problems(study, self.family, self.outcome, variables_of(self.covariates)),
            *self._number_problems(study),
        ]

    def _number_problems(self, study: Study) -> list[Problem]:
        found: list[Problem] = []
        for key, name in (("offset", self.offset), ("exposure", self.exposure), ("weights", self.weights)):
            if name is None:
                continue
            variable = study.variables.get(name)
            if variable is None:
                found.append(unknown_variable((key,), name, study))
            elif not isinstance(variable, NumberVariable):
                found.append(
                    Problem((key,), f"{name!r} is not a number.", "number-variable", "Name a number variable.")
                )
            elif key != "offset" and variable.min <= 0:
                remedy = f"Declare a `min` above 0 for {name!r}."
                found.append(
                    Problem((key,), f"{name!r} may be 0 or less, and {key} must be positive.", "positive", remedy)
                )
        if self.exposure is not None and (self.offset is not None or self.family != "poisson"):
            what = "`exposure` goes with the poisson family, and not together with `offset`."
            remedy = "Remove `exposure`, or give the logarithm of the exposure as the only `offset`."
            found.append(Problem(("exposure",), what, "exposure-of-counts", remedy))
        return found


@dataclass(frozen=True)
class GlmData:
    """One site's patients: z (n, q) scaled columns, the intercept first; y, offset, weight (n,) on the fitted scale."""

    z: Matrix
    y: Vector
    offset: Vector
    weight: Vector


@dataclass(frozen=True)
class Totals:
    """Sums that do not depend on coefficients. y is scaled to [-1, 1] for the gaussian family.

    patients, events (): counts; events are patients with the outcome (binomial) or counted events (poisson), else 0.
    held (k,): patients with each indicator of the design. weight, outcome, saturated (): weighted sums of 1, y and the
    log-likelihood of a perfect fit. offset (): weighted sum of the offset (poisson: of its exponential).
    log_weight (): sum of the logarithms of the weights.
    """

    patients: NDArray[np.float64]
    events: NDArray[np.float64]
    held: Vector
    weight: NDArray[np.float64]
    outcome: NDArray[np.float64]
    offset: NDArray[np.float64]
    saturated: NDArray[np.float64]
    log_weight: NDArray[np.float64]


@method("glm", version=1, spec=GlmSpec)
class GeneralisedLinearModel(Method[GlmSpec]):
    """A GLM with a common intercept, by Newton's method with step halving (McCullagh & Nelder 1989, section 2.5)."""

    pooled = "exact"

    def __init__(self, study: Study, analysis: str, spec: GlmSpec) -> None:
        super().__init__(study, analysis, spec)
        self.family = FAMILIES[spec.family]
        self.design = Design(study, spec.covariates)
        self.names = ("intercept", *self.design.names)
        self.q = len(self.names)
        self.indicators = [j + 1 for j, c in enumerate(self.design.columns) if c.indicator]
        self.scale = _OutcomeScale.of(study, spec)
        self.floor = np.array([1.0, *(0.0 if c.indicator else -1.0 for c in self.design.columns)])

    def variables(self) -> tuple[str, ...]:
        extra = (self.spec.offset, self.spec.exposure, self.spec.weights)
        names = (self.spec.outcome, *variables_of(self.spec.covariates), *(name for name in extra if name))
        return tuple(dict.fromkeys(names))

    @property
    def parameters(self) -> int:
        return self.q

    def prepare(self, table: Table) -> GlmData:
        z = np.hstack([np.ones((table.n, 1)), self.design.matrix(table)])
        y = (table[self.spec.outcome] - self.scale.centre) / self.scale.half
        offset = np.zeros(table.n)
        if self.spec.offset:
            offset = table[self.spec.offset] / self.scale.half
        if self.spec.exposure:
            offset = np.log(table[self.spec.exposure])
        weight = table[self.spec.weights] if self.spec.weights else np.ones(table.n)
        return GlmData(z, y, offset, weight)

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution
    def totals(self, data: GlmData) -> Totals:
        """How many patients, outcomes and holders of each indicator, and the sums of weights and outcomes."""
        w, poisson = data.weight, self.spec.family == "poisson"
        return Totals(
            patients=np.asarray(len(data.y)),
            events=np.asarray(0 if self.spec.family == "gaussian" else data.y.sum()),
            held=data.z[:, self.indicators].sum(axis=0),
            weight=np.asarray(w.sum()),
            outcome=np.asarray(w @ data.y),
            offset=np.asarray(w @ (np.exp(data.offset) if poisson else data.offset)),
            saturated=np.asarray(w @ self.family.saturated(data.y)),
            log_weight=np.asarray(np.log(w).sum()),
        )

    @totals.declares
    def _(self, facts: Facts) -> Declaration:
        n, scale = float(facts.patients), self.scale
        mass = n * scale.heaviest
        low, high = scale.offset
        offset = math.exp(high) if self.spec.family == "poisson" else max(abs(low), abs(high), 1.0)
        perfect = 0.5 * math.log(2 * math.pi * max(scale.most, 1.0)) + 1.0  # Stirling: y log y - y - log y!
        return Declaration(
            {
                "patients": count((), n, "Number of patients."),
                "events": count(
                    (), n * max(scale.most, 1.0), "Number of patients with the outcome, or of counted events."
                ),
                "held": count((len(self.indicators),), n, "Number of patients with each level of the covariates."),
                "weight": moment((), mass, "Sum of the weights."),
                "outcome": moment((), mass * scale.most, "Weighted sum of the outcome."),
                "offset": moment((), mass * offset, "Weighted sum of the offset (of the exposure, for counts)."),
                "saturated": moment((), mass * perfect, "Log-likelihood of a perfect fit."),
                "log_weight": moment((), n * max(scale.log_weight, 1.0), "Sum of the logarithms of the weights."),
            }
        )

    @contribution
    def normal_equations(self, data: GlmData, beta: Vector, expected: float) -> NormalEquations:
        """Score (q,), information (q, q) and goodness of fit of this site's patients at the coefficients `beta`."""
        bounds, w = self._bounds(float(data.weight.sum()), beta, expected), data.weight
        with np.errstate(over="ignore", invalid="ignore"):  # a step that is too long: what is not finite is not added
            eta = data.z @ beta + data.offset
            variance = w * self.family.variance(eta)
            total = float(variance.sum())
            pearson = float(w @ self.family.pearson(data.y, eta))
        if self.spec.family == "poisson" and not total <= EXPECTED_CAP * expected:
            none = np.zeros(())
            return NormalEquations(np.zeros((self.q, self.q)), np.zeros(self.q), none, none, np.array([1, 1]))
        much = not pearson <= bounds.pearson * (1 + 1e-9)
        return NormalEquations(
            information=data.z.T @ (data.z * variance[:, None]),
            score=data.z.T @ (w * (data.y - self.family.mean(eta))),
            deviance=np.asarray(w @ self.family.deviance(data.y, eta)),
            pearson=np.asarray(0.0 if much else pearson),
            over=np.array([0, int(much)]),
        )

    @normal_equations.declares
    def _(self, facts: Facts, beta: Vector, expected: float) -> Declaration:
        q, mass = self.q, facts.patients * self.scale.heaviest
        bounds = self._bounds(mass, np.asarray(beta), expected)
        total = mass * self.scale.most if self.spec.family == "poisson" else 0.0
        return Declaration(
            arguments={"beta": within((q,), LIMIT), "expected": within((), total)},
            leaves={
                "information": moment((q, q), bounds.information, "Fisher information of the coefficients."),
                "score": moment((q,), bounds.score, "Gradient of the log-likelihood in the coefficients."),
                "deviance": moment((), bounds.deviance, "How far the fit is from the outcomes, over all patients."),
                "pearson": moment((), bounds.pearson, "Sum of squared standardised residuals."),
                "over": count((2,), 1, "Whether this site left its sums out, because they passed the cap."),
            },
        )

    def _bounds(self, mass: float, beta: Vector, expected: float) -> Bounds:
        ends = np.stack([beta * self.floor, beta])
        low, high = self.scale.offset
        room = Room(
            mass, float(ends.min(axis=0).sum()) + low, float(ends.max(axis=0).sum()) + high, self.scale.most, expected
        )
        return self.family.bounds(room)

    def plan(self) -> tuple[PlannedAsk, ...]:
        expected = 1.0 if self.spec.family == "poisson" else 0.0
        return (
            PlannedAsk(self.totals, (), 1),
            PlannedAsk(self.normal_equations, (np.zeros(self.q), expected), MOST_ASKS),
        )

    # -- what the coordinator does with the sums ----------------------------------------------------------------------

    async def run(self, federation: Federation) -> GlmResult:
        totals = await federation.sum(self.totals)
        names = self.names
        glm_checks.enough(self.study, self.spec.outcome, self.spec.family, self.design, totals)
        expected = float(totals.outcome) if self.spec.family == "poisson" else 0.0
        asked = 0

        async def ask(beta: Vector) -> NormalEquations:
            nonlocal asked
            asked += 1
            if asked > MOST_ASKS:
                raise MethodError(
                    f"The fit has not settled after {MOST_ASKS} sums.",
                    rule="convergence",
                    remedy="Use fewer covariates, merge rare levels, or set `ridge` above 0.",
                )
            return await federation.sum(self.normal_equations, beta, expected)

        beta = np.zeros(self.q)
        beta[0] = np.clip(self._intercept(totals), -LIMIT, LIMIT)
        start = Climb(beta, await ask(beta), 0)
        null = await climb(ask, start, [0], np.zeros(self.q), names)
        glm_checks.varying(null.sums, self.spec, self.design)
        fit = await climb(ask, null, range(self.q), self.penalty(), names)
        found, notes = estimates(self, totals, null, fit)
        return GlmResult(self.study, self.analysis, found, True, notes)

    def _intercept(self, totals: Totals) -> float:
        """Of the model without covariates: exact, but for the binomial with an offset, where it is a start."""
        mean = float(totals.outcome) / float(totals.weight)
        if self.spec.family == "poisson":
            return math.log(float(totals.outcome) / float(totals.offset))
        shift = float(totals.offset) / float(totals.weight)
        return (math.log(mean / (1 - mean)) if self.spec.family == "binomial" else mean) - shift

    def penalty(self) -> Vector:
        """(q,) on the scaled columns: a coefficient in study units is ``outcome half-range * beta / half-range``, and
        the gaussian log-likelihood (at dispersion 1) is in squared outcome half-ranges, which cancel."""
        return np.array([0.0, *(self.spec.ridge / self.design.half**2)])

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> GlmResult:
        return GlmResult(study, analysis, estimates, **rest)


@dataclass(frozen=True)
class _OutcomeScale:
    """From study units to the fitted scale, and what the declarations say about sizes there.

    centre, half: y = (outcome - centre) / half. most: largest |y|. offset: its interval. heaviest: largest weight.
    log_weight: largest |log weight|.
    """

    centre: float
    half: float
    most: float
    offset: tuple[float, float]
    heaviest: float
    log_weight: float

    @staticmethod
    def of(study: Study, spec: GlmSpec) -> _OutcomeScale:
        variable = study.variables[spec.outcome]
        centre, half, most = 0.0, 1.0, 1.0
        if isinstance(variable, NumberVariable):
            most = variable.max
            if spec.family == "gaussian":
                centre, half, most = (variable.min + variable.max) / 2, (variable.max - variable.min) / 2, 1.0
        else:
            assert isinstance(variable, BooleanVariable)
        offset = (0.0, 0.0)
        if spec.offset:
            low, high = _range(study, spec.offset)
            offset = (low / half, high / half)
        if spec.exposure:
            low, high = _range(study, spec.exposure)
            offset = (math.log(low), math.log(high))
        light, heavy = _range(study, spec.weights) if spec.weights else (1.0, 1.0)
        return _OutcomeScale(centre, half, most, offset, heavy, max(abs(math.log(light)), abs(math.log(heavy))))


def _range(study: Study, name: str) -> tuple[float, float]:
    variable = study.variables[name]
    assert isinstance(variable, NumberVariable)
    return variable.min, variable.max
