"""Cox proportional hazards (Cox 1972), federated: hospitals sum scores and information matrices; Newton-Raphson does the rest.

`baseline: per-site` (the default) gives each hospital its own baseline hazard: one sum an iteration, and no risk set ever
leaves. `baseline: common` shares one baseline on the declared grid, as in Lu et al. (2015, WebDISCO): two sums an
iteration, whose risk-set sums are open to the coordinator at each event time. Ties: Efron (1977) or Breslow (1974).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.federation.contribution import Declaration, Facts, contribution, receipt, within
from unisono.methods.base import Method, PlannedAsk
from unisono.methods.design import Design, Matrix, Vector, variables_of
from unisono.methods.registry import method
from unisono.methods.survival import partial_likelihood as likelihood
from unisono.methods.survival.baseline import Baseline
from unisono.methods.survival.concordance import Pairs, pairs
from unisono.methods.survival.cox_checks import answerable, scale_of
from unisono.methods.survival.cox_estimates import Found, estimates_of
from unisono.methods.survival.cox_result import CoxResult
from unisono.methods.survival.cox_solvers import CommonBaseline, PerSiteBaseline, steep
from unisono.methods.survival.cox_spec import CoxSpec
from unisono.methods.survival.cox_sums import Derivatives, RiskSets, TimeDerivatives, Totals
from unisono.methods.survival.fit import LIMIT, MAX_STEPS, maximise
from unisono.methods.survival.follow_up import Axis
from unisono.methods.survival.proportional_hazards import time_function
from unisono.methods.survival.risk_sets import RiskData, pack_symmetric, risk_data
from unisono.protection.leaves import count, curve, moment
from unisono.study.document import NumberVariable, Study
from unisono.study.table import Table

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

_COUNTABLE = 2.0**46
"""Numbers of pairs above this are carried rounded, as a moment."""


@dataclass(frozen=True)
class Cohort:
    """A site's patients: in order of exit for the sums; number covariates as `numbers` (v,) sums within [-1, 1]."""

    risk: RiskData
    numbers: Vector
    _ordered: dict[bytes, Pairs] = field(default_factory=dict)

    def pairs(self, beta: Vector) -> Pairs:
        """Pairs of this site's own patients by the order of risk at `beta`; kept, as it is wanted twice and not cheap."""
        key = np.asarray(beta, np.float64).tobytes()
        if key not in self._ordered:
            self._ordered.clear()
            self._ordered[key] = pairs(self.risk, beta @ self.risk.z)
        return self._ordered[key]


@method("cox", version=1, spec=CoxSpec)
class CoxRegression(Method[CoxSpec]):
    """Cox regression with each hospital's own baseline hazard, or a common one."""

    pooled = "exact"

    def __init__(self, study: Study, analysis: str, spec: CoxSpec) -> None:
        super().__init__(study, analysis, spec)
        self.axis = Axis.of(study, analysis, spec)
        self.design = Design(study, spec.covariates)
        self.p = self.design.p
        self.packed = self.p * (self.p + 1) // 2
        self.efron = spec.ties == "efron"
        self.common = spec.baseline == "common"
        self.at = [self.axis.position(t) for t in spec.at]
        self.g = None if spec.ph_check == "none" else time_function(spec.ph_check, self.axis.length)
        self.indicators = [j for j, column in enumerate(self.design.columns) if column.indicator]
        self.numbers = [
            (k, v) for k in variables_of(spec.covariates) if isinstance(v := study.variables[k], NumberVariable)
        ]
        weights = study.variables[spec.weights] if spec.weights else None
        self.heaviest = weights.max if isinstance(weights, NumberVariable) else 1.0

    @property
    def parameters(self) -> int:
        """Coefficients."""
        return self.p

    def variables(self) -> tuple[str, ...]:
        """Time, event, entry, weights and the variables of the covariates."""
        weights = (self.spec.weights,) if self.spec.weights else ()
        return tuple(dict.fromkeys((*self.spec.time_variables(), *weights, *variables_of(self.spec.covariates))))

    def prepare(self, table: Table) -> Cohort:
        """Patients in order of exit, covariates within [-1, 1]."""
        risk = risk_data(self.design, self.axis, table, self.spec.weights)
        if self.spec.weights:
            table = table.rows(table[self.spec.weights] > 0)
        scaled = [
            float(((table[name] - (v.min + v.max) / 2) / ((v.max - v.min) / 2)).sum()) for name, v in self.numbers
        ]
        return Cohort(risk, np.array(scaled, np.float64))

    # -- what leaves a hospital, as part of a sum --------------------------------------------------------------------------

    @contribution
    def totals(self, data: Cohort) -> Totals:
        """Numbers of patients, of events, of patients with each level; sums of number covariates; events and exits along the
        grid of times."""
        risk, k, none = data.risk, self.axis.length, np.zeros(0)
        event_sum = event_time_sum = none
        if self.common:
            event_z = risk.z[:, risk.rows]
            event_sum = event_z @ likelihood.event_values(risk)
            event_time_sum = none if self.g is None else event_z @ likelihood.event_values(risk, self.g)
        return Totals(
            patients=np.array(float(risk.n)),
            events=np.array(float(len(risk.rows))),
            holders=np.array([(risk.z[j] == 1.0).sum() for j in self.indicators], np.float64),
            numbers=data.numbers,
            exits=np.bincount(risk.exit, minlength=k).astype(np.float64),
            deaths=risk.deaths.astype(np.float64),
            entries=none if risk.entry is None else np.bincount(risk.entry, minlength=k).astype(np.float64),
            death_weight=none if risk.weight is None else likelihood.event_weight(risk),
            event_sum=event_sum,
            event_time_sum=event_time_sum,
        )

    @totals.declares
    def _(self, facts: Facts) -> Declaration:
        n, k = float(max(facts.patients, 1)), self.axis.length
        in_common = self.p if self.common else 0
        return Declaration(
            {
                "patients": count((), n, "Number of patients."),
                "events": count((), n, "Number of events."),
                "holders": count((len(self.indicators),), n, "Number of patients with each level of a category."),
                "numbers": moment(
                    (len(self.numbers),), n, "Sum of each number covariate, scaled by its declared bounds."
                ),
                "exits": curve((k,), n, "Number of patients whose follow-up ends at each time of the grid."),
                "deaths": curve((k,), n, "Number of events at each time of the grid."),
                "entries": curve(
                    (k if self.spec.entry else 0,), n, "Number of patients who enter at each time of the grid."
                ),
                "death_weight": moment(
                    (k if self.spec.weights else 0,), n * self.heaviest, "Case weight of the events at each time."
                ),
                "event_sum": moment(
                    (in_common,), n * self.heaviest, "Sum of each covariate over patients with the event."
                ),
                "event_time_sum": moment(
                    (in_common if self.g is not None else 0,),
                    n * self.heaviest,
                    "The same sum, times a function of time.",
                ),
            }
        )

    @contribution
    def derivatives(self, data: Cohort, beta: Vector) -> Derivatives:
        """Score, information and log partial likelihood of this site's patients at `beta`."""
        sums, terms = self._site_terms(data.risk, beta)
        return Derivatives(
            likelihood.score(data.risk, sums, terms),
            pack_symmetric(likelihood.information(data.risk, sums, terms)),
            np.array(likelihood.log_likelihood(data.risk, sums, terms)),
        )

    @derivatives.declares
    def _(self, facts: Facts, beta: Vector) -> Declaration:
        n = max(facts.patients, 2)
        weight = n * self.heaviest
        log = 2 * float(np.abs(beta).sum()) + 2 * math.log(n) + abs(math.log(self.heaviest))
        return Declaration(
            arguments={"beta": within((self.p,), LIMIT)},
            leaves={
                "score": moment(
                    (self.p,), 2 * weight, "Sum over events of covariates less their mean among those at risk."
                ),
                "information": moment(
                    (self.packed,), weight, "Sum over events of covariances of covariates among those at risk."
                ),
                "log_likelihood": moment((), weight * log + n, "Log partial likelihood."),
            },
        )

    @contribution
    def time_derivatives(self, data: Cohort, beta: Vector) -> TimeDerivatives:
        """For the check of proportional hazards: score and information of covariates times a function of time."""
        assert self.g is not None
        sums, terms = self._site_terms(data.risk, beta)
        return TimeDerivatives(
            likelihood.score(data.risk, sums, terms, self.g),
            pack_symmetric(likelihood.information(data.risk, sums, terms.times(self.g))),
            pack_symmetric(likelihood.information(data.risk, sums, terms.times(self.g**2))),
        )

    @time_derivatives.declares
    def _(self, facts: Facts, *_: Vector) -> Declaration:
        weight = max(facts.patients, 1) * self.heaviest
        packed = moment(
            (self.packed,), weight, "Covariances of covariates among those at risk, times a function of time."
        )
        score = moment((self.p,), 2 * weight, "Score, each event times a function of time.")
        return Declaration({"score": score, "cross": packed, "square": packed}, {"beta": within((self.p,), LIMIT)})

    @contribution
    def risk_sets(self, data: Cohort, beta: Vector, at_risk: Vector, deaths: Vector) -> RiskSets:
        """For a common baseline: sums of relative risks, and of covariates times relative risks, over the patients at risk at
        each time with an event; and over tied events."""
        del at_risk  # bounds the sums, in the declaration
        sums = likelihood.risk_sums(data.risk, beta, centred=False)
        some, several = deaths > 0, deaths > 1
        if not self.efron:
            return RiskSets(sums.s0 * some, sums.s1 * some, np.zeros(0), np.zeros((self.p, 0)))
        return RiskSets(sums.s0 * some, sums.s1 * some, sums.t0 * several, sums.t1 * several)

    @risk_sets.declares
    def _(self, facts: Facts, beta: Vector, at_risk: Vector, deaths: Vector) -> Declaration:
        s, t = self._along_grid(beta, at_risk), self._along_grid(beta, deaths if self.efron else np.zeros(0))
        return Declaration(
            arguments=self._grid_arguments(facts),
            leaves={
                "s0": moment(s.shape, s, "Sum of relative risks of the patients at risk at each event time."),
                "s1": moment((self.p, *s.shape), np.tile(s, (self.p, 1)), "The same, times each covariate."),
                "t0": moment(t.shape, t, "Sum of relative risks of tied events at each time."),
                "t1": moment((self.p, *t.shape), np.tile(t, (self.p, 1)), "The same, times each covariate."),
            },
        )

    @contribution
    def information(
        self, data: Cohort, beta: Vector, at_risk_factor: Vector, event_factor: Vector
    ) -> dict[str, Vector]:
        """For a common baseline: squares and products of covariates, each patient weighted by relative risk and by the told
        factors of the times at which the patient was at risk."""
        risk = likelihood.relative_risk(data.risk, beta)
        return {"products": pack_symmetric(likelihood.products(data.risk, risk, at_risk_factor, event_factor))}

    @information.declares
    def _(self, facts: Facts, beta: Vector, *_: Vector) -> Declaration:
        n, k = max(facts.patients, 1), self.axis.length
        factor = within((k,), n * steep(beta))
        return Declaration(
            {"products": moment((self.packed,), 2 * n * self.heaviest, "Weighted squares and products of covariates.")},
            {"beta": within((self.p,), LIMIT), "at_risk_factor": factor, "event_factor": factor},
        )

    @contribution
    def hazard_sums(self, data: Cohort, beta: Vector, at_risk: Vector, deaths: Vector) -> dict[str, Vector]:
        """For absolute survival: the sum of relative risks of the patients at risk at each time with an event."""
        del at_risk  # bounds the sum, in the declaration
        return {"s0": data.risk.over_risk_sets(likelihood.relative_risk(data.risk, beta)) * (deaths > 0)}

    @hazard_sums.declares
    def _(self, facts: Facts, beta: Vector, at_risk: Vector, *_: Vector) -> Declaration:
        s = self._along_grid(beta, at_risk)
        leaf = moment(s.shape, s, "Sum of relative risks of the patients at risk at each event time.")
        return Declaration({"s0": leaf}, self._grid_arguments(facts))

    @contribution
    def hazard_slopes(self, data: Cohort, beta: Vector, increments: Vector, s0: Vector) -> dict[str, Matrix]:
        """For the precision of absolute survival: covariates times relative risks, cumulated to each requested time."""
        risk = likelihood.relative_risk(data.risk, beta)
        multipliers = Baseline(increments, s0, np.zeros((0, 0))).multipliers
        until = np.arange(self.axis.length)
        spread = (data.risk.spread(np.where(until <= k, multipliers, 0.0), np.zeros_like(multipliers)) for k in self.at)
        return {"slopes": np.array([data.risk.z @ (risk * s) for s in spread]).T.reshape(self.p, len(self.at))}

    @hazard_slopes.declares
    def _(self, facts: Facts, beta: Vector, increments: Vector, *_: Vector) -> Declaration:
        n, k = max(facts.patients, 1), self.axis.length
        bound = max(2 * float(np.sum(increments)), 1e-9)
        leaf = moment(
            (self.p, len(self.at)), bound, "Mean covariates of those at risk, weighted by the hazard to each time."
        )
        most = steep(beta)
        arguments = {"increments": within((k,), n * most), "s0": within((k,), n * self.heaviest * most)}
        return Declaration({"slopes": leaf}, {"beta": within((self.p,), LIMIT), **arguments})

    @contribution
    def concordance(self, data: Cohort, beta: Vector) -> Pairs:
        """Of the pairs of this site's own patients, in how many the one with the higher risk had the event first."""
        return data.pairs(beta)

    @concordance.declares
    def _(self, facts: Facts, *_: Vector) -> Declaration:
        bound = max(facts.patients, 2) ** 2 / 2
        leaf = count if bound < _COUNTABLE else moment
        return Declaration(
            {
                "concordant": leaf((), bound, "Pairs within the hospital that the model orders rightly."),
                "discordant": leaf((), bound, "Pairs within the hospital that the model orders wrongly."),
                "tied": leaf((), bound, "Pairs within the hospital with the same predicted risk."),
            },
            {"beta": within((self.p,), LIMIT)},
        )

    @receipt
    def site_sheet(self, data: Cohort, beta: Vector) -> dict[str, Any]:
        """For the site's own folder: its own numbers, and how well the federation's model orders its own patients."""
        own = data.pairs(beta)
        return {"n": data.risk.n, "events": len(data.risk.rows), "c_index": own.index}

    def _site_terms(self, risk: RiskData, beta: Vector) -> tuple[likelihood.RiskSums, likelihood.TieTerms]:
        sums = likelihood.risk_sums(risk, beta)
        weight = likelihood.event_weight(risk)
        return sums, likelihood.tie_terms(sums.s0, sums.t0, risk.deaths, weight, efron=self.efron)

    def _along_grid(self, beta: Vector, number: Vector) -> Vector:
        """(k,) bounds of sums over `number` patients at each time; where there is nobody the sum is 0, and any bound holds."""
        return np.maximum(np.asarray(number, np.float64), 1e-6) * self.heaviest * steep(beta)

    def _grid_arguments(self, facts: Facts) -> dict[str, Any]:
        n, k = float(max(facts.patients, 1)), self.axis.length
        return {"beta": within((self.p,), LIMIT), "at_risk": within((k,), n), "deaths": within((k,), n)}

    def plan(self) -> tuple[PlannedAsk, ...]:
        """The counts, the iterations, the check, the baseline, and the concordance."""
        beta, k = np.zeros(self.p), np.zeros(self.axis.length)
        asks = [PlannedAsk(self.totals, (), 1)]
        if self.common:
            asks += [
                PlannedAsk(self.risk_sets, (beta, k, k), MAX_STEPS),
                PlannedAsk(self.information, (beta, k, k), MAX_STEPS + 2),
            ]
        else:
            asks.append(PlannedAsk(self.derivatives, (beta,), MAX_STEPS))
            asks += [] if self.g is None else [PlannedAsk(self.time_derivatives, (beta,), 1)]
            asks.append(PlannedAsk(self.hazard_sums, (beta, k, k), 1))
            asks += [PlannedAsk(self.hazard_slopes, (beta, k, k), 1)] if self.at else []
        return (*asks, PlannedAsk(self.concordance, (beta,), 1))

    # -- what the coordinator does with the sums ---------------------------------------------------------------------------

    async def run(self, federation: Federation) -> CoxResult:
        """Newton-Raphson, then the check, the baseline and the concordance at the estimate. `MethodError`: see `fit`."""
        totals = await federation.sum(self.totals)
        answerable(self, totals)
        solver = (CommonBaseline if self.common else PerSiteBaseline)(self, federation, totals)
        fit = await maximise(solver.evaluate, self.design.names, scale_of(self, totals))
        beta = fit.best.beta
        time = None if self.g is None else await solver.time_information(fit.best)
        hazard = await solver.hazard(fit.best)
        ordered = await federation.sum(self.concordance, beta)
        await federation.tell(self.site_sheet, beta)
        return estimates_of(self, Found(totals, fit, time, hazard, ordered))

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> CoxResult:
        """Rebuilt from stored estimates."""
        return CoxResult(study, analysis, estimates, **rest)
