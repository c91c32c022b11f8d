"""What a comparison found, as files: a table (CSV and JSON), figures, and one short page that needs no other file."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unisono.federation.storage import write_whole
from unisono.methods.figures import inline
from unisono.workbench.contest_figures import curves, site_gains
from unisono.workbench.drawings import save
from unisono.workbench.references import EVERYWHERE
from unisono.workbench.standings import CONFIDENCE, Aim, Standing, standings, targets
from unisono.workbench.trial import ALONE, POOLED, Trial

TABLE_CSV, TABLE_JSON, PAGE = "comparison.csv", "comparison.json", "comparison.html"
SAID = {
    POOLED: "everybody's patients at one site (only a simulation can)",
    ALONE: "each site by itself, on its own patients",
}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:62em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}tr.reference td{color:#666;font-style:italic}img{max-width:100%}
"""


def write(trials: Sequence[Trial], aim: Aim, about: Mapping[str, Any], out: Path) -> list[Path]:
    """The table, the figures and the page of these trials into `out`; the files. about: what was run, for the record."""
    found = standings(trials, aim)
    figures = {"curves": curves(trials, aim)}
    gained = site_gains(trials, aim)
    if gained is not None:
        figures["gains"] = gained
    record = {
        **about,
        "aim": asdict(aim),
        "confidence": CONFIDENCE,
        "targets": {str(seed): value for seed, value in targets(trials, aim).items()},
        "standings": [asdict(standing) for standing in found],
        "trials": [asdict(trial) for trial in trials],
    }
    write_whole(out / TABLE_JSON, (json.dumps(record, indent=1) + "\n").encode(), "comparison")
    write_whole(out / TABLE_CSV, _csv(found, aim).encode(), "comparison")
    drawn = save(figures, out)
    pictures = "".join(inline(figure) for figure in figures.values())
    write_whole(out / PAGE, _page(found, aim, about, pictures).encode(), "comparison")
    return [out / TABLE_CSV, out / TABLE_JSON, *drawn, out / PAGE]


def columns(aim: Aim) -> tuple[str, ...]:
    """The table's heads."""
    return ("method", words(aim.metric), words(second(aim)), "rounds", "s", "MB", "gain", "least gain")


def second(aim: Aim) -> str:
    """The metric beside the one that is compared: the log-loss of classes, otherwise the loss that was trained."""
    return "log_loss" if aim.by_metric else "loss"


LEGEND = (
    "rounds: to {share:.0%} of what pooling reaches (0: the first model, untrained, is there). MB: sent by one site. gain: over learning"
    " alone{points}, mean over sites; least gain: of the site that gains least. In parentheses: 95% intervals over seeds."
)


def legend(aim: Aim) -> str:
    """What the heads mean."""
    points = ", in points" if _scale(aim)[0] > 1 else ""
    return LEGEND.format(share=aim.share, points=points)


def row(standing: Standing, aim: Aim) -> tuple[str, ...]:
    """One line of the table, in words."""
    scale, digits = _scale(aim)
    failed = f"no result ({len(standing.failed)} of {standing.seeds})" if standing.failed else ""
    metric = standing.metric.said(scale, digits, share=scale > 1) if standing.metric else failed
    loss = standing.others.get(second(aim))
    gain = standing.gain.said(scale, digits) if standing.gain else ""
    worst = f"{standing.worst[1] * scale:+.{digits}f} ({standing.worst[0]})" if standing.worst else ""
    return (
        standing.method,
        metric,
        loss.said(1.0, 3) if loss else "",
        rounds_said(standing),
        f"{standing.seconds:.1f}",
        f"{standing.sent_bytes / 1e6:.2f}" if standing.sent_bytes else "",
        gain,
        worst,
    )


def remarks(found: Sequence[Standing], aim: Aim) -> list[str]:
    """What a reader would otherwise take for something else."""
    scale, digits = _scale(aim)
    alone = next((s for s in found if s.method == ALONE), None)
    everywhere = alone.others.get(f"{aim.metric}{EVERYWHERE}") if alone is not None else None
    if everywhere is None:
        return []
    worth = everywhere.said(scale, digits, share=scale > 1) + _unit(aim)
    return [
        f"A model that a site learned alone is worth {worth} on everybody's patients (mean over sites). On its own patients it looks"
        " better than that where sites differ in whom they see."
    ]


def _scale(aim: Aim) -> tuple[float, int]:
    """Shares are shown in percent, other metrics as they are: (factor, decimals)."""
    return (100.0, 1) if aim.metric in ("accuracy", "concordance") else (1.0, 3)


def _unit(aim: Aim) -> str:
    """After a number that `_scale` scaled."""
    return {"accuracy": "%", "concordance": " (concordance × 100)"}.get(aim.metric, "")


def rounds_said(standing: Standing) -> str:
    """``7``; ``9 (2 of 3 seeds)``; ``0 (untrained)``; ``not reached``."""
    if standing.rounds is None:
        return "not reached"
    all_of_them = standing.reached == standing.seeds
    words = [*(["untrained"] if standing.rounds == 0 else [])]
    words += [] if all_of_them else [f"{standing.reached} of {standing.seeds} seeds"]
    return f"{standing.rounds:g}" + (f" ({', '.join(words)})" if words else "")


def words(metric: str) -> str:
    """A metric's name for reading."""
    said = {"log_loss": "log-loss", "accuracy": "accuracy, %", "concordance": "concordance × 100"}
    return said.get(metric, metric.replace("_", " "))


def _csv(found: Sequence[Standing], aim: Aim) -> str:
    rows = [_cells(standing, aim) for standing in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(standing: Standing, aim: Aim) -> dict[str, Any]:
    """One line for programs; empty where nothing is known."""
    worst = standing.worst or ("", "")
    found: dict[str, Any] = {"method": standing.method, "seeds": standing.seeds}
    for name, estimate in ((aim.metric, standing.metric), (second(aim), standing.others.get(second(aim)))):
        for part in ("mean", "low", "high"):
            found[f"{name}_{part}"] = getattr(estimate, part, None)
    found |= {"rounds_to_target": standing.rounds, "seeds_that_reached_it": standing.reached}
    found |= {"seconds": round(standing.seconds, 3), "sent_bytes_per_site": round(standing.sent_bytes)}
    return found | {
        "gain_over_alone": getattr(standing.gain, "mean", None),
        "least_gain": worst[1],
        "least_gain_at": worst[0],
    }


def _page(found: Sequence[Standing], aim: Aim, about: Mapping[str, Any], pictures: str) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in columns(aim))
    lines = []
    for standing in found:
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in row(standing, aim))
        reference = ' class="reference"' if standing.method in SAID else ""
        lines.append(f"<tr{reference}>{cells}</tr>")
    notes = [f"<li><em>{name}</em>: {html.escape(said)}.</li>" for name, said in SAID.items()]
    notes += [
        f"<li>{html.escape(s.method)}: {html.escape(text)}</li>" for s in found for text in dict.fromkeys(s.failed)
    ]
    notes += [f"<li>{html.escape(text)}</li>" for text in remarks(found, aim)]
    said = "".join(f"<li>{html.escape(str(k))}: {html.escape(str(v))}</li>" for k, v in about.items())
    title = html.escape(str(about.get("study", "Comparison")))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: methods compared</title><style>{_STYLE}</style>
<h1>{title}: methods compared</h1>
<p>The same model, sites, validation patients, seeds and budget for all. Intervals are over seeds (t, 95%). The target is
{aim.share:.0%} of what the pooled reference reaches. Everything ran in one process: a simulation, which protects nobody.</p>
<table><tr>{heads}</tr>{"".join(lines)}</table>
<p>{html.escape(legend(aim))}</p>
{pictures}
<h2>What was run</h2><ul>{said}</ul><h2>Notes</h2><ul>{"".join(notes)}</ul></html>
"""
