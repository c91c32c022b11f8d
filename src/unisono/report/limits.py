"""What a reader must know to trust the answer, and what it cannot show: sentences made from the study and its results."""

from __future__ import annotations

from unisono.methods.registry import find
from unisono.methods.wording import say_one
from unisono.report.load import LoadedRun


def checks_and_limits(run: LoadedRun) -> list[str]:
    """The sentences, the most important first."""
    study = run.study
    least = study.release.min_count
    said = [*_pooled(run), *_grid(run)]
    said.append(
        f"Numbers of fewer than {least} patients are not shown, and where a subtraction would give one away, a larger one"
        f" is left out too. A curve is drawn only where at least {least} patients changed since the point before and"
        f" {least} are still at risk: its last part may be missing."
    )
    bounds = "Values outside the study's declared bounds were handled at each hospital as its own mapping says; each"
    said.append(f"{bounds} hospital has a report on that, which stays there.")
    if any(a.record is not None and a.record.method in ("cox", "glm") for a in run.analyses):
        said.append(
            "A ratio says what goes together, adjusted for what is in the model. It does not by itself say what causes"
            " what: patients may differ in ways that no hospital recorded."
        )
    for analysis in run.analyses:
        if analysis.record is not None and analysis.record.participation.left:
            names = ", ".join(analysis.record.participation.left)
            said.append(
                f"In “{analysis.name}”, {names} left before the end; everything shown was computed again without it."
                " Who sees both sums could subtract them: the study's participation rule allowed this."
            )
    return said


_POOLED = {
    "exact": "The numbers{where} are those that pooling the same patients, mapped in the same way, and summing over them in the same"
    " way would give (to seven digits or more).",
    "same-trees": "The trees{where} are those that the same method would grow on the pooled patients, mapped in the same way: the"
    " same splits.",
    "none": "What pooling the same patients would give differs from the numbers{where}: each hospital learned from its own patients,"
    " and what they learned was combined. By how much depends on how unlike the hospitals are (docs/heterogeneity.md).",
}
"""By `Method.pooled`."""


def _pooled(run: LoadedRun) -> list[str]:
    """How the answers relate to those over the pooled patients, by what their methods say."""
    kinds: dict[str, list[str]] = {}
    for analysis in run.answered:
        assert analysis.record is not None
        kinds.setdefault(find(analysis.record.method).pooled, []).append(f"“{analysis.name}”")
    return [
        said.format(where="" if len(kinds) == 1 else f" of {', '.join(kinds[kind])}")
        for kind, said in _POOLED.items()
        if kind in kinds
    ]


def _grid(run: LoadedRun) -> list[str]:
    steps: dict[str, str] = {}
    for analysis in run.answered:
        assert analysis.result is not None
        time = analysis.result.estimates.get("time")
        if isinstance(time, dict) and {"variable", "step", "unit"} <= set(time):
            label = run.study.variables[time["variable"]].label or time["variable"]
            size = f"multiple of {time['step']:g} {time['unit']}"
            steps[label] = f"whole {say_one(time['unit'])}" if time["step"] == 1 else size
    return [
        f"Time is counted on a grid: {label} was rounded up to the next {step}, and at equal times events come before"
        " patients who left observation."
        for label, step in steps.items()
    ]
