"""What differs between sites in the values themselves: gain and offset of an instrument, units, the meaning of labels, and
what is not recorded.

Pure functions: each returns the changed column and what was done to it, for the record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Column = NDArray[np.float64]

OTHER_UNIT = {
    "1": "%", "%": "1", "kg": "g", "g": "kg", "mg": "g", "m": "cm", "cm": "mm", "mm": "cm", "um": "mm", "a": "mo", "mo": "d",
    "d": "wk", "h": "min", "min": "s", "s": "ms", "L": "mL", "mL": "L", "mg/dL": "g/L", "g/L": "mg/dL", "g/dL": "g/L",
    "mmol/L": "umol/L", "umol/L": "mmol/L", "ug/L": "mg/L", "mg/L": "ug/L", "ng/mL": "ug/L", "mm[Hg]": "kPa", "kPa": "mm[Hg]",
    "Cel": "[degF]", "[degF]": "Cel",
}  # fmt: skip
"""The other unit in which a site may have recorded a quantity: one in daily use, where there is one."""


@dataclass(frozen=True)
class Instrument:
    """How one site measures one quantity: deviations from the mean of everybody times `gain`, plus `offset` standard
    deviations of everybody."""

    gain: float
    offset: float

    @staticmethod
    def drawn(strength: float, rng: Generator) -> Instrument:
        """The logarithm of the gain and the offset, each normal with `strength` as standard deviation."""
        gain, offset = rng.standard_normal(2) * strength
        return Instrument(float(np.exp(gain)), float(offset))

    def measure(self, values: Column, mean: float, sd: float) -> Column:
        """`values` (n,) as this instrument gives them."""
        measured: Column = mean + (values - mean) * self.gain + self.offset * sd
        return measured


def relabelled(codes: NDArray[np.int64], classes: int, group: int) -> NDArray[np.int64]:
    """The labels (n,) as a group of sites gives them: class c is called c + group, and beyond the last begins at the first again.
    Of two classes: the second group calls them the other way round (Ghosh, Chung, Yin & Ramchandran 2020, section 6)."""
    turned: NDArray[np.int64] = (codes + group) % classes
    return turned
