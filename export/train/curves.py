"""The command `curves`: the logs of one run or several as a page, and as a table for the terminal.

folders -> Run -> Curves -> pictures -> HTML
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from markupsafe import Markup
from matplotlib.figure import Figure

from bundle.beside import write_atomically
from export.architectures import ARCHITECTURES
from export.errors import ExportError
from export.train.curves_plot import learning, saturation, steering, titles
from export.train.job import CurvesJob
from export.train.log import Run, read_run
from pages.html import render_page
from pages.svg import inline, to_svg

LEFT_OUT = ("recipe.source", "network", "data", "labels", "start.sha256")
"""Of what was asked for otherwise: what the table shows anyway, or nobody reads."""


@dataclass(frozen=True)
class Row:
    """A run in the table, as text."""

    name: str
    of: str
    """Network and data."""
    different: str
    """What was asked for otherwise than for another run of the page."""
    error: str
    epoch: str
    step: str
    train_error: str
    reached: str
    epochs: str
    whole: bool


def tell(job: CurvesJob) -> str:
    """Writes the page.

    Returns:
        The table, and where the page is.

    Raises:
        ExportError: a folder holds no run; the page cannot be written.
    """
    runs = [in_order(read_run(folder, name)) for folder, name in zip(job.runs, names(job.runs), strict=True)]
    error = None if job.error is None else job.error / 100
    found = rows(runs, error)
    try:
        write_atomically(job.page, to_html(runs, found, error).encode())
    except OSError as problem:
        raise ExportError(f"{job.page} cannot be written: {problem.strerror}; choose another --page") from problem
    return f"{table(found, error)}\n{job.page}"


def in_order(run: Run) -> Run:
    """The same run with its layers as they stand in the network; the log has them by the alphabet."""
    row = ARCHITECTURES.get(run.asked.network)
    if row is None:
        return run
    with torch.device("meta"):
        network = row.build(row.classes, row.channels)
    places = {name: place for place, (name, _) in enumerate(network.named_modules())}

    def place(layer: str) -> tuple[int, int]:
        if layer in places:
            return places[layer], 1
        name, _, call = layer.rpartition(".")  # a layer that is used several times
        return places.get(name, len(places)), int(call) if call.isdigit() else 0

    return replace(run, layers=tuple(sorted(run.layers, key=place)))


def names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, where no two are the same; else their paths."""
    found = [folder.resolve().name for folder in folders]
    if max(Counter(found).values()) == 1:
        return found
    return [str(folder) for folder in folders]


def rows(runs: Sequence[Run], error: float | None) -> list[Row]:
    """The figures of the runs; `error`, a fraction, is the one to whose first time steps are counted."""
    return [
        _row(run, different, None if error is None else run.reached(error))
        for run, different in zip(runs, differences(runs), strict=True)
    ]


def differences(runs: Sequence[Run]) -> list[str]:
    """What was asked for of each run otherwise than of another."""
    keys = {key: None for run in runs for key in run.facts if key not in LEFT_OUT}
    apart = [key for key in keys if any(run.facts.get(key) != runs[0].facts.get(key) for run in runs)]
    return [
        ", ".join(
            f"{key.removeprefix('recipe.').replace('_', ' ').replace('.', ' ')} {run.facts[key]}"
            for key in apart
            if run.facts.get(key) is not None
        )
        for run in runs
    ]


def to_html(runs: Sequence[Run], found: Sequence[Row], error: float | None) -> str:
    """One file without anything from elsewhere."""
    figures = [learning(runs, error), steering(runs)]
    if any(run.layers for run in runs):
        figures.append(saturation(runs))
    said = titles(runs)
    return render_page(
        "export",
        "curves.html",
        {},
        rows=found,
        percent=None if error is None else f"{100 * error:g}",
        pictures=[_picture(figure, said) for figure in figures],
        apart=any(row.different for row in found),
    )


def table(found: Sequence[Row], error: float | None) -> str:
    """Aligned columns for the terminal."""
    head = ["run", "validation error %", "epoch", "steps", "training error %", "epochs"]
    cells = [[row.name, row.error, row.epoch, row.step, row.train_error, row.epochs] for row in found]
    if error is not None:
        head.append(f"steps to {100 * error:g} %")
        cells = [[*line, row.reached] for line, row in zip(cells, found, strict=True)]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in (head, *cells)
    )


def _row(run: Run, different: str, reached: int | None) -> Row:
    best = run.best()
    return Row(
        name=run.name,
        of=f"{run.asked.network} on {run.asked.data}",
        different=different,
        error="-" if best is None else f"{100 * best.error:.2f}",
        epoch="-" if best is None else str(best.epoch),
        step="-" if best is None else f"{best.step:,}",
        train_error="-" if best is None or best.train_error is None else f"{100 * best.train_error:.2f}",
        reached="-" if reached is None else f"{reached:,}",
        epochs=f"{run.epochs_done}" if run.whole else f"{run.epochs_done} of {run.asked.epochs}",
        whole=run.whole,
    )


def _picture(figure: Figure, said: dict[str, str]) -> Markup:
    return Markup(inline(to_svg(figure, said)))  # noqa: S704 our own, and its texts are escaped
