"""Everything that is wrong with a hospital's data, in one error: it names columns and rows and never a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DataError

ROWS_SHOWN = 5


@dataclass(frozen=True)
class DataProblem:
    """One thing wrong with one variable's column."""

    variable: str
    what: str
    rule: str
    remedy: str


class DataProblems(DataError):
    """All problems of one hospital's data, listed in `problems`; a single one reads like any other `DataError`."""

    def __init__(
        self, what: str, *, rule: str, remedy: str, where: str | None = None, problems: tuple[DataProblem, ...] = ()
    ) -> None:
        super().__init__(what, rule=rule, remedy=remedy, where=where)
        self.problems = problems

    @staticmethod
    def of(problems: Sequence[DataProblem], where: str) -> DataProblems:
        """One error for all `problems` of the source called `where`."""
        first, rules = problems[0], {p.rule for p in problems}
        if len(problems) == 1:
            return DataProblems(first.what, rule=first.rule, remedy=first.remedy, where=where, problems=(first,))
        lines = [f"{i}. {p.what}\n     rule: {p.rule}; what to do: {p.remedy}" for i, p in enumerate(problems, 1)]
        return DataProblems(
            f"The data have {len(problems)} problems:\n  " + "\n  ".join(lines),
            rule=first.rule if len(rules) == 1 else "valid-data",
            remedy="Correct them in the mapping where it says so, otherwise in the export.",
            where=where,
            problems=tuple(problems),
        )


class ColumnError(Exception):
    """A column that cannot be read as its variable; `harmonise` makes it a `DataProblem`. Never leaves this package.

    what: goes on after "The column 'X' "; rows: positions (from 0) of the rows it is about, in order.
    column: which column it is, where a variable is made of two. others: further problems of the same column.
    """

    def __init__(self, what: str, rule: str, remedy: str, rows: NDArray[np.intp] | None = None) -> None:
        super().__init__(what)
        self.what, self.rule, self.remedy, self.rows = what, rule, remedy, rows
        self.column: str | None = None
        self.others: tuple[ColumnError, ...] = ()


def rows_text(numbers: Sequence[int], total: int) -> str:
    """``in row 7``, ``in rows 7, 9, 12, 30, 31 and 4 more``. numbers: the first rows', as in the file; total: of all."""
    shown = ", ".join(map(str, numbers[:ROWS_SHOWN]))
    more = f" and {total - ROWS_SHOWN} more" if total > ROWS_SHOWN else ""
    return f"in row{'s' if total > 1 else ''} {shown}{more}"
