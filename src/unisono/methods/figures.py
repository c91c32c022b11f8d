"""The look of every figure, and matplotlib only when a figure is asked for."""

from __future__ import annotations

import math
from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING

from unisono.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008): distinguishable with every kind of colour vision, and in grey by lightness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#222222"
FAINT = "#bbbbbb"

_MOST_TICKS = 9


def inline(figure: Figure) -> str:
    """The figure as an HTML image that needs no other file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img alt="figure" src="data:image/png;base64,{b64encode(buffer.getvalue()).decode()}">'


def ratio_axis(ax: Axes) -> None:
    """A logarithmic axis for ratios, with a handful of plain numbers in one size."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ticks = ratio_ticks(low, high)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(low, high)


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high` for a logarithmic axis, so few that their labels do not touch: 1, 2, 5, 10 over
    a wide range, whole powers of ten over a very wide one, equal steps (0.8, 0.9, 1) over a narrow one."""
    if high < 4 * low:
        step = 10.0 ** math.floor(math.log10(high - low))
        step = next(s for s in (0.2 * step, 0.25 * step, 0.5 * step, step, 2 * step) if high - low <= 6 * s)
        return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**k for k in range(first, last + 1)]
    ticks = [tick for p in powers for tick in (p, 2 * p, 5 * p) if low <= tick <= high]
    if len(ticks) <= _MOST_TICKS:
        return ticks
    every = -(-(last - first + 1) // _MOST_TICKS)
    return [10.0**k for k in range(first, last + 1) if k % every == 0 and low <= 10.0**k <= high]


def new_figure(
    width: float = 7.0, height: float = 4.2, rows: int = 1, ratios: tuple[float, ...] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure (inches) with `rows` axes one below the other; no pyplot state, no window. Without matplotlib: `MissingExtra`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "Figures need matplotlib, which is not installed.",
            rule="optional-extra",
            remedy="Install it with: pip install 'unisono[report]'",
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, height_ratios=ratios or (1.0,) * rows)[:, 0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=INK, labelsize=9)
    return figure, list(axes)
