"""How pictures look: the page's colours, and axes without what nobody reads."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

CARD, INK, SOFT, LINE, ACCENT = "#ffffff", "#1a1d23", "#626a78", "#e3e6ec", "#2f6fdb"
"""The page's own, see templates/house.css."""
THEME = {CARD: "card", INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent"}

SERIES = (ACCENT, "#c2571a", "#16834a", "#8a4fc9", "#c02f5a", "#0b8288")

TICKS = ((4.0, (1, 1.5, 2, 3, 4, 5, 7)), (1000.0, (1, 2, 5)), (math.inf, (1,)))
"""Multiples of the powers of ten at which an axis has ticks, by how many times its start its end is, at most."""

STYLE: Any = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along: the same picture on every machine
    "font.size": 9.5,
    "svg.hashsalt": "multicrop",  # the same ids each time
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


def tidy(axes: Axes) -> None:
    """A grid behind, no box around, no tick marks."""
    axes.set_facecolor(CARD)
    axes.grid(visible=True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", length=0, labelleft=True)


def logarithmic(axes: Axes, which: str, low: float, high: float) -> None:
    """Makes an axis, "x" or "y", logarithmic from `low`, above 0, to `high`, with ticks at round numbers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    multiples = next(multiples for most, multiples in TICKS if high / low <= most)
    axis.set_major_locator(LogLocator(subs=multiples, numticks=15))
    axis.set_minor_formatter(NullFormatter())
