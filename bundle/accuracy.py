"""How often a model is right on labelled images, and the files where that is kept: NAME/evaluations/DIGEST.json."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from bundle.aggregate import Average
from bundle.beside import read_json, write_text
from bundle.manifest import Facts, Sha256

FOLDER = "evaluations"
TOP = 5


class Interval(NamedTuple):
    """Of a proportion, in percent."""

    low: float
    high: float


class Accuracy(Facts):
    """What one configuration answered on one set of labelled images."""

    data: str
    """The name of the images."""
    data_sha256: Sha256
    """Of the images and their classes."""
    images: int = Field(ge=1)
    views: str
    """The plan."""
    average: Average
    stop: str = "never"
    top1: int = Field(ge=0)
    """Images whose best answer is right."""
    top5: int = Field(ge=0)
    """Images whose class is among the five best answers, or among all where there are fewer."""
    mean_views: float = Field(gt=0)
    """Views that were run for an image, on average: identical ones are run once."""
    gmacs: float = Field(ge=0)
    """10^9 multiply-adds for an image, on average."""
    images_per_second: float = Field(gt=0)
    """On the machine where it was measured."""

    def error(self, top: int = 1) -> float:
        """The part of wrong answers, in percent."""
        return 100 * (self.images - (self.top1 if top == 1 else self.top5)) / self.images  # 45 of 100 are 55 % exactly

    def interval(self, top: int = 1) -> Interval:
        """The 95 % interval of `error`."""
        wrong = self.images - (self.top1 if top == 1 else self.top5)
        return wilson(wrong, self.images)


class Accuracies(Facts):
    """Everything that was measured of one bundle."""

    digest: Sha256
    results: tuple[Accuracy, ...] = ()


def wilson(count: int, total: int, deviations: float = 1.959964) -> Interval:
    """The score interval of a proportion (Wilson, 1927), in percent; 95 % for 1.96 standard deviations."""
    part, square = count / total, deviations**2
    middle = (part + square / (2 * total)) / (1 + square / total)
    reach = deviations / (1 + square / total) * math.sqrt(part * (1 - part) / total + square / (4 * total**2))
    return Interval(100 * max(middle - reach, 0.0), 100 * min(middle + reach, 1.0))


def table(results: Iterable[Accuracy]) -> str:
    """As the papers print them: error in percent, one row a plan."""
    head = ["views", "average", "stop", "top-1 error % (95 %)", "top-5 error % (95 %)", "mean views", "GMAC",
            "images/s"]  # fmt: skip
    rows = [
        [r.views, r.average, r.stop, _percent(r, 1), _percent(r, TOP), _figure(r.mean_views), _figure(r.gmacs),
         _figure(r.images_per_second)]
        for r in results
    ]  # fmt: skip
    words = 3
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    )


def keep(folder: Path, digest: str, results: Sequence[Accuracy]) -> Path:
    """Adds results to those of a bundle; one of the same data, plan, average and stop takes the older one's place.

    Args:
        folder: NAME in the repository.
        digest: of the bundle.
        results: just measured.
    """
    path = folder / FOLDER / f"{digest}.json"
    known = read_json(path, Accuracies) or Accuracies(digest=digest)
    merged = {_key(result): result for result in (*known.results, *results)}
    everything = Accuracies(digest=digest, results=tuple(merged.values()))
    write_text(path, everything.model_dump_json(indent=1) + "\n")
    return path


def _key(result: Accuracy) -> tuple[str, ...]:
    return result.data_sha256, result.views, result.average, result.stop


def _figure(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"  # noqa: PLR2004 that is where .4g would lose some


def _percent(result: Accuracy, top: int) -> str:
    interval = result.interval(top)
    return f"{result.error(top):.2f} ({interval.low:.2f}-{interval.high:.2f})"
