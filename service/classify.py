"""One image to one answer. All protocols, and ensembles, are this path with other views."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from service.answer import Answered, Fault, MemberAnswer, MemberAnswered, Prediction, Timings, best
from service.errors import DeadlineExceededError, InvalidParameterError
from service.work import Asked, Bounds

DEFAULT_TOP_K = 5

Explain = Callable[[Exception], Fault]
"""What a client is told of an error."""


class Classifier(Protocol):
    """A model, or an ensemble of models."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None: ...

    @property
    def digest(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def usual_timeout(self) -> float | None:
        """Seconds, of requests that name none; None leaves it to the server."""

    def check(self, asked: Asked) -> None:
        """Raises UnknownViewsError or InvalidParameterError when it cannot do what is asked, whatever the image."""

    async def answer(self, image: bytes, asked: Asked, bounds: Bounds, deadline: float) -> Answered:
        """What it says of one image; call `check` first.

        Args:
            image: a JPEG, PNG or WebP file.
            asked: by the client.
            bounds: on the image and on the work.
            deadline: on the clock of time.monotonic.

        Raises:
            WorkLimitError: before anything is decoded.
            ImageError: about the image.
            QueueFullError, DeadlineExceededError, ShuttingDownError, BackendError: about the engine.
        """


def check(classifier: Classifier, asked: Asked) -> None:
    """Raises UnknownViewsError or InvalidParameterError when it cannot do what is asked, whatever the image."""
    classifier.check(asked)
    if asked.top_k is not None and asked.top_k > len(classifier.labels):
        raise InvalidParameterError(f"top_k is {asked.top_k}; {classifier.name} has {len(classifier.labels)} classes")


async def classify(
    classifier: Classifier, image: bytes, *, asked: Asked, bounds: Bounds, explain: Explain, request_id: str
) -> Prediction:
    """Classifies one encoded image.

    Raises:
        UnknownViewsError, InvalidParameterError: as `check`.
        DeadlineExceededError: no answer within the bounds.
        others: as `Classifier.answer`.
    """
    started = time.monotonic()
    check(classifier, asked)
    try:
        async with asyncio.timeout(bounds.timeout):
            answered = await classifier.answer(image, asked, bounds, started + bounds.timeout)
    except TimeoutError as error:
        raise DeadlineExceededError(f"no answer within {bounds.timeout:g} s; send fewer views, or later") from error
    predictions = best(answered.probabilities, classifier.labels, asked.top_k or DEFAULT_TOP_K)
    return Prediction(
        model=classifier.name,
        version=classifier.version,
        digest=classifier.digest,
        views=answered.views,
        members=[_tell(member, explain) for member in answered.members] or None,
        predictions=predictions,
        timings_ms=Timings(**answered.seconds.milliseconds(time.monotonic() - started)),
        request_id=request_id,
    )


def _tell(member: MemberAnswered, explain: Explain) -> MemberAnswer:
    return MemberAnswer(
        model=member.model,
        version=member.version,
        digest=member.digest,
        weight=member.weight,
        views=None if isinstance(member.answered, Exception) else member.answered.views,
        problem=explain(member.answered) if isinstance(member.answered, Exception) else None,
    )
