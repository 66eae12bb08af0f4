"""The pictures of a load test: latency up to the far tail, against load, and over time."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pages.look import ACCENT, CARD, INK, SERIES, SOFT, STYLE, logarithmic, tidy
from service.loadtest.figures import Figures
from service.loadtest.report import Report, load_of, number

TAIL = (0, 50, 90, 95, 99, 99.9, 99.99)
"""Percentiles with a tick."""
P50, P99, FAILED = ACCENT, "#c2571a", "#c02f5a"
SHADES = LinearSegmentedColormap.from_list("load", ["#0b8288", ACCENT, "#8a4fc9", "#c02f5a"])
"""From the lowest load to the highest; seen on light and on dark."""

_DASHED: Any = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 0.9, "zorder": 1.5}
_HALO = [withStroke(linewidth=3, foreground=CARD)]
_SMALL: Any = {"fontsize": 8.5, "color": INK}


def tail(report: Report) -> Figure:
    """Latency by percentile, a line a step; each further nine takes as much room as the one before."""
    figure, (axes,) = _figure(1, 4.6)
    with mpl.rc_context(STYLE):
        for index, (step, colour) in enumerate(zip(report.steps, _shades(report.steps), strict=True)):
            across, up = [_nines(which) for which, _ in step.curve], [found for _, found in step.curve]
            (line,) = axes.plot(across, up, color=colour, linewidth=1.8, label=load_of(step))
            line.set_gid(f"tail-{index}")
        axes.set_xscale("log")
        reached = max((which for step in report.steps for which, _ in step.curve), default=99)
        ticks = [which for which in TAIL if which <= max(reached, 90)]
        axes.xaxis.set_major_locator(FixedLocator([_nines(which) for which in ticks]))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * (1 - 1 / value):.4g} %"))
        axes.set_xlim(1, 1.15 * _nines(max(reached, 90)))
        axes.set_xlabel("percentile of the answers")
        _milliseconds(axes, [found for step in report.steps for _, found in step.curve], report.deadline_ms)
        if len(report.steps) > 1:
            figure.legend(loc="outside right upper", frameon=False, reverse=True, title=report.of)
    return figure


def against_load(report: Report) -> Figure:
    """Of a sweep: p50 and p99, and answers per second, by load."""
    figure, (latency, rate) = _figure(2, 4.6)
    loads = [step.load for step in report.steps]
    with mpl.rc_context(STYLE):
        seen: list[float] = []
        for which, colour in ((50.0, P50), (99.0, P99)):
            known = [(step.load, found) for step in report.steps if (found := step.percentile(which)) is not None]
            seen += [found for _, found in known]
            if known:
                latency.plot(*zip(*known, strict=True), "o-", color=colour, markersize=5, label=f"p{which:g}")
        logarithmic(latency, "x", min(loads) / 1.15, max(loads) * 1.15)
        latency.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        _milliseconds(latency, seen, report.deadline_ms)
        if report.arrivals:
            rate.plot([0, max(loads)], [0, max(loads)], color=SOFT, linewidth=1, linestyle=":", label="offered")
        rate.plot(loads, [step.throughput for step in report.steps], "o-", color=SERIES[3], markersize=5, label="all")
        if report.deadline_ms:
            goodput = [step.goodput for step in report.steps]
            rate.plot(loads, goodput, "o-", color=SERIES[2], markersize=5, label="in time")
        rate.set_xlim(0, 1.05 * max(loads))
        rate.set_ylim(0, 1.15 * max(step.throughput for step in report.steps) or 1)
        rate.set_ylabel("answers per second")
        for axes in (latency, rate):
            axes.set_xlabel("offered, requests per second" if report.arrivals else "clients at a time")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
        if report.knee:
            _mark(latency, report.knee, "top")
            _mark(rate, report.knee, "bottom")
    return figure


def over_time(report: Report) -> Figure:
    """Of a single step: median and slowest answer of each second; below, answers and failures."""
    (step,) = report.steps
    figure, (latency, rate) = _figure(2, 5.2, below=True)
    across = [second.start + 0.5 for second in step.course]
    with mpl.rc_context(STYLE):
        answered = [second for second in step.course if second.p50_ms is not None]
        middle = [second.start + 0.5 for second in answered]
        slowest = [second.max_ms or 0.0 for second in answered]
        latency.plot(middle, slowest, "o-", color=P99, markersize=3, linewidth=1.4, label="slowest")
        latency.plot(middle, [s.p50_ms or 0.0 for s in answered], "o-", color=P50, markersize=3, label="median")
        _milliseconds(latency, [*slowest, *(second.p50_ms or 0.0 for second in answered)], report.deadline_ms)
        latency.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)
        done, failed = [s.answered for s in step.course], [s.failed for s in step.course]
        rate.bar(across, done, 0.8, color=P50, alpha=0.55, label="answered")
        rate.bar(across, failed, 0.8, bottom=done, color=FAILED, label="refused or lost")
        rate.set_xlim(0, max(step.seconds, 1))
        rate.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        rate.set_ylabel("due in a second")
        rate.set_xlabel("seconds")
        if any(failed):
            rate.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)
    return figure


def titles(report: Report) -> dict[str, str]:
    """Tooltips, by gid."""
    return {
        f"tail-{index}": f"{load_of(step)}: p50 {_ms(step, 50)}, p99 {_ms(step, 99)}"
        for index, step in enumerate(report.steps)
    }


def _figure(count: int, height: float, *, below: bool = False) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, height), facecolor=CARD, layout="constrained")
        FigureCanvasAgg(figure)
        if below:
            panels = figure.subplots(count, 1, sharex=True, height_ratios=[2.5, 1], squeeze=False)
        else:
            panels = figure.subplots(1, count, squeeze=False)
        for axes in panels.flat:
            tidy(axes)
    return figure, list(panels.flat)


def _milliseconds(axes: Axes, seen: Sequence[float], deadline: float | None) -> None:
    """The axis of latencies, with the deadline in it."""
    values = [value for value in [*seen, deadline or 0.0] if value > 0] or [1.0]
    logarithmic(axes, "y", min(values) / 1.3, max(values) * 1.3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_ylabel("latency, ms")
    if deadline:
        axes.axhline(deadline, **_DASHED)
        place: Any = {"xy": (0, deadline), "xycoords": ("axes fraction", "data")}
        axes.annotate(
            f"deadline {deadline:g} ms", **place, xytext=(6, 3), textcoords="offset points", va="bottom", **_SMALL
        )


def _mark(axes: Axes, knee: Figures, edge: str) -> None:
    """An upright line with its load, written at an edge where the panel has few points."""
    up = 1 if edge == "top" else 0
    axes.axvline(knee.load, color=INK, linewidth=0.9, zorder=1.5)
    place: Any = {"xy": (knee.load, up), "xycoords": ("data", "axes fraction"), "rotation": 90, "zorder": 6}
    text: Any = {"xytext": (-4, 6 - 12 * up), "textcoords": "offset points", "va": edge, "ha": "right"}
    axes.annotate(f"bears {load_of(knee)}", **place, **text, path_effects=_HALO, **_SMALL)


def _nines(which: float) -> float:
    """50 % is at 2, 90 % at 10, 99 % at 100."""
    return 100 / (100 - which)


def _shades(steps: Sequence[Figures]) -> list[str]:
    return [to_hex(SHADES(index / max(len(steps) - 1, 1))) for index in range(len(steps))] if len(steps) > 1 else [P50]


def _ms(step: Figures, which: float) -> str:
    found = step.percentile(which)
    return "-" if found is None else f"{number(found)} ms"
