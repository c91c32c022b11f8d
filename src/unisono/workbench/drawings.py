"""Figures of a split: the class mix of each site, sizes, and what instruments make of the features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unisono.federation.storage import storage
from unisono.methods.figures import COLOURS, INK, new_figure
from unisono.workbench.written import FIGURES, Partition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4
"""Features, of those that differ most between sites."""


def draw(partition: Partition) -> list[Path]:
    """Write the figures beside the split as SVG and PNG; the files. `MissingExtra` without matplotlib."""
    figures: dict[str, Figure] = {"sizes": _sizes(partition)}
    if partition.collection.label is not None:
        figures["classes"] = _classes(partition)
    if partition.intensities and all(partition.intensities.values()):
        figures["intensities"] = _boxes(partition.intensities, "Mean intensity of an image")
    elif partition.collection.numbers:
        figures["features"] = _features(partition)
    return save(figures, partition.folder / FIGURES)


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Each as SVG and PNG into `folder`, the same bytes for the same figure."""
    import matplotlib as mpl

    files = []
    with storage(folder, "figures"), mpl.rc_context({"svg.hashsalt": "unisono", "svg.fonttype": "path"}):
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for ending in ("svg", "png"):
                path = folder / f"{name}.{ending}"
                figure.savefig(path, dpi=150, metadata={"Date": None} if ending == "svg" else None)
                files.append(path)
    return files


def palette(number: int) -> list[tuple[float, float, float, float]] | list[str]:
    """So many colours that can be told apart."""
    if number <= len(COLOURS):
        return list(COLOURS[:number])
    from matplotlib import colormaps

    return [colormaps["turbo"](x) for x in np.linspace(0.05, 0.95, number)]


def _classes(partition: Partition) -> Figure:
    """The class mix of each site as stacked bars, from 0 to 100%."""
    tallies = [site.record["classes"] for site in partition.splits]
    figure, (ax,) = new_figure(7.0, 1.4 + 0.34 * len(tallies))
    left = np.zeros(len(tallies))
    places = np.arange(len(tallies))
    totals = np.array([sum(tally.values()) for tally in tallies], float)
    for name, colour in zip(tallies[0], palette(len(tallies[0])), strict=True):
        share = np.array([tally[name] for tally in tallies]) / totals
        ax.barh(places, share, left=left, color=colour, label=name, height=0.75)
        left += share
    ax.set_yticks(places, [site.name for site in partition.splits])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f}%")
    ax.set_title("; ".join(partition.plan.differences()), loc="left", fontsize=10, color=INK)
    ax.legend(frameon=False, title=partition.collection.label, bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8)
    return figure


def _sizes(partition: Partition) -> Figure:
    figure, (ax,) = new_figure(7.0, 1.2 + 0.3 * len(partition.splits))
    places = np.arange(len(partition.splits))
    numbers = [len(site.rows) for site in partition.splits]
    ax.barh(places, numbers, color=COLOURS[0], height=0.7)
    for place, number in enumerate(numbers):
        ax.text(number, place, f" {number:,}", va="center", fontsize=9, color=INK)
    ax.set_yticks(places, [site.name for site in partition.splits])
    ax.invert_yaxis()
    ax.set_xlabel("patients")
    return figure


def _features(partition: Partition) -> Figure:
    """Box plots by site of the features whose means differ most between sites, in standard deviations of everybody."""
    whole = partition.collection.frame
    apart = {}
    for name in partition.collection.numbers:
        sd = float(whole[name].std()) or 1.0
        apart[name] = float(np.nanstd([site.frame[name].astype(float).mean() for site in partition.splits])) / sd
    names = sorted(apart, key=lambda name: -apart[name] if np.isfinite(apart[name]) else 0)[:SHOWN]
    figure, axes = new_figure(7.0, 1.9 * len(names), len(names))
    for ax, name in zip(axes, names, strict=True):
        columns = [site.frame[name].astype(float).dropna().to_numpy() for site in partition.splits]
        ax.boxplot(columns, showfliers=False, medianprops={"color": COLOURS[1]}, widths=0.6)
        ax.set_title(name, loc="left", fontsize=9, color=INK)
        ax.set_xticks(range(1, len(columns) + 1), [site.name for site in partition.splits], fontsize=8)
    return figure


def _boxes(values: Mapping[str, list[float]], title: str) -> Figure:
    figure, (ax,) = new_figure(7.0, 3.0)
    ax.boxplot(list(values.values()), showfliers=False, medianprops={"color": COLOURS[1]}, widths=0.6)
    ax.set_xticks(range(1, len(values) + 1), list(values), fontsize=8)
    ax.set_title(title, loc="left", fontsize=9, color=INK)
    return figure
