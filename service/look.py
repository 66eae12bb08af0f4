"""Runs the views of one image in waves: one entry for each shape of a wave, one decoding for all of them."""

import asyncio
import functools
import math
import threading
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bundle.aggregate import Average, average
from bundle.manifest import Input, Manifest
from bundle.preprocess import Opened, Pixels
from bundle.render import Scaled
from bundle.views import Size, View
from service.answer import Probabilities, Seconds
from service.engine.batcher import Batcher
from service.engine.entry import Entry, Scores
from service.errors import ModelOutputError
from service.work import Work, cost_of

Result = TypeVar("Result")

SCORES_ON_THE_LOOP = 20_000
"""More views times classes than that are averaged in a thread: 0.2 ms, while other requests wait."""


@dataclass(frozen=True)
class Looked:
    """What the views that were run say."""

    logits: Scores
    """float32 [views run, classes], in plan order"""
    mean: Probabilities
    """[classes], over the views run"""
    seconds: Seconds


class Drawing:
    """The views of one image, decoded once by whoever draws first; any number of threads may draw, each view once."""

    def __init__(self, image: Opened, views: Iterable[View], wanted: Input) -> None:
        self._lock = threading.Lock()
        self._image: Opened | None = image
        self._views = tuple(views)
        self._left = len(self._views)
        self._wanted = wanted
        self._scaled: Scaled | Exception | None = None

    def draw(self, views: Iterable[View], rows: Pixels) -> None:
        """Writes the pixels of some of the views, all of one size, into uint8 [views, height, width, channels].

        Raises:
            ImageError: the image is damaged.
        """
        with self._lock:
            if self._image is not None:
                self._scaled, self._image = self._decode(self._image), None
            scaled = self._scaled
        assert scaled is not None  # noqa: S101 for the type checker; each view is drawn once
        if isinstance(scaled, Exception):
            raise scaled
        scaled.draw(views, rows)
        with self._lock:
            self._left -= len(rows)
            if not self._left:  # megabytes that nobody needs while the last views wait for the device
                self._scaled = None

    def _decode(self, image: Opened) -> Scaled | Exception:
        """A bad image is decoded once too."""
        try:
            return Scaled.of(image, self._views, self._wanted)
        except Exception as error:  # noqa: BLE001 everybody who draws gets it
            return error


async def look(batcher: Batcher, manifest: Manifest, image: Opened, work: Work, deadline: float) -> Looked:
    """The scores of the views, as many of them as the rule wants.

    Args:
        batcher: of the model.
        manifest: of the model.
        image: an encoded file.
        work: on it.
        deadline: on the clock of time.monotonic.

    Raises:
        BadImageError: it is damaged.
        QueueFullError, DeadlineExceededError, ShuttingDownError, BackendError: about the engine.
        ModelOutputError: the network answered with values that are no numbers.
    """
    drawing = Drawing(image, work.views, manifest.input)
    logits = np.empty((len(work.views), manifest.classes), np.float32)
    weights, seconds, start = work.weights, Seconds(), 0
    for wave, stop in enumerate(work.choice.rule.waves(weights)):
        entries = _entries(work.views[start:stop], start, drawing, manifest, deadline, work.choice.priority)
        batcher.submit(*(entry for _, entry in entries), admitted=start > 0)
        scores = await together(asyncio.wrap_future(entry.future) for _, entry in entries)
        for (places, _), rows in zip(entries, scores, strict=True):
            logits[places] = rows
        began, start = time.monotonic(), stop
        mean = await _mean(logits[:stop], weights[:stop], work.choice.average)
        if not np.isfinite(mean).all():
            raise ModelOutputError
        ran = Seconds.beside([Seconds(e.fill_seconds, e.queue_seconds, e.compute_seconds) for _, e in entries])
        seconds = seconds + ran + Seconds(merge=time.monotonic() - began)
        if work.choice.rule.enough(wave, mean, math.fsum(weights[:stop]) / math.fsum(weights)):
            break
    return Looked(logits[:start], mean, seconds)


async def together(works: Iterable[Awaitable[Result]]) -> list[Result]:
    """The results in order; the first failure, or a cancellation, cancels what is left."""
    works = list(works)
    if len(works) == 1:
        return [await works[0]]
    futures = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()


def _entries(
    views: tuple[View, ...], first: int, drawing: Drawing, manifest: Manifest, deadline: float, priority: int
) -> list[tuple[list[int], Entry]]:
    """One for each size of view, with the places of its rows; `first` is the place of the first view."""
    places: dict[Size, list[int]] = {}
    for place, view in enumerate(views):
        places.setdefault(view.size, []).append(place)
    return [
        (
            [first + place for place in found],
            Entry(
                len(found),
                (size.height, size.width, manifest.input.channels),
                functools.partial(drawing.draw, [views[place] for place in found]),
                deadline,
                priority,
                cost=cost_of(size, manifest),
            ),
        )
        for size, found in places.items()
    ]


async def _mean(logits: Scores, weights: list[float], how: Average) -> Probabilities:
    if logits.size > SCORES_ON_THE_LOOP:
        return await asyncio.to_thread(average, logits, weights, how)
    return average(logits, weights, how)
