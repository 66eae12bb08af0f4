"""How often a running server is right on labelled images, and at what cost: `multicrop-service evaluate`."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import Field
from tqdm import tqdm

from bundle.accuracy import TOP, Accuracy
from bundle.errors import LabelledError
from bundle.labelled import Labelled, open_labelled
from service.client import Client, ClientError, Looks, Prediction
from service.commands.asking import ServerJob, in_order, named, of_the_image, threads

OWN = "its own views"
"""What is asked for when no plan is named."""


class EvaluateJob(ServerJob):
    """Asks a running server for every labelled image with each view plan; prints error, views, GMAC and images per second."""  # noqa: E501 the help shows it as it is

    data: Path
    """labelled images: a folder with a folder for each class, a CSV file of file and label, MNIST's or Fashion-MNIST's IDX files, CIFAR-10"""  # noqa: E501 as above
    views: tuple[str, ...] = ()
    """the view plans, one row each: center,ten_crop; the model's own, or those of an ensemble's members, when left out"""  # noqa: E501 as above
    part: str | None = None
    """of the data, START:STOP as Python counts: --part 50000: or --part=-10000:"""
    as_json: Path | None = Field(default=None, alias="json")
    """a file for the same figures as JSON"""


@dataclass(frozen=True)
class Evaluated:
    """One plan."""

    accuracy: Accuracy
    refused: int
    """Images that the server refused; they count as wrong."""


@dataclass(frozen=True)
class _Answered:
    """One image."""

    looks: list[Looks]
    """Of the model, or of each member that answered."""
    place: int | None
    """Of the right class among the best, from 0; None when it is not among them."""


def evaluate(job: EvaluateJob, client: Client) -> Iterator[Evaluated]:
    """Asks for all images with one plan after the other.

    Every plan and option is tried on the first image before the rest is sent.

    Raises:
        ClientError: the server refuses the model or an option, or gives no answer.
        LabelledError: the images cannot be read, their labels are not the model's, or all of them are refused.
    """
    labels = client.model(job.model, job.version).labels
    data = open_labelled(job.data, labels, job.part)
    with threads(job.concurrency) as pool:
        asker = _Asker(job, client, labels, data, pool)
        plans: list[str | None] = [*dict.fromkeys(job.views)] or [None]  # None: the model's own
        for plan in plans:
            asker.check(plan)
        for plan in plans:
            yield asker.evaluate(plan)


class _Asker:
    """Asks for all images with one plan, as often as there are plans."""

    def __init__(
        self, job: EvaluateJob, client: Client, labels: list[str], data: Labelled, pool: ThreadPoolExecutor
    ) -> None:
        self._job = job
        self._client = client
        self._labels = labels
        self._data = data
        self._pool = pool

    def check(self, plan: str | None) -> None:
        """Raises the error of options that the server does not take."""
        try:
            self._classify(self._data[0].image, plan)
        except ClientError as error:
            if not of_the_image(error):
                raise

    def evaluate(self, plan: str | None) -> Evaluated:
        data, started = self._data, time.monotonic()
        found = list(self._all(plan))
        seconds = time.monotonic() - started
        answered = [answer for answer in found if isinstance(answer, _Answered)]
        if not answered:
            raise LabelledError(f"{plan or OWN}: the server refused all {len(data)} images of {data.name}; see above")
        ranks = [answer.place for answer in answered if answer.place is not None]
        looks = answered[0].looks[0]
        accuracy = Accuracy(
            data=data.name,
            data_sha256=data.digest(),
            images=len(data),
            views=plan or "+".join(dict.fromkeys(look.plan for look in answered[0].looks)),
            average=looks.average,
            stop=self._job.stop or looks.stop,  # as asked: what was used has the calibrated threshold in it
            top1=ranks.count(0),
            top5=len(ranks),
            mean_views=fmean(sum(look.computed for look in answer.looks) for answer in answered),
            gmacs=fmean(sum(look.gmacs for look in answer.looks) for answer in answered),
            images_per_second=len(data) / seconds,
        )
        return Evaluated(accuracy, len(found) - len(answered))

    def _all(self, plan: str | None) -> Iterator[_Answered | None]:
        """None for an image that the server refuses."""
        with tqdm(total=len(self._data), desc=plan or OWN, unit="image") as bar:
            for answer in in_order(
                self._pool, lambda place: self._one(place, plan), range(len(self._data)), 2 * self._job.concurrency
            ):
                if isinstance(answer, str):
                    bar.write(f"multicrop-service: {answer}", file=sys.stderr)
                bar.update()
                yield answer if isinstance(answer, _Answered) else None

    def _one(self, place: int, plan: str | None) -> _Answered | str:
        """A refusal of the image is a line about it."""
        example = self._data[place]
        try:
            prediction = self._classify(example.image, plan)
        except ClientError as error:
            if of_the_image(error):
                return f"{example.name}: {error}"
            raise named(error, example.name) from error
        best = [score.index for score in prediction.predictions]
        return _Answered(prediction.looks, best.index(example.label) if example.label in best else None)

    def _classify(self, image: bytes, plan: str | None) -> Prediction:
        job = self._job
        prediction = self._client.classify(
            job.model,
            image,
            views=plan,
            average=job.average,
            stop=job.stop,
            top_k=min(TOP, len(self._labels)),
            version=job.version,
        )
        for score in prediction.predictions:
            if self._labels[score.index : score.index + 1] != [score.label]:
                raise LabelledError(
                    f"{job.model} answers {score.label!r} for class {score.index}, whose label was another when this"
                    " began; run it again: the server may have another model by now"
                )
        return prediction
