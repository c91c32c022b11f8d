"""Which unit a hospital's numbers are probably in, judged by the bounds that the study declares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.study import units
from unisono.study.document import NumberVariable

FITS = 0.9
"""Share of the values within the declared bounds from which a unit is worth suggesting."""

_FAMILIES = (
    ("d", "mo", "a", "wk", "h", "min", "s"),
    ("kg", "[lb_av]", "g", "mg"),
    ("cm", "m", "[in_i]", "mm", "[ft_i]"),
    ("Cel", "[degF]", "K"),
    ("%", "1"),
    ("mmol/L", "umol/L", "nmol/L", "pmol/L", "mol/L"),
    ("mg/dL", "g/L", "g/dL", "mg/L", "ug/mL", "ug/L", "ng/mL", "pg/mL"),
    ("mm[Hg]", "kPa", "cm[H2O]"),
    ("L", "mL", "dL"),
    ("U/L", "kU/L"),
)
"""Units that hospitals confuse, the likelier first."""


@dataclass(frozen=True)
class Fit:
    """A unit, and the share of the known values that lie within the declared bounds if they are in it."""

    unit: str
    inside: float


def fitting_units(values: NDArray[np.float64], variable: NumberVariable) -> list[Fit]:
    """Every compatible usual unit with the share of `values` (n,) that it puts within bounds, the best first.

    The study's own unit wins a tie. Empty where all values are missing.
    """
    known = values[~np.isnan(values)]
    if known.size == 0:
        return []
    candidates = [
        variable.unit,
        *(u for family in _FAMILIES for u in family if u != variable.unit and units.compatible(u, variable.unit)),
    ]
    fits = []
    for unit in candidates:
        converted = units.convert(known, unit, variable.unit)
        inside = float(np.mean((converted >= variable.min) & (converted <= variable.max)))
        fits.append(Fit(unit, inside))
    return sorted(fits, key=lambda fit: -fit.inside)  # stable: ties stay in the order of likelihood


def suggestion(values: NDArray[np.float64], variable: NumberVariable, said: str) -> str | None:
    """The unit that the values would fit in, when it is not the one that was said."""
    best = next((fit for fit in fitting_units(values, variable) if fit.unit != said and fit.inside >= FITS), None)
    return best.unit if best else None
