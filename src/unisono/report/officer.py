"""The report's part for a privacy officer: who was in which sum, what left, how it was hidden, and how to check it all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from unisono.report import words
from unisono.report.disclosure_sheet import RULES, ActualRow
from unisono.report.hiding import ON_DROPOUT
from unisono.report.load import LoadedAnalysis, LoadedRun
from unisono.report.participation import Part, SumTaken
from unisono.report.record import Protection, protection_of
from unisono.report.shown_sum import ShownSum
from unisono.report.views import Fact, Grid, grid
from unisono.report.who import sizes, sizes_said

SYMBOLS: dict[Part, str] = {
    "counted": "●",
    "recovered": "◆",
    "waited": "↻●",
    "waited+recovered": "↻◆",
    "absent": "·",
}
LEGEND = (
    ("●", "counted"),
    ("◆", "lost after its masked part was in: counted, and its masks were recovered by the others"),
    ("↻", "lost before its masked part was in: the sum waited for it, and was asked again under fresh masks"),
    ("·", "had left for good"),
)
LEGEND_IN_THE_CLEAR = (
    LEGEND[0],
    ("◆", "lost after its part was in: counted"),
    ("↻", "lost before its part was in: the sum waited for it, and was asked again"),
    LEGEND[3],
)


@dataclass(frozen=True)
class Shown:
    """One sum to look at: rows (hospital, bytes), and what they opened to."""

    analysis: str
    contribution: str
    meaning: str
    rows: tuple[tuple[str, str], ...]
    opened: str
    opened_bytes: str


@dataclass(frozen=True)
class Officer:
    """Everything that part shows, in words. rounds, sheets: one table an analysis."""

    sentence: str
    facts: tuple[Fact, ...]
    rounds: tuple[Grid, ...]
    legend: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    sheets: tuple[Grid, ...]
    rules: tuple[tuple[str, str], ...]
    shown: Shown | None
    hidden: bool
    digests: tuple[Fact, ...]


def officer(run: LoadedRun, telling: str | None = None) -> Officer:
    """The view of a loaded run. telling: the analysis that answers the question; a sum of it is shown if one may be."""
    rounds = [_rounds(a, run.run.sites) for a in run.analyses if a.sums]
    cells = {cell for table in rounds for row in table.rows for cell in row[2:]}
    used = {symbol for cell in cells for symbol in cell}
    leaves = [row for a in run.analyses for row in a.sheet]
    hidden = run.study.protection.hide != "none"
    legend = LEGEND if hidden else LEGEND_IN_THE_CLEAR
    return Officer(
        sentence=_sentence(run),
        facts=_facts(run),
        rounds=tuple(rounds),
        legend=tuple((symbol, meaning) for symbol, meaning in legend if symbol in used),
        remarks=tuple(_remarks(run)),
        sheets=tuple(_sheet(a.name, a.sheet) for a in run.analyses if a.sheet),
        rules=tuple((rule, meaning) for rule, meaning in RULES.items() if any(row.rule == rule for row in leaves)),
        shown=_shown(run, telling),
        hidden=hidden,
        digests=_digests(run),
    )


def _sentence(run: LoadedRun) -> str:
    if run.study.protection.hide == "none":
        return "Nothing hid the hospitals' parts in this run: they were sent in the clear, and the coordinator saw each one."
    return (
        "Each hospital added secret masks to its part before it left. The masks cancel only in the sum, so the coordinator"
        " could read the sum over hospitals, and nothing of any one of them."
    )


def _facts(run: LoadedRun) -> tuple[Fact, ...]:
    study = run.study
    found = sizes(run) or {len(run.run.sites): []}
    hospitals = str(next(iter(found))) if len(found) == 1 else sizes_said(run)
    facts = [Fact("Hidden by", "nothing: every part was sent in the clear"), Fact("Hospitals", hospitals)]
    if study.protection.hide != "none":
        rules = study.protection
        facts = [
            Fact("Hidden by", f"secure aggregation ({rules.hide})"),
            Fact("Against", f"a {rules.threat} coordinator and {words.plural(rules.colluding, 'colluding hospital')}"),
            Fact("Hospitals", hospitals),
        ]
        for n in found:
            facts += _hidden(protection_of(study, n), f" of {n}" if len(found) > 1 else "")
    at_least = (
        f"{study.release.min_sites} hospitals in a sum, {study.release.min_count} patients in a number that is shown"
    )
    return (
        *facts,
        Fact("At least", at_least),
        Fact("If a hospital is lost before masking", ON_DROPOUT[study.participation.on_dropout]),
    )


def _hidden(hidden: Protection, of: str) -> list[Fact]:
    """Graph, threshold, who must stay and who may be lost. of: `` of 4`` where analyses have different numbers of hospitals."""
    complete = hidden.graph == "complete graph"
    drawn = "every hospital with every other" if complete else "drawn at random from what every hospital put in"
    whose = "hospitals" if complete else "of each hospital's neighbours"
    lost = words.plural(hidden.tolerated_drop_outs or 0, "hospital") if hidden.tolerated_drop_outs else "none"
    return [
        Fact(f"Who masks with whom{of}", f"{hidden.graph}: {drawn}"),
        Fact(f"Threshold{of}", f"{hidden.threshold} {whose} must answer before a sum opens"),
        Fact(f"Must stay{of}", f"{words.plural(hidden.must_stay or 0, 'hospital')}; with fewer no sum is opened"),
        Fact(f"May be lost after masking{of}", lost),
        Fact(f"In words{of and f', with {hidden.sites}'}", hidden.sentence),
    ]


def _rounds(analysis: LoadedAnalysis, sites: list[str]) -> Grid:
    """One line a sum; like sums that follow each other, with the same part of every hospital, share one."""
    rows = []
    numbered = list(enumerate(analysis.sums, start=1))
    for (method, name, _), together in groupby(numbered, key=lambda item: _alike(item[1])):
        taken = list(together)
        first, last = taken[0][0], taken[-1][0]
        number = str(first) if first == last else f"{first} to {last}"
        rows.append((number, f"{method}.{name}", *(SYMBOLS[taken[0][1].parts[site]] for site in sites)))
    return grid(("sum", "contribution", *sites), rows, analysis.name, names=2)


def _alike(taken: SumTaken) -> tuple[str, str, tuple[tuple[str, Part], ...]]:
    return taken.method, taken.name, tuple(sorted(taken.parts.items()))


def _remarks(run: LoadedRun) -> list[str]:
    """What the symbols say, in sentences: who was lost, when, and what was done."""
    said = []
    masked = "" if run.study.protection.hide == "none" else "masked "
    for analysis in run.analyses:
        if analysis.record is None:
            continue
        taking = analysis.record.participation
        said += [
            f"{analysis.name}: {r.site} lost its link after its {masked}part for “{r.name}” was in. It was counted"
            + ("; the others recovered its masks, and nobody saw its part." if masked else ".")
            for r in taking.recovered
        ]
        said += [
            f"{analysis.name}: {', '.join(w.sites)} lost the link before the {masked}part for “{w.name}” was in. The sum"
            " waited, and was asked again."
            for w in taking.waited
        ]
        if taking.left:
            said.append(f"{analysis.name}: {', '.join(taking.left)} left for good; everything was computed again.")
    return said


def _sheet(name: str, rows: tuple[ActualRow, ...]) -> Grid:
    lines = []
    before = ""
    for row in rows:
        contribution = row.contribution if row.contribution != before else ""
        before = row.contribution
        hidden = "no" if row.protection.startswith("not") else "masked"
        lines.append(
            (contribution, row.leaf, row.meaning, row.rule, hidden, row.size, f"{row.bytes:,}", f"{row.times}")
        )
    total = sum(row.bytes * row.times for row in rows)
    note = f"In all {words.size(total)} of numbers left each hospital for “{name}”, every array as one part of a sum."
    head = ("contribution", "leaf", "what it is", "rule", "hidden", "size", "bytes", "times")
    return grid(head, lines, name, note, names=5)


def _shown(run: LoadedRun, telling: str | None) -> Shown | None:
    """Of the sums that may be shown: the most telling analysis's, and rather a method's own than a cohort step's."""
    candidates = [(a, a.run.shown_sum) for a in run.answered if a.run.shown_sum is not None]
    if not candidates:
        return None
    analysis, found = max(candidates, key=lambda c: (c[1] is not None and _own(c[0], c[1]), c[0].name == telling))
    assert found is not None
    rows = tuple((site, _spaced(sent)) for site, sent in found.received.items())
    return Shown(
        analysis.name, found.contribution, _inside(found.meaning), rows, f"{found.opened:,}", _spaced(found.opened_hex)
    )


def _own(analysis: LoadedAnalysis, shown: ShownSum) -> bool:
    return analysis.record is not None and shown.contribution.startswith(f"{analysis.record.method}.")


def _inside(sentence: str) -> str:
    """A sentence as part of another."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _spaced(hexadecimal: str) -> str:
    return " ".join(hexadecimal[k : k + 2] for k in range(0, len(hexadecimal), 2))


def _digests(run: LoadedRun) -> tuple[Fact, ...]:
    journals = [Fact(f"Journal of {a.name}", a.run.journal_digest) for a in run.analyses]
    return (Fact("Study", run.run.study), *journals)
