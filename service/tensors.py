"""Pixels that a client has cut and scaled itself, through the same queue as the views of images."""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bundle.bounds import MAX_DRAWN_PIXELS, MAX_VIEW_PIXELS
from bundle.manifest import Input
from bundle.preprocess import Pixels
from bundle.views import Size
from service.answer import Seconds
from service.engine.entry import Entry, Scores
from service.errors import InvalidTensorError, WorkLimitError
from service.model import ServedModel
from service.work import cost_of

MAX_ROWS = 64
"""Images in one request; the engine cuts them to what the device takes at once."""


@dataclass(frozen=True)
class Scored:
    logits: Scores
    """float32 [rows, classes]"""
    seconds: Seconds


def check_shape(model: ServedModel, shape: list[int], max_gmacs: float) -> None:
    """Whether the model takes a tensor of that shape, in Python's integers, before anything is allocated.

    Args:
        model: that would run it.
        shape: [rows, height, width, channels] as the client said.
        max_gmacs: on one request.

    Raises:
        InvalidTensorError: another rank or size, or too many rows.
        WorkLimitError: it costs more than one request may.
    """
    wanted = model.manifest.input
    if not _fits(shape, wanted):
        least = "at least " if wanted.dynamic else ""
        raise InvalidTensorError(
            f"{model.name} takes images of shape [1..{MAX_ROWS}, {least}{wanted.height}, {least}{wanted.width},"
            f" {wanted.channels}]; the shape of this tensor is another"
        )
    rows, height, width, _ = shape
    if height * width > MAX_VIEW_PIXELS or rows * height * width > MAX_DRAWN_PIXELS:
        raise InvalidTensorError(
            f"an image has at most {MAX_VIEW_PIXELS} pixels and a request {MAX_DRAWN_PIXELS}; send smaller or fewer"
        )
    gmacs = rows * model.manifest.macs_at(Size(width, height)) / 1e9
    if gmacs > max_gmacs:
        raise WorkLimitError(
            f"{rows} images of {width} x {height} cost {gmacs:,.6g} GMAC, at most {max_gmacs:,.6g} are allowed for a"
            " request; send fewer, or let the operator raise --max-gmacs"
        )


async def score(
    model: ServedModel, images: Pixels, deadline: float, priority: int, charge: Callable[[int], None]
) -> Scored:
    """The scores of images that are as large as the network takes them; call `check_shape` first.

    Args:
        model: that runs them.
        images: uint8 [rows, height, width, channels].
        deadline: on the clock of time.monotonic.
        priority: of the views; higher is sooner.
        charge: takes them from their sender's quota; raises QuotaExceededError.

    Raises:
        QueueFullError, DeadlineExceededError, ShuttingDownError, BackendError: about the engine.
    """
    rows, height, width, channels = images.shape
    cost = cost_of(Size(width, height), model.manifest)
    charge(rows * cost)
    entry = Entry(rows, (height, width, channels), functools.partial(_copy, images), deadline, priority, cost)
    model.batcher.submit(entry)
    logits = await asyncio.wrap_future(entry.future)
    return Scored(logits, Seconds(entry.fill_seconds, entry.queue_seconds, entry.compute_seconds))


def _copy(images: Pixels, rows: Pixels) -> None:
    np.copyto(rows, images)


def _fits(shape: list[int], wanted: Input) -> bool:
    if len(shape) != 4 or not 1 <= shape[0] <= MAX_ROWS or shape[3] != wanted.channels:  # noqa: PLR2004 as above
        return False
    if wanted.dynamic:  # a network in dense form has no output for less than one native view
        return shape[1] >= wanted.height and shape[2] >= wanted.width
    return shape[1:3] == [wanted.height, wanted.width]
