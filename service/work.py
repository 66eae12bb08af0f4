"""What is asked of a model for one image, and what that costs, known before any pixel is decoded."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from bundle.aggregate import Average
from bundle.bounds import over_bounds
from bundle.manifest import Manifest
from bundle.plan import Plan
from bundle.preprocess import ImageLimits
from bundle.stop import Rule
from bundle.views import Size, View, ViewPlan
from service.errors import WorkLimitError

Merge = Literal["identical", "near"]
"""Which views are computed once: those that are the same, or also those that show nearly the same."""


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
    priority: int | None = None
    """Of its views among those that wait: higher is sooner."""


@dataclass(frozen=True)
class Bounds:
    """What the operator allows one image."""

    image: ImageLimits
    max_gmacs: float
    timeout: float
    """In seconds."""
    charge: Callable[[int], None] = lambda _: None
    """Takes the views of an image from its sender's quota, before they are queued; raises QuotaExceededError."""


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
    priority: int = 0


@dataclass(frozen=True)
class Work:
    """What a model will do with an image of one size."""

    choice: Choice
    views: tuple[View, ...]
    """All different; identical ones are merged."""
    gmacs: float
    """10^9 multiply-adds of them all."""
    charge: int
    """What they cost, in views of the network's native size."""

    @property
    def weights(self) -> list[float]:
        return [view.weight for view in self.views]


def work_of(choice: Choice, image: Size, manifest: Manifest) -> Work:
    """The views of an upright image of that size, and what they cost."""
    planned = choice.plan.views(image, manifest.input)
    views = planned.distinct(near=choice.merge == "near").views
    return Work(choice, views, gmacs_of(views, manifest), sum(cost_of(view.size, manifest) for view in views))


def cost_of(size: Size, manifest: Manifest) -> int:
    """What a view of that size costs, in views of the network's native size; at least 1."""
    return max(1, math.ceil(manifest.macs_at(size) / max(manifest.macs, 1)))


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
    if reason := over_bounds([ViewPlan(work.choice.plan.name, work.views) for work in works]):
        return reason
    gmacs = math.fsum(work.gmacs for work in works)
    if gmacs <= max_gmacs:
        return None
    views, plans = sum(len(work.views) for work in works), ", ".join(dict.fromkeys(w.choice.plan.name for w in works))
    return (
        f"{views} views of {plans} cost {gmacs:,.6g} GMAC, at most {max_gmacs:,.6g} are allowed for an image;"
        " ask for fewer views, or let the operator raise --max-gmacs"
    )
