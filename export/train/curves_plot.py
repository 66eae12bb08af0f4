"""The pictures of trainings: loss and error, rate and gradient, and how much of each layer is saturated."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from export.train.log import Run, Series
from pages.look import ACCENT, CARD, INK, SERIES, SOFT, STYLE, logarithmic, tidy

DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""After the colours are used up the next line style begins."""

DEPTH = LinearSegmentedColormap.from_list("depth", ["#0b8288", ACCENT, "#8a4fc9", "#c02f5a"])
"""From the first layer to the last; seen on light and on dark."""

WIDE = 20
"""How many times its smallest value the largest of an axis is from which on it is logarithmic."""
DEEP = 1e-3
"""Of the highest rate, where its axis ends: a cycle's last step has almost none."""
NAMED = 9
"""Layers up to which the legend has all."""
FEW = 30
"""Values up to which each is a point."""
ACROSS = 2
"""Panels of layers beside each other."""


def learning(runs: Sequence[Run], error: float | None) -> Figure:
    """Loss and error against steps: above of the training, below of the validation part; `error` is a bound."""
    figure, (loss, wrong, validation_loss, validation_wrong) = _figure(2, 2, 7.4, sharex=True)
    with mpl.rc_context(STYLE):
        for index, run in enumerate(runs):
            look = _look(index)
            for axes, name, times in ((loss, "train_loss", 1), (wrong, "train_error", 100)):
                faint = {**look, "alpha": 0.35, "linewidth": 0.8}
                _line(axes, run.column(name), faint, times)
                _line(axes, run.column(f"{name}_epoch"), look, times, f"{name}-{index}")
            for axes, name, times in (
                (validation_loss, "validation_loss", 1),
                (validation_wrong, "validation_error", 100),
            ):
                _line(axes, run.column(name), look, times, f"{name}-{index}")
        for axes, name, times in ((loss, "train_loss", 1), (wrong, "train_error", 100)):
            highest = max(_values(runs, name), default=0)  # the lowest of single batches means little
            _scale(axes, [*_values(runs, f"{name}_epoch"), highest], times)
        _scale(validation_loss, _values(runs, "validation_loss"), 1)
        _scale(validation_wrong, _values(runs, "validation_error"), 100)
        if error is not None:
            validation_wrong.axhline(100 * error, color=INK, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1.5)
        _name(loss, "training loss")
        _name(wrong, "training error, %")
        _name(validation_loss, "validation loss", "steps")
        _name(validation_wrong, "validation error, %", "steps")
        _legend(figure, runs)
    return figure


def steering(runs: Sequence[Run]) -> Figure:
    """The learning rate, and the norm of the gradient before and after clipping, against steps."""
    panels = {"rate": "learning rate", "gradient_norm": "gradient norm"}
    if any(run.column("gradient_norm") != run.column("gradient_norm_clipped") for run in runs):
        panels["gradient_norm_clipped"] = "gradient norm, clipped"
    figure, axes_of = _figure(1, len(panels), 3.9, sharex=True)
    with mpl.rc_context(STYLE):
        for axes, (name, title) in zip(axes_of, panels.items(), strict=True):
            for index, run in enumerate(runs):
                _line(axes, run.column(name), {**_look(index), "linewidth": 1.3}, 1, f"{name}-{index}")
            _name(axes, title, "steps")
        rates = _values(runs, "rate")
        _scale(axes_of[0], [rate for rate in rates if rate > DEEP * max(rates)], 1)
        for axes in axes_of[1:]:
            _scale(axes, _values(runs, "gradient_norm", "gradient_norm_clipped"), 1)
        _legend(figure, runs)
    return figure


def saturation(runs: Sequence[Run]) -> Figure:
    """The fraction of each activation that is saturated against steps: a panel a run, a line a layer."""
    shown = [run for run in runs if run.layers]
    rows = -(-len(shown) // ACROSS)
    figure, panels = _figure(rows, ACROSS, 0.6 + 3.5 * rows, sharex=True, sharey=True)
    with mpl.rc_context(STYLE):
        for axes, run in zip(panels, shown, strict=False):
            layers = run.layers
            for place, layer in enumerate(layers):
                look: dict[str, Any] = {"color": _shade(place, len(layers)), "linewidth": 1.3, "label": layer}
                steps, values = run.column(f"saturated/{layer}")
                axes.plot(steps, [100 * value for value in values], marker="o" if len(steps) == 1 else None, **look)
            axes.set_title(run.name, fontsize=9.5, color=INK, loc="left")
            _name(axes, "saturated, %", "steps")
            axes.tick_params(labelbottom=True)  # the panel below may be missing
            _layers(axes, len(layers))
        panels[0].set_ylim(0, 100)
        for axes in panels[len(shown) :]:
            axes.remove()
    return figure


def titles(runs: Sequence[Run]) -> dict[str, str]:
    """Tooltips, by gid."""
    said: dict[str, str] = {}
    for index, run in enumerate(runs):
        best = run.best()
        text = run.name if best is None else f"{run.name}: {100 * best.error:.2f} % in epoch {best.epoch}"
        said |= {f"{name}-{index}": text for name in (*run.columns, "train_loss", "train_error")}
    return said


def _figure(rows: int, columns: int, height: float, **share: Any) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, height), facecolor=CARD, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False, **share)
        for axes in panels.flat:
            tidy(axes)
    return figure, list(panels.flat)


def _look(index: int) -> dict[str, Any]:
    turn, colour = divmod(index, len(SERIES))
    return {"color": SERIES[colour], "linestyle": DASHES[turn % len(DASHES)], "linewidth": 1.8}


def _line(axes: Axes, series: Series, look: dict[str, Any], times: float, gid: str | None = None) -> None:
    """Points too where there are few: a line of one alone would not be seen."""
    marker = "o" if len(series.steps) <= FEW else None
    values = [times * value for value in series.values]
    (line,) = axes.plot(series.steps, values, marker=marker, markersize=3.5, **look)
    if gid is not None:
        line.set_gid(gid)


def _values(runs: Iterable[Run], *names: str) -> list[float]:
    return [value for run in runs for name in names for value in run.column(name).values if math.isfinite(value)]


def _scale(axes: Axes, values: Sequence[float], times: float) -> None:
    """An axis from 0, or a logarithmic one where the values are far apart."""
    above = [times * value for value in values if value > 0] or [1.0]
    low, high = min(above), max(above)
    if high / low > WIDE:
        logarithmic(axes, "y", low / 1.3, high * 1.3)
    else:
        axes.set_ylim(0, 1.08 * high)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _name(axes: Axes, up: str, across: str | None = None) -> None:
    axes.set_ylabel(up)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(left=0)
    if across is not None:
        axes.set_xlabel(across)


def _legend(figure: Figure, runs: Sequence[Run]) -> None:
    if len(runs) == 1:
        return
    entries = [Line2D([], [], label=run.name, **_look(index)) for index, run in enumerate(runs)]
    figure.legend(handles=entries, loc="outside upper left", ncols=6, frameon=False)


def _shade(place: int, layers: int) -> str:
    return to_hex(DEPTH(place / max(layers - 1, 1)))


def _layers(axes: Axes, layers: int) -> None:
    """A legend of all layers, or of some of many."""
    handles, labels = axes.get_legend_handles_labels()
    shown = range(layers) if layers <= NAMED else [round(i * (layers - 1) / (NAMED - 1)) for i in range(NAMED)]
    axes.legend(
        [handles[place] for place in shown],
        [labels[place] for place in shown],
        fontsize=7.5,
        labelcolor=SOFT,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
