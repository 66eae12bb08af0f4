"""Accuracy of a graph on labelled images, in this process: the same views, waves and averages as the service's."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from bundle.accuracy import Accuracy
from bundle.aggregate import Average
from bundle.calibration import Calibration, find_rule
from bundle.errors import ImageError
from bundle.labelled import Labelled
from bundle.manifest import Evaluation, Input
from bundle.plan import Plan
from bundle.plans import PUBLISHED
from bundle.stop import Never, Rule, StopOption
from bundle.store import Bundle
from export.errors import ExportError
from export.runner import Answer, Logits, Look, Runner
from export.target import require_plan

Item = TypeVar("Item")
Result = TypeVar("Result")


class Unread(NamedTuple):
    """An image that cannot be read."""

    name: str
    reason: str


@dataclass(frozen=True)
class Measurement:
    accuracy: Accuracy
    answers: tuple[Answer | None, ...]
    """One for each image, in their order; None of an image that cannot be read, which counts as wrong."""
    unread: tuple[Unread, ...]


def measure(
    bundle: Bundle,
    data: Labelled,
    plan: Plan,
    *,
    average: Average | None = None,
    stop: str = "never",
    calibrations: Mapping[str, Calibration] | None = None,
    runner: Runner | None = None,
    answered: Callable[[], object] = lambda: None,
) -> Measurement:
    """Asks a bundle for every image with the views of a plan, on as many cores as torch uses.

    Mean views and multiply-adds are of the images that could be read.

    Args:
        bundle: to ask.
        data: labelled images.
        plan: of their views.
        average: over the views; the plan's own, or probabilities, when None.
        stop: see `StopOption.parse`.
        calibrations: of the bundle by the name of the plan, for `stop=confident`.
        runner: of the bundle, where there are several plans to measure; one is opened when None.
        answered: called after each image, in this thread.

    Raises:
        ExportError: before anything runs, where the bundle cannot run the plan, or stop like that; after it, where no
            image at all could be read.
        LabelledError: a file of the data is gone.
    """
    how, rule = choose(bundle, plan, average, stop, calibrations)
    asked, digest = runner or Runner(bundle.model, bundle.manifest.input), data.digest()
    started = time.perf_counter()
    found = list(_each(data, lambda image: asked.answer(image, plan, rule, how), answered))
    seconds = time.perf_counter() - started
    answers = tuple(None if isinstance(answer, Unread) else answer for answer in found)
    read, unread = [answer for answer in answers if answer], _unread(data, found)
    truths = [(answer.top, int(label)) for answer, label in zip(answers, data.labels, strict=True) if answer]
    accuracy = Accuracy(
        data=data.name,
        data_sha256=digest,
        images=len(data),
        views=plan.name,
        average=how,
        stop=stop,
        top1=sum(top[0] == label for top, label in truths),
        top5=sum(label in top for top, label in truths),
        mean_views=sum(answer.views for answer in read) / len(read),
        gmacs=sum(_macs(bundle, answer) for answer in read) / len(read) / 1e9,
        images_per_second=len(data) / seconds,
    )
    return Measurement(accuracy, answers, unread)


def _macs(bundle: Bundle, answer: Answer) -> int:
    return sum(views * bundle.manifest.macs_at(size) for size, views in answer.sizes.items())


def choose(
    bundle: Bundle,
    plan: Plan,
    average: Average | None = None,
    stop: str = "never",
    calibrations: Mapping[str, Calibration] | None = None,
) -> tuple[Average, Rule]:
    """How the views of a plan are averaged, and when they are enough; arguments and errors as of `measure`."""
    require_plan(bundle, plan)
    how, option = average or plan.average or "probabilities", parse_stop(stop)
    try:
        return how, find_rule(option, plan, how, dict(calibrations or {}))
    except ValueError as error:
        raise ExportError(str(error)) from error


def parse_stop(text: str) -> StopOption:
    """Raises ExportError."""
    try:
        return StopOption.parse(text)
    except ValueError as error:
        raise ExportError(f"{error}; {text!r:.40} is none of these") from error


class Distinct(NamedTuple):
    """The views of one image that the service runs: identical ones are one."""

    places: list[int]
    """Among the planned views, in plan order."""
    weights: list[float]


@dataclass(frozen=True)
class Scores:
    """What a graph says of every planned view of the images that could be read."""

    logits: npt.NDArray[np.float32]
    """[images, views, classes]; identical views are computed once and repeated."""
    labels: npt.NDArray[np.int64]
    """[images]"""
    distinct: tuple[Distinct, ...]
    """One for each image: their number depends on its size."""
    unread: tuple[Unread, ...]
    """The other images."""

    def __len__(self) -> int:
        return len(self.labels)

    def each(self) -> Iterator[tuple[Logits, list[float]]]:
        """The logits of the distinct views of each image, with their weights."""
        for logits, distinct in zip(self.logits, self.distinct, strict=True):
            yield logits[distinct.places], distinct.weights


def score(bundle: Bundle, data: Labelled, plan: Plan, answered: Callable[[], object] = lambda: None) -> Scores:
    """The logits of all views of all images; they take images x views x classes x 4 bytes.

    Raises:
        ExportError, LabelledError: as `measure`.
    """
    require_plan(bundle, plan)
    runner = Runner(bundle.model, bundle.manifest.input)
    found = list(_each(data, lambda image: _score(runner.look(image, plan)), answered))
    unread = _unread(data, found)
    read = [index for index, one in enumerate(found) if not isinstance(one, Unread)]
    scored = [one for one in found if not isinstance(one, Unread)]
    return Scores(np.stack([one[0] for one in scored]), data.labels[read], tuple(one[1] for one in scored), unread)


def _score(look: Look) -> tuple[Logits, Distinct]:
    logits = look.run(look.views)
    row = {replace(view, weight=1.0): index for index, view in enumerate(look.views)}
    rows = [row[replace(view, weight=1.0)] for view in look.planned]
    places = [rows.index(index) for index in range(len(look.views))]
    return logits[rows], Distinct(places, [view.weight for view in look.views])


@dataclass(frozen=True)
class Evaluated:
    evaluation: Evaluation
    answers: tuple[Answer, ...]
    """One for each image, in their order."""


def evaluate(
    model: bytes,
    wanted: Input,
    images: Sequence[bytes],
    classes: Iterable[int],
    *,
    data: str,
    views: str = "center",
    averaging: Average = "probabilities",
) -> Evaluated:
    """What a graph that is no bundle yet answers for some images; for its manifest.

    Args:
        model: the graph's bytes.
        wanted: what the graph takes.
        images: encoded.
        classes: the right answers, one for each image.
        data: the name of the images in the report.
        views: a published plan.
        averaging: how the scores of the views become one.
    """
    runner, plan = Runner(model, wanted), PUBLISHED[views]
    answers = tuple(_on_lanes(lambda image: runner.answer(image, plan, Never(), averaging), images))
    right = sum(answer.index == truth for answer, truth in zip(answers, classes, strict=True))
    return Evaluated(
        Evaluation(data=data, views=views, average=averaging, images=len(answers), top1=right),
        answers,
    )


def _each(data: Labelled, ask: Callable[[bytes], Result], answered: Callable[[], object]) -> Iterator[Result | Unread]:
    """What `ask` says of each image, in order."""

    def one(index: int) -> Result | Unread:
        example = data[index]
        try:
            return ask(example.image)
        except ImageError as error:
            return Unread(example.name, str(error))

    for result in _on_lanes(one, range(len(data))):
        answered()
        yield result


def _unread(data: Labelled, found: Sequence[object]) -> tuple[Unread, ...]:
    unread = tuple(one for one in found if isinstance(one, Unread))
    if len(unread) == len(data):
        raise ExportError(f"no image of {data.name} can be read; {unread[0].name}: {unread[0].reason}")
    return unread


def _on_lanes(ask: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Like `map`, by as many threads as torch uses: Pillow and ONNX Runtime compute outside the interpreter's lock."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(ask, items)
