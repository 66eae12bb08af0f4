"""What is asked of a model for one image, and what that costs, known before any pixel is decoded."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bundle.aggregate import Average
from bundle.manifest import Manifest
from bundle.plan import Plan
from bundle.preprocess import ImageLimits
from bundle.stop import Rule
from bundle.views import Size, View
from service.errors import WorkLimitError

Merge = Literal["identical", "near"]
"""Which views are computed once: those that are the same, or also those that show nearly the same."""

MAX_VIEW_PIXELS = 3 << 19
"""Of one view, 1.5 Mi: a network keeps dozens of float32 maps of it, gigabytes for the whole of a 20:1 image."""

MAX_SCALED_PIXELS = 1 << 25
"""Of the resized images of a plan together, which are kept until its last view is drawn: 96 MiB in RGB, and as much
again of their mirror images."""

MAX_DRAWN_PIXELS = 1 << 27
"""Of the views of a plan together, which may all be drawn before the first of them is run: 384 MiB in RGB."""


@dataclass(frozen=True)
class Asked:
    """What the client chose; of what is None the operator, or the plan, decides."""

    views: str | None = None
    average: Average | None = None
    stop: str | None = None
    merge: Merge = "identical"
    detail: bool = False
    """Whether each view is told of."""
    top_k: int | None = None


@dataclass(frozen=True)
class Bounds:
    """What the operator allows one image."""

    image: ImageLimits
    max_gmacs: float
    timeout: float
    """In seconds."""


@dataclass(frozen=True)
class Choice:
    """What a model will do with an image of any size."""

    plan: Plan
    average: Average
    rule: Rule
    stop: str
    """The name of the rule."""
    merge: Merge
    detail: bool


@dataclass(frozen=True)
class Work:
    """What a model will do with an image of one size."""

    choice: Choice
    views: tuple[View, ...]
    """All different; identical ones are merged."""
    gmacs: float
    """10^9 multiply-adds of them all."""

    @property
    def weights(self) -> list[float]:
        return [view.weight for view in self.views]


def work_of(choice: Choice, image: Size, manifest: Manifest) -> Work:
    """The views of an upright image of that size, and what they cost."""
    planned = choice.plan.views(image, manifest.input)
    views = planned.distinct(near=choice.merge == "near").views
    return Work(choice, views, gmacs_of(views, manifest))


def gmacs_of(views: Iterable[View], manifest: Manifest) -> float:
    """10^9 multiply-adds of some views."""
    sizes = Counter(view.size for view in views)
    return sum(count * manifest.macs_at(size) for size, count in sizes.items()) / 1e9


def check_work(works: Iterable[Work], max_gmacs: float) -> None:
    """Raises WorkLimitError when it is more than one image may cost; see `over_limit`."""
    if reason := over_limit(list(works), max_gmacs):
        raise WorkLimitError(reason)


def over_limit(works: list[Work], max_gmacs: float) -> str | None:
    """Why the work on one image (of several models, for an ensemble) is refused; None when it is not."""
    plans = ", ".join(dict.fromkeys(work.choice.plan.name for work in works))
    largest = max((view.size for work in works for view in work.views), key=math.prod)
    if math.prod(largest) > MAX_VIEW_PIXELS:
        return (
            f"a view of {plans} would be {largest.width} x {largest.height}, at most {MAX_VIEW_PIXELS} pixels are"
            " allowed; cut the image, or ask for views of the native size"
        )
    scaled = sum(math.prod(size) for work in works for size in {view.resized for view in work.views})
    if scaled > MAX_SCALED_PIXELS:
        return (
            f"{plans} would resize the image to {scaled} pixels, at most {MAX_SCALED_PIXELS} are allowed;"
            " cut the image, or ask for fewer scales"
        )
    views = sum(len(work.views) for work in works)
    drawn = sum(math.prod(view.size) for work in works for view in work.views)
    if drawn > MAX_DRAWN_PIXELS:
        return (
            f"{views} views of {plans} have {drawn} pixels, at most {MAX_DRAWN_PIXELS} are allowed; ask for fewer or"
            " smaller views"
        )
    gmacs = math.fsum(work.gmacs for work in works)
    if gmacs > max_gmacs:
        return (
            f"{views} views of {plans} cost {gmacs:,.6g} GMAC, at most {max_gmacs:,.6g} are allowed for an image;"
            " ask for fewer views, or let the operator raise --max-gmacs"
        )
    return None
