"""The sheet that a data steward reads before deciding on a study, in plain words: who asks, what for, with whom, what leaves, how
it is protected, how often and until when, and what of this hospital's data would be used."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unisono.errors import UnisonoError
from unisono.methods.registry import build, methods
from unisono.network.agent.datasets import LocalCheck
from unisono.network.agent.steward import Sheet
from unisono.network.agent.text import plain
from unisono.protection.secagg.parameters import derive
from unisono.report.disclosure_sheet import EXAMPLE, planned, planned_table
from unisono.site.permit import Permit
from unisono.study.document import Study

_LONGEST = 5000
_THREAT = {
    "semi-honest": "Assumed of the coordinator: it follows the protocol, and would read whatever it gets to see.",
    "malicious": "Assumed of the coordinator: it may lie. Hospitals sign who is in a sum before it is opened.",
}
_ON_DROPOUT = {
    "wait": "A hospital that is lost before its part is in: the study waits for it, then stops.",
    "abort": "A hospital that is lost before its part is in: the analysis stops.",
    "continue": "A hospital that is lost before its part is in: everything is computed again without it. The two results "
    "together then show the sums of that hospital alone.",
}


def render(sheet: Sheet, width: int) -> RenderableType:
    """The whole sheet, for a terminal of `width` columns."""
    study = sheet.entry.study()
    return Group(
        *_part("Who asks", _who(sheet)),
        *_part("The question", [*_question(study), *_lines(packages(sheet.permit))]),
        *_part("With which hospitals", [_sites(sheet), *_lines(_words(sheet))]),
        *_part("What leaves this hospital", [planned_table(planned(study), width)]),
        *_part("How it is protected", _lines(protection(study, len(sheet.roster)))),
        *_part("Limits", [_allowances(sheet.permit), *_lines(limits(sheet.permit, study))]),
        *_part("This hospital's data", _data(sheet.check)),
        *_part("Where it stands", _lines(_state(sheet))),
    )


def protection(study: Study, sites: int) -> list[str]:
    """How the sums of this study are hidden among so many hospitals, in sentences. A federation in which no sum could be opened
    is said too."""
    rules = study.protection
    if rules.hide == "none":
        return ["Nothing hides this hospital's part: the coordinator sees it."]
    shown, trained = _planned(study)
    try:
        found = derive(sites, rules.colluding, study.release.min_sites, hide=rules.hide, threat=rules.threat)
    except UnisonoError as error:
        return [error.what]
    return [
        f"Every part is masked before it leaves ({rules.hide}); only sums are opened. {found.sentence()}.",
        _THREAT[rules.threat],
        _ON_DROPOUT[study.participation.on_dropout],
        *[f"Not masked: {name}. The coordinator sees this hospital's own part of it." for name in shown],
        *[f"{name} trains a model: a round may leave out a hospital that is late or abstains." for name in trained],
        f"Results show no cell of fewer than {study.release.min_count} patients.",
    ]


def _planned(study: Study) -> tuple[list[str], list[str]]:
    """What would be shown to the coordinator; and which analyses sum model updates."""
    shown, trained = [], []
    for analysis in study.analyses:
        for ask in build(study, analysis).plan():
            leaves = ask.contribution.declaration(EXAMPLE, *ask.arguments).leaves.values()
            if ask.operation == "collect":
                shown.append(f"{analysis}, {ask.contribution.name}")
            elif any(leaf.rule == "update" for leaf in leaves):
                trained.append(f"Analysis {analysis!r}")
    return shown, trained


def _part(title: str, lines: Iterable[RenderableType]) -> list[RenderableType]:
    return [Text(title, style="bold"), *lines, Text("")]


def _lines(lines: Iterable[str]) -> list[RenderableType]:
    return [Padding(Text(plain(line, _LONGEST)), (0, 0, 0, 2)) for line in lines]


def _who(sheet: Sheet) -> list[RenderableType]:
    signature = sheet.entry.signed()
    return _lines(
        [
            f"{signature.researcher}, who signed this study. The signature is over exactly this document.",
            f"key fingerprint: {signature.fingerprint}",
            "To be sure that the key is theirs, compare the fingerprint with the researcher by telephone.",
            f"study: {sheet.entry.id}, digest {sheet.entry.digest}",
            f"submitted: {sheet.entry.submitted[:16]}",
        ]
    )


def _question(study: Study) -> list[RenderableType]:
    known = methods()
    analyses = [
        f"{name}: {analysis.method} (version {known[analysis.method].version})"
        for name, analysis in study.analyses.items()
    ]
    include = [f"patients: {' and '.join(study.cohort.include)}"] if study.cohort.include else []
    used = f"variables: {', '.join(study.variables)}"
    return _lines(
        [study.question, f"purpose: {study.purpose}", *(f"analysis {line}" for line in analyses), used, *include]
    )


def packages(permit: Permit) -> list[str]:
    """The packages whose code the study would run here, in sentences."""
    return [
        f"runs code of the package {package.name}, {package.said()}, which this site installed; the permit holds for exactly that."
        for package in permit.packages
    ]


def _sites(sheet: Sheet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("hospital", "key fingerprint", "verified here, out of band"):
        table.add_column(head, overflow="fold")
    for site in sheet.roster.sites:
        own = site == sheet.permit.site
        mark = "this hospital" if own else "yes" if site in sheet.verified else "no"
        table.add_row(site, sheet.roster.fingerprint(site), mark)
    return table


def _words(sheet: Sheet) -> list[str]:
    lines = [
        f"word-code of this list: {sheet.words}",
        "Every hospital must see the same word-code: compare it by telephone. The permit holds for this list only.",
    ]
    lines.append(f"{sheet.counted.sentence()}.")
    if sheet.counted.unverified:
        lines.append(f"Not verified here: {', '.join(sheet.counted.unverified)}.")
        lines.append(f"After a call: unisono site verify NAME --study {sheet.entry.id} --how '...'")
    return lines


def _allowances(permit: Permit) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("analysis")
    table.add_column("what may be asked")
    table.add_column("at most, in a run", justify="right")
    for allowed in permit.allowances:
        what = f"{allowed.method}.{allowed.contribution}"
        if allowed.operation == "collect":
            what = f"{what}, NOT MASKED"
        table.add_row(allowed.analysis, what, f"{allowed.at_most} times")
    return table


def limits(permit: Permit, study: Study) -> list[str]:
    """How often, until when, with how many others, and whether it may go on without a hospital, in sentences."""
    lines = [
        f"Each analysis may be begun at most {permit.runs} times. The permit ends on {permit.expires:%d %B %Y} (UTC).",
        f"A sum holds at least {study.release.min_sites} hospitals.",
    ]
    if permit.may_leave:
        lines.append(
            "The study may go on without a hospital that left. The coordinator alone says who left: it could say so of this "
            "hospital, and then work out this hospital's part of the sums. Signatures do not prevent that."
        )
    if permit.argument_limits:
        within = ", ".join(f"{name} within ±{limit:g}" for name, limit in sorted(permit.argument_limits.items()))
        lines.append(f"What is sent along with a question: {within}.")
    return lines


def _data(check: LocalCheck | UnisonoError) -> list[RenderableType]:
    """These numbers are this hospital's own and stay here."""
    if isinstance(check, UnisonoError):
        return _lines(["It cannot be used as it is:", *str(check).splitlines()])
    mapping = f", mapping {check.dataset.mapping}" if check.dataset.mapping else ""
    lines = [
        f"dataset {check.dataset.name}: {check.dataset.file}{mapping}",
        f"{check.rows:,} patients read; in the analyses: "
        + ", ".join(f"{name} {patients:,}" for name, patients in check.patients.items()),
        "These numbers stay at this hospital.",
        *(f"note: {note}" for note in check.notes),
    ]
    for refusal in check.refusals:
        place = f"{refusal.where}: " if refusal.where else ""
        lines.append(f"This site's rules forbid it: {place}{refusal.what} ({refusal.rule}) {refusal.remedy}")
    return _lines(lines)


def _state(sheet: Sheet) -> list[str]:
    entry = sheet.entry
    decision = {
        "open": "It waits for your decision." if entry.waits else "It is over: there is nothing to decide.",
        "approved": f"Approved on {entry.decided[:16]}.",
        "refused": f"Refused on {entry.decided[:16]}.",
        "withdrawn": f"Withdrawn on {entry.decided[:16]}.",
    }[entry.decision]
    said = f" {entry.state_why}" if entry.state_why else ""
    lines = [decision, f"The coordinator says: {entry.state}.{said}"]
    if not entry.told:
        lines.append(
            "The coordinator does not know the decision yet: it is told as soon as the agent has a connection."
        )
    if entry.trouble:
        lines.append(f"Trouble: {entry.trouble}")
    return lines
