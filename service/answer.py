"""What a client is told of one image."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from bundle.aggregate import Average, softmax, top_k
from bundle.views import View

Probabilities = npt.NDArray[np.float64]


def _left_out(value: object) -> bool:
    return value is None


class Score(BaseModel):
    """A class and its probability."""

    index: int = Field(examples=[281])
    label: str = Field(examples=["tabby cat"])
    probability: float = Field(ge=0, le=1, examples=[0.83])


class Shown(BaseModel):
    """A view: the image is resized to `resized`, `box` is cut there, scaled to `size`, then mirrored or not."""

    resized: tuple[int, int] = Field(examples=[(341, 256)])
    """Width, height."""
    box: tuple[int, int, int, int] = Field(examples=[(58, 16, 224, 224)])
    """Left, top, width, height in the resized image; what lies outside the image is black."""
    size: tuple[int, int] = Field(examples=[(224, 224)])
    """Width, height."""
    mirrored: bool
    weight: float = Field(examples=[1.0])
    """Relative to the other views of the plan; of views that stand for several identical ones, their sum."""

    @classmethod
    def of(cls, view: View, **more: object) -> Self:
        facts = {"resized": view.resized, "box": view.box, "size": view.size, "mirrored": view.mirrored}
        return cls.model_validate({**facts, "weight": view.weight, **more})


class ViewDetail(Shown):
    """A view that was computed, and what it shows by itself."""

    top1: Score


class Views(BaseModel):
    """What was looked at."""

    plan: str = Field(examples=["ten_crop"])
    planned: int = Field(examples=[10])
    """Views of the plan."""
    computed: int = Field(examples=[10])
    """Views that were run: identical ones are run once, and those after an early exit are not."""
    gmacs: float = Field(examples=[40.9])
    """10^9 multiply-adds of those."""
    average: Average
    stop: str = Field(examples=["never", "exact", "confident:0.95"])
    stopped: bool
    """Whether early exit left views out."""
    details: Annotated[list[ViewDetail] | None, Field(exclude_if=_left_out)] = None
    """With detail=views: each view that was run, in order."""


class Timings(BaseModel):
    """Milliseconds of this image in each stage."""

    decode: float = Field(examples=[2.4])
    """Decoding and drawing the views."""
    queue: float = Field(examples=[0.1])
    compute: float = Field(examples=[18.2])
    merge: float = Field(examples=[0.1])
    total: float = Field(examples=[21.0])


class Fault(BaseModel):
    """Why a member gave no answer."""

    code: str = Field(examples=["overloaded"])
    detail: str


class MemberAnswer(BaseModel):
    """A model's part in the answer of an ensemble."""

    model: str = Field(examples=["resnet50"])
    version: int = Field(examples=[1])
    digest: str
    weight: float = Field(examples=[0.5])
    """In this answer; 0 of a member that was left out."""
    views: Views | None
    problem: Fault | None = None


class Prediction(BaseModel):
    """The answer for one image."""

    model: str = Field(examples=["resnet50"])
    version: int | None = Field(examples=[1])
    """None of an ensemble."""
    digest: str = Field(examples=["5f0c" * 16])
    """sha256 of the bundle's manifest; of an ensemble that of its members' digests, weights, plans and averages."""
    views: Annotated[Views | None, Field(exclude_if=_left_out)] = None
    """Of a model."""
    members: Annotated[list[MemberAnswer] | None, Field(exclude_if=_left_out)] = None
    """Of an ensemble."""
    predictions: list[Score]
    """The most probable classes, the best first."""
    timings_ms: Timings
    request_id: str


@dataclass(frozen=True)
class Seconds:
    """Of one image in each stage."""

    decode: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    merge: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        """One after the other."""
        return Seconds(
            self.decode + other.decode,
            self.queue + other.queue,
            self.compute + other.compute,
            self.merge + other.merge,
        )

    @classmethod
    def beside(cls, parts: list["Seconds"]) -> "Seconds":
        """Of parts that ran at the same time: the time of the longest, divided so that work comes before waiting."""
        if len(parts) == 1:
            return parts[0]
        left = max(part.decode + part.queue + part.compute + part.merge for part in parts)
        worked = []
        for each in ("decode", "compute", "merge"):
            worked.append(min(sum(getattr(part, each) for part in parts), left))
            left -= worked[-1]
        decode, compute, merge = worked
        return cls(decode, max(left, 0.0), compute, merge)

    def milliseconds(self, total: float) -> dict[str, float]:
        """Of each stage, and in all."""
        stages = {"decode": self.decode, "queue": self.queue, "compute": self.compute, "merge": self.merge}
        return {name: round(1000 * seconds, 3) for name, seconds in {**stages, "total": total}.items()}


@dataclass(frozen=True)
class MemberAnswered:
    """What a member of an ensemble said, or why it said nothing."""

    model: str
    version: int
    digest: str
    weight: float
    """In this answer."""
    answered: "Answered | Exception"


@dataclass(frozen=True)
class Answered:
    """What a classifier says of one image."""

    probabilities: Probabilities
    """[classes]"""
    seconds: Seconds
    views: Views | None = None
    """Of a model."""
    members: tuple[MemberAnswered, ...] = ()
    """Of an ensemble."""


def best(probabilities: Probabilities, labels: tuple[str, ...], k: int) -> list[Score]:
    """The k most probable classes."""
    return [
        Score.model_construct(index=index, label=labels[index], probability=min(float(probabilities[index]), 1.0))
        for index in top_k(probabilities, k)
    ]


def details(views: Iterable[View], logits: npt.NDArray[np.float32], labels: tuple[str, ...]) -> list[ViewDetail]:
    """Each view with its own best class; `logits` are [views, classes]."""
    scores = softmax(logits)
    return [ViewDetail.of(view, top1=best(row, labels, 1)[0]) for view, row in zip(views, scores, strict=True)]
