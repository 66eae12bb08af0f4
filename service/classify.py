"""One image to one answer: plan, queue, run, average. All protocols are this path with other views."""

import asyncio
import time
from collections.abc import Callable

from pydantic import BaseModel, Field

from bundle.aggregate import Average, average, top_k
from bundle.preprocess import ImageLimits, Pixels, decode, probe, render
from bundle.views import ViewPlan
from service.engine.queue import Entry
from service.errors import DeadlineExceededError, InvalidParameterError
from service.model import ServedModel


class Views(BaseModel):
    """What was looked at."""

    plan: str = Field(examples=["ten_crop"])
    planned: int = Field(examples=[10])
    """Views of the plan."""
    computed: int = Field(examples=[10])
    """Views that were run: identical ones are run once."""


class Score(BaseModel):
    """A class and its probability."""

    index: int = Field(examples=[281])
    label: str = Field(examples=["tabby cat"])
    probability: float = Field(ge=0, le=1, examples=[0.83])


class Timings(BaseModel):
    """Milliseconds of this image in each stage."""

    decode: float = Field(examples=[2.4])
    """Decoding and drawing the views."""
    queue: float = Field(examples=[0.1])
    compute: float = Field(examples=[18.2])
    merge: float = Field(examples=[0.1])
    total: float = Field(examples=[21.0])


class Prediction(BaseModel):
    """The answer for one image."""

    model: str = Field(examples=["resnet50"])
    version: int = Field(examples=[1])
    digest: str = Field(examples=["5f0c" * 16])
    """sha256 of the bundle's manifest."""
    views: Views
    predictions: list[Score]
    """The most probable classes, the best first."""
    timings_ms: Timings
    request_id: str


async def classify(
    model: ServedModel,
    image: bytes,
    *,
    plan: str,
    averaging: Average,
    k: int,
    limits: ImageLimits,
    timeout: float,  # noqa: ASYNC109 it travels with the entry into another thread
    request_id: str,
) -> Prediction:
    """Classifies one encoded image.

    Args:
        model: that serves.
        image: a JPEG, PNG or WebP file.
        plan: a name of `bundle.views.PLANS`.
        averaging: over the views.
        k: number of classes in the answer, 1 to the number of classes.
        limits: on the image.
        timeout: seconds from now.
        request_id: for the answer.

    Raises:
        UnknownViewsError, InvalidParameterError: before anything is decoded.
        ImageFormatError, BadImageError: about the image.
        QueueFullError, DeadlineExceededError, ShuttingDownError, BackendError: about the engine.
    """
    started = time.monotonic()
    check_options(model, plan, k)
    try:
        async with asyncio.timeout(timeout):
            size = await asyncio.to_thread(probe, image, limits)
            views = model.plan(plan, size)
            distinct = views.distinct()
            entry = Entry(len(distinct), model.shape, _draw(model, image, distinct, limits), started + timeout)
            model.batcher.submit(entry)
            logits = await asyncio.wrap_future(entry.future)
    except TimeoutError as error:
        raise DeadlineExceededError(f"no answer within {timeout:g} s; send fewer views, or later") from error

    scored = time.monotonic()
    probabilities = average(logits, [view.weight for view in distinct], averaging)
    best = [
        Score(index=index, label=model.labels[index], probability=probabilities[index])
        for index in top_k(probabilities, k)
    ]
    ended = time.monotonic()
    return Prediction(
        model=model.name,
        version=model.version,
        digest=model.digest,
        views=Views(plan=views.name, planned=len(views), computed=len(distinct)),
        predictions=best,
        timings_ms=Timings(
            decode=_milliseconds(entry.fill_seconds),
            queue=_milliseconds(entry.queue_seconds),
            compute=_milliseconds(entry.compute_seconds),
            merge=_milliseconds(ended - scored),
            total=_milliseconds(ended - started),
        ),
        request_id=request_id,
    )


def check_options(model: ServedModel, plan: str, k: int) -> None:
    """Raises UnknownViewsError or InvalidParameterError when this model cannot take them."""
    model.check_plan(plan)
    if k > len(model.labels):
        raise InvalidParameterError(f"top_k is {k}; {model.name} has {len(model.labels)} classes")


def _draw(model: ServedModel, image: bytes, views: ViewPlan, limits: ImageLimits) -> Callable[[Pixels], None]:
    wanted = model.manifest.input

    def fill(rows: Pixels) -> None:
        render(decode(image, wanted.channels, limits), views, rows, wanted.interpolation)

    return fill


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
