"""The look of every figure, and matplotlib only when a figure is asked for."""

from __future__ import annotations

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


def inline(figure: Figure) -> str:
    """The figure as an HTML image that needs no other file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img alt="figure" src="data:image/png;base64,{b64encode(buffer.getvalue()).decode()}">'


def ratio_axis(ax: Axes) -> None:
    """A logarithmic axis for ratios, with plain numbers; also at minor ticks where it is shorter than a factor of ten."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if high < 10 * low else "")


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
