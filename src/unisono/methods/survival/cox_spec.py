"""What a study says of a Cox regression: its parameters, and what can be wrong with them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unisono.methods.design import covariate_problems, unknown_variable, variables_of
from unisono.methods.survival.follow_up import SurvivalSpec
from unisono.study.document import Name, NumberVariable, Study
from unisono.study.problems import Problem


class CoxSpec(SurvivalSpec):
    """``{method: cox, time: months, event: died, covariates: [age, onset], ties: efron, baseline: per-site}``"""

    covariates: list[str] = Field(min_length=1)
    weights: Name | None = None
    ties: Literal["efron", "breslow"] = "efron"
    baseline: Literal["per-site", "common"] = "per-site"
    ph_check: Literal["identity", "log", "none"] = "identity"

    def problems(self, study: Study) -> list[Problem]:
        """As for every survival analysis; covariates and weights must be there and be of use."""
        found = super().problems(study) + covariate_problems(study, self.covariates)
        outcome = set(self.time_variables()) & set(variables_of(self.covariates))
        if outcome:
            name = sorted(outcome)[0]
            what = f"{name!r} is part of the outcome and a covariate."
            found.append(Problem(("covariates",), what, "variable-twice", "Remove it from the covariates."))
        if self.weights is None:
            return found
        variable = study.variables.get(self.weights)
        if variable is None:
            found.append(unknown_variable(("weights",), self.weights, study))
        elif not isinstance(variable, NumberVariable) or variable.min < 0:
            what = f"The weights {self.weights!r} are not a number of at least 0."
            remedy = "Declare them as 'type: number' with 'min: 0'; a patient with weight 0 is left out."
            found.append(Problem(("weights",), what, "variable-type", remedy))
        return found
