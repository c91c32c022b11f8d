"""The patient flow of one analysis: from those who were read to those who were analysed, and what was missing.

Numbers that would show a small group were blanked before the result was written (`unisono.methods.cohort`). What can
still be said of a blanked number without saying it, this file says: that it is, or differs by, fewer than `min_count`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unisono.methods.wording import say_list, say_number
from unisono.study.document import NumberVariable, Study

NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Step:
    """One box of the flow: what is counted, how many, and beside it who was left out on the way to it."""

    label: str
    patients: str
    excluded: str = ""


@dataclass(frozen=True)
class Flow:
    """steps: from read to analysed. missing: (variable, patients without a value). sentences: what was done about gaps,
    and why a number is not shown."""

    steps: tuple[Step, ...]
    missing: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]


def flow_of(study: Study, cohort: dict[str, Any]) -> Flow:
    """The flow of an analysis whose cohort's estimates (``result.json``: `cohort`) are these."""
    least = study.release.min_count
    counts = [cohort["read"], *(step["n"] for step in cohort["flow"])]
    filled = bool(cohort["imputed"])
    labels = ["Patients read at the hospitals", *(_label(step["rule"], filled) for step in cohort["flow"])]
    if counts[-1] != cohort["patients"]:
        counts.append(cohort["patients"])
        labels.append("Patients analysed")
    near = counts[0] is None
    steps = [
        Step(label, _say(n, cohort["patients"], least, near), "" if k == 0 else _excluded(counts, k, least, near))
        for k, (label, n) in enumerate(zip(labels, counts, strict=True))
    ]
    missing = _missing(study, cohort, least)
    sentences = _rules(study, cohort)
    shown = " ".join([*(s.patients + s.excluded for s in steps), *(n for _, n in missing)])
    if NOT_SHOWN in shown or "fewer" in shown or "<" in shown:
        sentences.append(
            f"Numbers of fewer than {least} patients are not shown, nor numbers from which such a number could be"
            " worked out by subtraction."
        )
    return Flow(tuple(steps), tuple(missing), tuple(sentences))


def _label(rule: str, filled: bool) -> str:
    """filled: whether missing values of a variable were filled in."""
    if rule == "complete":
        return f"With a value of every variable of the analysis{', after filling in missing values' if filled else ''}"
    return f"Of these, with {rule.replace('>=', '≥').replace('<=', '≤')}"


def _say(n: int | None, patients: int, least: int, near: bool) -> str:
    """A blanked number below a blanked first one is within `min_count` of the last, or that one would be shown."""
    if n is not None:
        return f"{n:,}"
    return f"{patients:,} and fewer than {least} more" if near else NOT_SHOWN


def _excluded(counts: list[int | None], k: int, least: int, near: bool) -> str:
    before, n = counts[k - 1], counts[k]
    if before is not None and n is not None:
        return f"{before - n:,} left out" if before > n else ""
    if near:
        return f"fewer than {least} left out" if n is not None else ""
    return f"left out: {NOT_SHOWN}"


def _missing(study: Study, cohort: dict[str, Any], least: int) -> list[tuple[str, str]]:
    """A lone blanked number among zeros is itself small (if the analysis is on complete cases, so that enough patients
    have a value); one among others may have been blanked to protect another."""
    missing: dict[str, int | None] = cohort["missing"]
    complete = any(step["rule"] == "complete" for step in cohort["flow"])
    alone = sum(1 for n in missing.values() if n != 0) == 1

    def say(name: str, n: int | None) -> str:
        if n is None:
            small = alone and complete and study.cohort.missing_rule(name) == "complete-cases"
            return f"<{least}" if small else NOT_SHOWN
        return f"{n:,}" if n else "none"

    return [(study.variables[name].label or name, say(name, n)) for name, n in missing.items()]


def _rules(study: Study, cohort: dict[str, Any]) -> list[str]:
    """What was done with gaps, in words."""
    filled = cohort["imputed"]
    sentences = []
    dropped = [name for name in cohort["missing"] if study.cohort.missing_rule(name) == "complete-cases"]
    if any(step["rule"] == "complete" for step in cohort["flow"]) and dropped:
        names = say_list([study.variables[name].label or name for name in dropped])
        which = "in any variable of the analysis" if len(dropped) == len(cohort["missing"]) else f"of {names}"
        sentences.append(f"Patients without a value {which} were left out (complete cases).")
    for name, item in filled.items():
        variable = study.variables[name]
        unit = f" {variable.unit}" if isinstance(variable, NumberVariable) and variable.unit != "1" else ""
        value = item.get("level") or f"{say_number(item['value'])}{unit}"
        word = "mean" if item["rule"] == "mean" else "commonest value"
        sentences.append(
            f"Where {variable.label or name} was missing, the {word} over all hospitals was filled in ({value});"
            " standard errors do not know of this and are somewhat too small."
        )
    return sentences
