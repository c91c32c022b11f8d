"""A first draft of a mapping file: columns by name, codes by word, units by the study's bounds, and every guess marked.

A person reads it, checks the marked lines and keeps it. Nothing of a patient is written: only column names, and codes of
short lists that at least three patients share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

from unisono.site.data.fitting_units import FITS, fitting_units
from unisono.site.data.mapping import MISSING
from unisono.site.data.match_codes import CodeMatch, match_codes
from unisono.site.data.profile import Profile, profile
from unisono.site.data.readers import Raw
from unisono.site.data.synonyms import concepts, fold, unit_of
from unisono.study import units
from unisono.study.cohort import source_variables
from unisono.study.document import ImageVariable, NumberVariable, Study, Variable

LEAST_SCORE = 0.5
"""Below this, a column's name says too little about the variable."""
_SENTINELS = (-1.0, -9.0, -99.0, -999.0, 9.0, 99.0, 999.0, 9999.0, 888.0, 777.0)
"""Numbers that often mean missing; proposed only outside the declared bounds and for three patients or more."""


class Proposal(NamedTuple):
    """The mapping as YAML text with comments, and what a person should know about it."""

    text: str
    notes: tuple[str, ...]


@dataclass
class _Line:
    """One variable's entry, in the making."""

    entry: dict[str, object]
    checks: list[str] = field(default_factory=list)


def propose(raw: Raw, study: Study) -> Proposal:
    """A mapping of `raw` (read with all its columns) to the study's variables, as far as names and contents tell."""
    profiles = [profile(raw, name) for name in raw.columns]
    chosen = _assign(profiles, study)
    lines: list[str] = []
    notes = list(raw.notes)
    for name in source_variables(study):
        variable = study.variables[name]
        line = _entry(name, variable, chosen[name]) if name in chosen else _from_dates(name, variable, profiles)
        if line is None:
            hint = _image_hint(variable, profiles) or _date_hint(variable, profiles)
            lines.append(f"  # {name}: no column was found for it; add it by hand.{hint}")
            notes.append(f"No column was found for {name!r}.")
            continue
        text = f"  {name}: {_flow(line.entry)}"
        if line.checks:
            notes.append(f"{name}: check {'; '.join(line.checks)}")
            text += "  # check: " + "; ".join(line.checks)
        lines.append(text)
    head = [
        f"# Proposed for the study {study.id} from {_comment(raw.name)}. Read every line; those marked 'check' are guesses.",
        "unisono-mapping: 1",
    ]
    if raw.kind == "csv":
        head.append(f"file: {_flow(raw.file.model_dump(exclude_none=True))}")
    head.append(f"missing: {_flow(list(MISSING))}")
    body = (
        ["variables:", *lines]
        if any(not line.lstrip().startswith("#") for line in lines)
        else ["variables: {}", *lines]
    )
    return Proposal("\n".join([*head, *body]) + "\n", tuple(notes))


# --- which column ----------------------------------------------------------------------------------------------------


def _assign(profiles: Sequence[Profile], study: Study) -> dict[str, Profile]:
    """The best column for each variable, each column once, the surest pair first; an only image has the only column of images."""
    pairs = []
    for name in source_variables(study):
        variable = study.variables[name]
        for position, candidate in enumerate(profiles):
            score = similarity(name, variable.label, candidate.name)
            if score >= LEAST_SCORE:  # only then look at what is in it, which takes longer
                score *= _fits(name, variable, candidate)
            if score >= LEAST_SCORE:
                pairs.append((-score, position, name))
    chosen: dict[str, Profile] = {}
    used: set[int] = set()
    for _, position, name in sorted(pairs):
        if name not in chosen and position not in used:
            chosen[name] = profiles[position]
            used.add(position)
    pictures = [name for name in source_variables(study) if isinstance(study.variables[name], ImageVariable)]
    candidates = [candidate for candidate in profiles if candidate.kind == "image"]
    if len(pictures) == len(candidates) == 1:
        chosen[pictures[0]] = candidates[0]
    return chosen


def similarity(variable: str, label: str | None, column: str) -> float:
    """From 0 to 1, how much a column's name says that it is this variable."""
    best = 0.0
    there = fold(column)
    for said in (variable, label):
        if not said:
            continue
        here = fold(said)
        if here == there:
            return 1.0
        mine, theirs = set(here.split()), set(there.split())
        shared = len(mine & theirs) / len(mine | theirs) if mine | theirs else 0.0
        close = SequenceMatcher(None, here, there).ratio()
        best = max(best, 0.5 + 0.4 * shared if shared else 0.0, 0.85 * close if close >= 0.75 else 0.0)
    ours, others = concepts([variable, label or ""]), concepts([column])
    if ours and others:
        # Several concepts on one side ("date of diagnosis" for "age at diagnosis") weaken the match.
        best = max(best, 0.9 * len(ours & others) / len(ours | others))
    return best


def _fits(name: str, variable: Variable, candidate: Profile) -> float:
    """From 0 to 1, whether what is in the column could be this variable."""
    if isinstance(variable, ImageVariable):
        return 1.0 if candidate.kind == "image" else 0.0
    if isinstance(variable, NumberVariable):
        if candidate.values is None:
            return 0.0
        best = fitting_units(candidate.values, variable)
        return 1.0 if best and best[0].inside >= FITS else 0.7
    if not candidate.codes:
        return 0.0
    matched = match_codes(name, variable, candidate.codes)
    return 0.6 + 0.4 * len(matched.codes) / len(candidate.codes)


# --- what to do with it ----------------------------------------------------------------------------------------------


def _entry(name: str, variable: Variable, found: Profile) -> _Line:
    line = _Line({"column": found.name})
    if similarity(name, variable.label, found.name) < 1.0:
        found_by = "what is in it" if isinstance(variable, ImageVariable) else "its name"
        line.checks.append(f"the column, found by {found_by}")
    if isinstance(variable, NumberVariable):
        _add_unit(line, variable, found)
    elif not isinstance(variable, ImageVariable):
        _add_codes(line, match_codes(name, variable, found.codes), found)
    if found.missing:
        line.entry["missing"] = [*_listed(line.entry.get("missing")), *found.missing]
        line.checks.append("that these words mean missing")
    return line


def _add_unit(line: _Line, variable: NumberVariable, found: Profile) -> None:
    assert found.values is not None
    values = found.values
    named = unit_of(found.name)
    fits = [f.unit for f in fitting_units(values, variable) if f.inside >= FITS]
    if named is not None and units.compatible(named, variable.unit):
        unit = named
        if unit not in fits:
            line.checks.append(f"the unit: the name says {unit}, but the values do not fit the study's bounds")
    elif fits:
        unit = variable.unit if variable.unit in fits else fits[0]
        if (len(fits) > 1 and unit != "1") or unit != variable.unit:
            line.checks.append(f"the unit; {' or '.join(fits[:3])} would fit the study's bounds")
    else:
        unit = variable.unit
        line.checks.append("the unit and the column: no usual unit fits the study's bounds")
    if unit != variable.unit:
        line.entry["unit"] = unit
    converted = units.convert(values, unit, variable.unit)
    outside = (converted < variable.min) | (converted > variable.max)
    codes = [s for s in _SENTINELS if int(((values == s) & outside).sum()) >= 3]
    if codes:
        line.entry["missing"] = [int(c) for c in codes]
        outside &= ~np.isin(values, codes)
        line.checks.append("that these numbers mean missing")
    if outside.any() and unit in fits:
        line.checks.append(
            "values outside the study's bounds: correct them, or add `outside: missing` or `outside: clamp`"
        )


def _add_codes(line: _Line, matched: CodeMatch, found: Profile) -> None:
    if not matched.identity:
        line.entry["codes"] = dict(matched.codes)
    if matched.reason:
        line.checks.append(matched.reason)
    if matched.unknown:
        line.checks.append(f"codes without a meaning yet: {', '.join(map(json.dumps, matched.unknown))}")
    if found.rare:
        line.checks.append("rare codes, which are not shown here")


def _from_dates(name: str, variable: Variable, profiles: Sequence[Profile]) -> _Line | None:
    """An age as the years from birth to diagnosis or entry, where there are such dates."""
    if not isinstance(variable, NumberVariable) or "age" not in concepts([name, variable.label or ""]):
        return None
    dated = [p for p in profiles if p.kind == "date"]
    birth = next((p for p in dated if "birth" in concepts([p.name])), None)
    then = next((p for wish in ("diagnosis", "entry") for p in dated if wish in concepts([p.name])), None)
    if birth is None or then is None or birth.date_format != then.date_format:
        return None
    line = _Line({"years_between": [birth.name, then.name]}, ["that the age is meant at this date"])
    if birth.date_format is not None:
        line.entry["date_format"] = birth.date_format
    if birth.ambiguous and then.ambiguous:
        line.checks.append("which comes first in the dates, the day or the month")
    return line


def _image_hint(variable: Variable, profiles: Sequence[Profile]) -> str:
    names = [p.name for p in profiles if p.kind == "image"]
    if not names or not isinstance(variable, ImageVariable):
        return ""
    return f" Names of images' files are in {_comment(', '.join(names[:6]))}."


def _date_hint(variable: Variable, profiles: Sequence[Profile]) -> str:
    dated = [p.name for p in profiles if p.kind == "date"]
    if len(dated) < 2 or not isinstance(variable, NumberVariable) or not units.compatible(variable.unit, "d"):
        return ""
    return f" Is it a time between two dates? There are {_comment(', '.join(dated[:6]))}."


# --- writing YAML ----------------------------------------------------------------------------------------------------


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _flow(value: object) -> str:
    """A value in YAML's one-line style; every text in quotation marks, as in JSON, so that nothing is misread."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if key in _PLAIN_KEYS else json.dumps(key, ensure_ascii=False)


_PLAIN_KEYS = {
    "column", "unit", "codes", "missing", "years_between", "date_format", "format", "delimiter", "decimal", "encoding",
}  # fmt: skip


def _comment(text: str) -> str:
    """Text that cannot end its comment."""
    return " ".join(text.split())
