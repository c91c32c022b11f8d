"""An analysis's figure as SVG and PNG bytes: the same bytes for the same result."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unisono.errors import MissingExtra

if TYPE_CHECKING:
    from unisono.methods.base import Result

DOTS_PER_INCH = 200


@dataclass(frozen=True)
class Drawn:
    """One figure, twice."""

    svg: bytes
    png: bytes


def draw(result: Result) -> Drawn:
    """`result.plot()` as bytes. `MissingExtra` without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtra(
            "Figures need matplotlib, which is not installed.",
            rule="optional-extra",
            remedy="Install it with: pip install 'unisono[report]', then run: unisono report OUT",
        ) from error
    # Letters as outlines, ids from a fixed salt, no date: the file looks and is the same everywhere.
    with mpl.rc_context({"svg.hashsalt": "unisono", "svg.fonttype": "path"}):
        figure = result.plot()
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.08)
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.08)
    return Drawn(svg.getvalue(), png.getvalue())
