"""Error against cost as a picture: two panels, the Pareto line of each, 95 % intervals, labels that do not collide."""

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator

from export.goals import Configuration, Goals, number
from export.labels import Rectangle, place
from export.scene import PANELS, Panel, Scene, line, short_names
from pages.look import ACCENT, CARD, INK, SERIES, SOFT, STYLE, logarithmic, tidy

MARKERS = ("o", "s", "D", "^", "v", "P")
"""After the colours are used up the next marker begins."""

CROWD = 24
"""Configurations up to which every point with room for it is named, and not those of the Pareto line alone."""
SPACE = 2
"""Pixels around a label."""
FAR = 12
"""Pixels from a point to its label from which on a thin line joins them."""


def draw(configurations: Sequence[Configuration], goals: Goals, chosen: Configuration | None) -> Figure:
    """The picture; arguments as of `Scene`."""
    scene = Scene(configurations, goals, chosen)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 5.8), facecolor=CARD, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, panel in zip(panels, PANELS, strict=True):
            _frame(axes, panel, configurations)
            _points(axes, panel, scene)
        panels[0].set_ylabel("top-1 error, %")
        panels[0].set_ylim(*scene.errors)
        panels[0].yaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
        _bounds(panels, goals)
        _legend(figure, scene)
        figure.canvas.draw()
        figure.set_layout_engine("none")  # labels are placed in the final layout
        for axes, panel in zip(panels, PANELS, strict=True):
            _label(axes, panel, scene)
    return figure


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def _frame(axes: Axes, panel: Panel, configurations: Sequence[Configuration]) -> None:
    across = [panel.across(c) for c in configurations]
    low, high = min(across), max(across)
    axes.set_xlabel(panel.title)
    tidy(axes)
    if low > 0:  # a network without a convolution has 0 GMAC
        logarithmic(axes, "x", low / 1.6, high * 1.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _points(axes: Axes, panel: Panel, scene: Scene) -> None:
    """The Pareto line as stairs (what lies between two configurations cannot be had), and every point."""
    members = line(scene.configurations, panel)
    corners = [(panel.across(c), c.error) for c in (scene.configurations[member] for member in members)]
    axes.step(*zip(*corners, strict=True), where="post", color=ACCENT, alpha=0.45, linewidth=1.6, zorder=2)
    for index, c in enumerate(scene.configurations):
        colour, marker = _look(scene, c.model, c.version)
        across, on_line, above = panel.across(c), index in members, c.error > scene.ceiling
        axes.vlines(across, *c.accuracy.interval(), color=colour, alpha=0.45 if on_line else 0.2, linewidth=1, zorder=1)
        (point,) = axes.plot(
            across, scene.height(c), "^" if above else marker, color=colour if on_line else CARD,
            markeredgecolor=colour, markersize=8 if on_line else 6, zorder=4 if on_line else 3, clip_on=False,
        )  # fmt: skip
        point.set_gid(f"{panel.key}-{index}")
        if c == scene.chosen:
            axes.plot(across, scene.height(c), "o", color="none", markeredgecolor=INK, markersize=14, zorder=7)


def _bounds(panels: Sequence[Axes], goals: Goals) -> None:
    style: Any = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 0.9, "zorder": 1.5}
    for axes, across in zip(panels, (goals.gmacs, goals.throughput), strict=True):
        if across is not None:
            axes.axvline(across, **style)
        if goals.error is not None:
            axes.axhline(goals.error, **style)


def _legend(figure: Figure, scene: Scene) -> None:
    entries = []
    for model, version in scene.versions:
        colour, marker = _look(scene, model, version)
        label = f"{model}/{version}"
        entries.append(Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=7, label=label))
    entries += [
        Line2D([], [], color=ACCENT, alpha=0.45, linewidth=1.6, label="Pareto line"),
        Line2D([], [], color=SOFT, marker="|", linestyle="none", markersize=12, label="95 % interval"),
    ]
    if scene.chosen is not None:
        ring = Line2D([], [], color="none", marker="o", markeredgecolor=INK, markersize=12, label="to deploy")
        entries.append(ring)
    figure.legend(handles=entries, loc="outside upper left", ncols=8, frameon=False)


def _look(scene: Scene, model: str, version: int) -> tuple[str, str]:
    """Colour and marker."""
    turn, index = divmod(scene.versions.index((model, version)), len(SERIES))
    return SERIES[index], MARKERS[turn % len(MARKERS)]


def _label(axes: Axes, panel: Panel, scene: Scene) -> None:
    """Names the points: first those of the Pareto line, then the others where there is room for names."""
    members = line(scene.configurations, panel)
    others = [index for index in range(len(scene.configurations)) if index not in members]
    names = short_names(scene.configurations)
    texts = [_name(axes, panel, scene, names, index) for index in members]
    if len(scene.configurations) <= CROWD:
        texts += [_name(axes, panel, scene, names, index, color=SOFT, fontsize=7.5) for index in others]
    points = [_pixels(axes, *text.xy) for text in texts]
    boxes = [text.get_window_extent() for text in texts]
    sizes = [(box.width + 2 * SPACE, box.height + 2 * SPACE) for box in boxes]
    places = place(points, sizes, _drawn(axes, panel, scene), Rectangle(*axes.bbox.extents))
    for index, (text, (x, y), label) in enumerate(zip(texts, points, places, strict=True)):
        if index >= len(members) and any(label.overlap(other) for other in places[:index]):
            text.remove()  # the table and the tooltip name it too
            continue
        scale = 72 / axes.figure.dpi  # points in a pixel
        text.set_position(((label.left + SPACE - x) * scale, (label.bottom + SPACE - y) * scale))
        end = min(max(x, label.left), label.right), min(max(y, label.bottom), label.top)
        if math.dist(end, (x, y)) > FAR:
            ends = axes.transData.inverted().transform([(x, y), end])
            axes.plot(ends[:, 0], ends[:, 1], color=SOFT, linewidth=0.7, zorder=2.5)


def _name(axes: Axes, panel: Panel, scene: Scene, names: Sequence[str], index: int, **look: Any) -> Annotation:
    c = scene.configurations[index]
    text = f"{names[index]} {c.error:.0f} %" if c.error > scene.ceiling else names[index]
    halo = [withStroke(linewidth=3, foreground=CARD)]
    look = {"fontsize": 9, "va": "bottom", "path_effects": halo, "zorder": 6, **look}
    return axes.annotate(text, (panel.across(c), scene.height(c)), (0, 0), textcoords="offset points", **look)


def _drawn(axes: Axes, panel: Panel, scene: Scene) -> list[Rectangle]:
    """What labels should not hide: the points, their intervals, the Pareto line."""
    found = []
    for c in scene.configurations:
        x, y = _pixels(axes, panel.across(c), scene.height(c))
        low, high = (_pixels(axes, panel.across(c), edge)[1] for edge in c.accuracy.interval())
        reach = 11 if c == scene.chosen else 7
        found += [Rectangle(x - reach, y - reach, x + reach, y + reach), Rectangle(x - 1, low, x + 1, high)]
    members = (scene.configurations[member] for member in line(scene.configurations, panel))
    for (x, y), (next_x, next_y) in pairwise([_pixels(axes, panel.across(c), c.error) for c in members]):
        found.append(Rectangle(min(x, next_x), y - 1, max(x, next_x), y + 1))
        found.append(Rectangle(next_x - 1, min(y, next_y), next_x + 1, max(y, next_y)))
    return found


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)
