"""Several models as one: each looks at the image in its own way, the answer is the weighted mean of what they say."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bundle.calibration import fingerprint
from bundle.errors import BundleError, ImageError
from bundle.preprocess import Opened
from bundle.serving import ENSEMBLE, EnsembleFile, Member
from bundle.stop import StopOption
from service.answer import Answered, MemberAnswered, Seconds
from service.errors import DeadlineExceededError, InvalidParameterError, ServiceError, UnknownViewsError
from service.look import together
from service.model import ServedModel
from service.work import Asked, Bounds, Work, check_work

logger = logging.getLogger(__name__)

LAST_SECONDS = 0.05
"""Before the deadline, for what the other members said to be averaged and sent; less of a short one."""


@dataclass(frozen=True)
class EnsembleMember:
    """A model and its part."""

    model: ServedModel
    weight: float
    """Of all members together 1."""
    views: str
    """Its plan, unless the client names one for all."""


class Ensemble:
    """A name for several models with the same labels."""

    version = None
    usual_timeout = None

    def __init__(self, name: str, members: list[EnsembleMember], *, partial: bool) -> None:
        self.name = name
        self.members = members
        self.partial = partial
        """Whether the others answer when a member fails."""
        self.labels = members[0].model.labels
        self.digest = _digest(members)

    def check(self, asked: Asked) -> None:
        """Raises UnknownViewsError or InvalidParameterError when a member cannot do what is asked."""
        if asked.stop is not None:
            self._require_never(asked.stop)
        for member in self.members:
            member.model.check(_of(member, asked))

    async def answer(self, image: bytes, asked: Asked, bounds: Bounds, deadline: float) -> Answered:
        """What the members say together, see `classify.Classifier`.

        A member that fails fails the answer, or with `partial` is left out; when all fail, so does the answer.
        """
        if self.partial:
            deadline -= min(LAST_SECONDS, bounds.timeout / 20)
        prepared = await asyncio.to_thread(self._prepare, image, asked, bounds)
        answers = await together(
            self._ask(member, *each, deadline) for member, each in zip(self.members, prepared, strict=True)
        )
        whole = [answer for answer in answers if isinstance(answer, Answered)]
        if not whole:
            raise next(answer for answer in answers if isinstance(answer, Exception))
        weights = self._weights(answers)
        mean = np.average([answer.probabilities for answer in whole], axis=0, weights=[w for w in weights if w])
        parts = [
            MemberAnswered(member.model.name, member.model.version, member.model.digest, weight, answer)
            for member, weight, answer in zip(self.members, weights, answers, strict=True)
        ]
        return Answered(mean, Seconds.beside([answer.seconds for answer in whole]), members=tuple(parts))

    def _prepare(self, image: bytes, asked: Asked, bounds: Bounds) -> list[tuple[Opened, Work]]:
        """For each member, which decodes the image for its own views."""
        opened = [Opened(image, bounds.image) for _ in self.members]
        works = [
            member.model.work(_of(member, asked), each.size) for member, each in zip(self.members, opened, strict=True)
        ]
        check_work(works, bounds.max_gmacs)
        bounds.charge(sum(work.charge for work in works))
        return list(zip(opened, works, strict=True))

    async def _ask(self, member: EnsembleMember, image: Opened, work: Work, deadline: float) -> Answered | Exception:
        """What is wrong with the image is wrong for all members; other failures may be this one's alone."""
        try:
            if not self.partial:
                return await member.model.run(image, work, deadline)
            async with asyncio.timeout(deadline - time.monotonic()):
                return await member.model.run(image, work, deadline)
        except ImageError:
            raise
        except TimeoutError:
            return DeadlineExceededError(f"{member.model.name} had no answer in time; allow the request more")
        except Exception as error:
            if not self.partial:
                raise
            if not isinstance(error, ServiceError):
                logger.exception("%s: member %s failed", self.name, member.model.name)
            return error

    def _weights(self, answers: list[Answered | Exception]) -> list[float]:
        """Those of the members that answered, made to sum to 1; 0 of the others."""
        kept = [
            member.weight if isinstance(answer, Answered) else 0.0
            for member, answer in zip(self.members, answers, strict=True)
        ]
        return [weight / sum(kept) for weight in kept]

    def _require_never(self, stop: str) -> None:
        try:
            option = StopOption.parse(stop)
        except ValueError as error:
            raise InvalidParameterError(str(error)) from error
        if option.kind != "never":
            raise InvalidParameterError(
                f"{self.name} is an ensemble; stop={option.kind} would hold for its members and not for their mean:"
                " leave stop out, or ask a member by itself"
            )


def load_ensemble(name: str, file: EnsembleFile, find: Callable[[Member], ServedModel]) -> Ensemble:
    """Puts an ensemble together.

    Args:
        name: of the ensemble.
        file: what the operator wrote.
        find: the model of a member; raises BundleError when there is none that serves.

    Raises:
        BundleError: which member does not fit, and why.
    """
    members = []
    for wish, weight in zip(file.members, file.weights, strict=True):
        model = find(wish)
        views = wish.views or model.wishes.serving.views
        try:
            model.wishes.plan(views)
        except UnknownViewsError as error:
            raise BundleError(f"{ENSEMBLE}: {error}") from error
        members.append(EnsembleMember(model, weight, views))
    for member in members[1:]:
        _require_same_labels(members[0].model, member.model)
    return Ensemble(name, members, partial=file.partial)


def _of(member: EnsembleMember, asked: Asked) -> Asked:
    """What a member is asked; a stop of its operator would not hold for the mean of all."""
    return replace(asked, views=member.views if asked.views is None else asked.views, stop="never")


def _require_same_labels(first: ServedModel, other: ServedModel) -> None:
    names = f"{ENSEMBLE}: the labels of {other.name} version {other.version} are not those of {first.name}"
    if len(first.labels) != len(other.labels):
        raise BundleError(f"{names}: {len(other.labels)} classes, not {len(first.labels)}")
    for index, (one, two) in enumerate(zip(first.labels, other.labels, strict=True)):
        if one != two:
            raise BundleError(f"{names}: class {index} is {two[:64]!r}, not {one[:64]!r}")


def _digest(members: list[EnsembleMember]) -> str:
    """The sha256 of what makes the answers: each member's bundle, weight, plan, and how its views are averaged."""
    facts = [
        {
            "digest": member.model.digest,
            "weight": member.weight,
            "views": member.views,
            "plan": fingerprint(member.model.wishes.plan(member.views)),
            "average": member.model.wishes.choose(Asked(views=member.views, stop="never")).average,
        }
        for member in members
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
