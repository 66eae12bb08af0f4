"""Accuracy of a frozen graph on labelled images, in this process: the same views and averages as the service's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from PIL import Image

from bundle.aggregate import Average, average, top_k
from bundle.manifest import Evaluation, Input
from bundle.preprocess import ImageLimits, decode, render
from bundle.views import PLANS, Size
from export.errors import ExportError
from export.verify import open_session, run

AnImage = bytes | Image.Image
"""An encoded image, or an upright decoded one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The best class of one image."""

    index: int
    probability: float


@dataclass(frozen=True)
class Evaluated:
    evaluation: Evaluation
    answers: tuple[Answer, ...]
    """One for each image, in their order."""


def evaluate(
    model: bytes,
    wanted: Input,
    images: Sequence[AnImage],
    classes: Iterable[int],
    *,
    data: str,
    views: str = "center",
    averaging: Average = "probabilities",
) -> Evaluated:
    """Asks the graph for every image with the views of a plan.

    Args:
        model: the graph's bytes (`Bundle.model`).
        wanted: what the graph takes (`Bundle.manifest.input`).
        images: encoded, or decoded and upright.
        classes: the right answers, one for each image.
        data: the name of the images in the report.
        views: a name in `bundle.views.PLANS`.
        averaging: how the scores of the views become one.
    """
    session = open_session(model)
    answers = tuple(_answer(session, wanted, image, views, averaging) for image in images)
    right = sum(answer.index == truth for answer, truth in zip(answers, classes, strict=True))
    return Evaluated(
        Evaluation(data=data, views=views, average=averaging, images=len(answers), top1=right),
        answers,
    )


def _answer(
    session: onnxruntime.InferenceSession, wanted: Input, image: AnImage, views: str, averaging: Average
) -> Answer:
    if views not in PLANS:
        raise ExportError(f"there is no plan {views!r}; choose one of {', '.join(PLANS)}")
    upright = _pixels(image, wanted.channels)
    plan = PLANS[views](Size(*upright.size), wanted.size, wanted.resize).distinct()
    rows = np.empty((len(plan), wanted.height, wanted.width, wanted.channels), np.uint8)
    render(upright, plan, rows, wanted.interpolation)
    probabilities = average(run(session, rows), [view.weight for view in plan], averaging)
    best = top_k(probabilities, 1)[0]
    return Answer(best, float(probabilities[best]))


def _pixels(image: AnImage, channels: int) -> Image.Image:
    if isinstance(image, bytes):
        return decode(image, channels, ImageLimits())
    return image.convert("L" if channels == 1 else "RGB")
