"""A load test as one HTML page. Needs the extra `page`; nothing else of the service does."""

from markupsafe import Markup
from matplotlib.figure import Figure

from pages.html import render_page
from pages.svg import inline, to_svg
from service.loadtest.plot import against_load, over_time, tail, titles
from service.loadtest.report import Report, cells, load_of, number


def to_html(report: Report) -> str:
    """One file without anything from elsewhere."""
    single = len(report.steps) == 1
    return render_page(
        "service",
        "loadtest.html",
        {"number": number, "load": load_of, "cells": cells},
        report=report,
        shown=report.knee or report.best,
        tail=_picture(tail(report), report),
        second=_picture(over_time(report) if single else against_load(report), report),
        single=single,
    )


def _picture(figure: Figure, report: Report) -> Markup:
    return Markup(inline(to_svg(figure, titles(report))))  # noqa: S704 our own, and its texts are escaped
