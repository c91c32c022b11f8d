"""What a hospital's codes probably mean, for proposing a mapping: by word, by initial letter, or by order; guesses are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unisono.site.data.synonyms import concepts, fold, meanings
from unisono.study.document import CategoryVariable, Variable

Meaning = str | bool


@dataclass(frozen=True)
class CodeMatch:
    """codes: code -> level or yes/no. unknown: codes that nothing was found for. reason: why it must be checked, or empty.
    identity: the codes already are the study's own, and no code list is needed."""

    codes: Mapping[str, Meaning]
    unknown: tuple[str, ...] = ()
    reason: str = ""
    identity: bool = False


def match_codes(name: str, variable: Variable, codes: Sequence[str]) -> CodeMatch:
    """The likeliest meaning of each of `codes` for a category or a boolean."""
    targets = _targets(name, variable)
    surely: dict[str, Meaning] = {}
    perhaps: dict[str, Meaning] = {}
    for code in codes:
        for sure, hits in _candidates(code, targets):
            if len(hits) == 1:
                (surely if sure else perhaps)[code] = hits[0]
                break
    found = {c: (surely | perhaps)[c] for c in codes if c in surely or c in perhaps}
    if not found or (len(found) < len(codes) and all(c.lstrip("-").isdigit() for c in codes)):
        return _by_order(name, variable, codes)
    unknown = tuple(c for c in codes if c not in found)
    identity = not unknown and all(_own(variable, c, m) for c, m in found.items())
    return CodeMatch(found, unknown, "what the letters mean" if perhaps else "", identity)


def _own(variable: Variable, code: str, meaning: Meaning) -> bool:
    if isinstance(variable, CategoryVariable):
        return code == meaning
    return code.casefold() in ({"1", "true"} if meaning else {"0", "false"})


def _targets(name: str, variable: Variable) -> dict[Meaning, set[str]]:
    """Each possible meaning, with the words for it."""
    if isinstance(variable, CategoryVariable):
        return {level: {fold(level)} | meanings(level) for level in variable.levels}
    words: dict[Meaning, set[str]] = {True: {"yes", fold(name)}, False: {"no"}}
    if "death" in concepts([name, variable.label or ""]):
        words[True].add("dead")
        words[False].add("alive")
    return words


def _candidates(code: str, targets: Mapping[Meaning, set[str]]) -> list[tuple[bool, list[Meaning]]]:
    """(sure, meanings) by exact name, by word, and by beginning."""
    word = fold(code)
    if not word:
        return []
    said = meanings(code)
    exact: list[Meaning] = [m for m in targets if m == code or (isinstance(m, str) and fold(m) == word)]
    by_word = [m for m, words in targets.items() if said & words or word in words]
    start = [
        m
        for m, words in targets.items()
        if not word.isdigit() and any(w.startswith(word) or word.startswith(w) for w in words if w)
    ]
    return [(True, exact), (len(word) > 1 or word.isdigit(), by_word), (False, start)]


def _by_order(name: str, variable: Variable, codes: Sequence[str]) -> CodeMatch:
    """Whole numbers without a word: in the order of the levels, if there are as many of them."""
    nothing = CodeMatch({}, tuple(codes), "the codes, none of which was recognised")
    if not all(c.lstrip("-").isdigit() for c in codes):
        return nothing
    ordered = sorted(codes, key=int)
    if isinstance(variable, CategoryVariable):
        if len(ordered) != len(variable.levels):
            return nothing
        return CodeMatch(
            dict(zip(ordered, variable.levels, strict=True)), (), "the codes, put in the order of the levels"
        )
    if len(ordered) != 2:
        return nothing
    # 1/2 is censored/dead in the SAS tradition of survival data, and yes/no in questionnaires.
    later = "death" in concepts([name, variable.label or ""])
    return CodeMatch({ordered[0]: not later, ordered[1]: later}, (), "which of the two numbers means yes")
