"""One image through a graph: decoded, drawn, run in the waves of a stop rule, averaged; as the service does it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.accuracy import TOP
from bundle.aggregate import Average, average, top_k
from bundle.bounds import over_bounds
from bundle.errors import ImageError
from bundle.manifest import Input
from bundle.plan import Plan
from bundle.preprocess import ImageLimits, Opened
from bundle.render import Scaled
from bundle.stop import Rule
from bundle.views import Size, View, ViewPlan
from export.verify import one_thread, open_session, run

Logits = npt.NDArray[np.float32]
"""[views, classes]"""

BATCH = 32
"""Views that run at once, at most."""

BATCH_PIXELS = 2 * 224 * 224
"""Pixels that run at once, unless one view has more: on a CPU larger batches gain no time and take memory."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of one image."""

    top: tuple[int, ...]
    """The best classes, the best first; five, or all where there are fewer."""
    probability: float
    """Of the best."""
    sizes: Mapping[Size, int]
    """How many views of each size were run; identical ones are one."""

    @property
    def index(self) -> int:
        """The best class."""
        return self.top[0]

    @property
    def views(self) -> int:
        """How many were run."""
        return sum(self.sizes.values())


class Runner:
    """A graph on one session of one thread, which any number of threads may call at once."""

    def __init__(self, model: bytes, wanted: Input) -> None:
        """Opens the session.

        Args:
            model: the graph's bytes (`Bundle.model`).
            wanted: what it takes (`Bundle.manifest.input`).
        """
        self._wanted = wanted
        with one_thread():
            self._session = open_session(model)

    def answer(self, image: bytes, plan: Plan, rule: Rule, how: Average) -> Answer:
        """The answer for one encoded image, after as many views of a plan as a stop rule asks for.

        Args:
            image: a JPEG, PNG or WebP file.
            plan: one that the graph can run (`Plan.refusal`).
            rule: when to stop.
            how: over the views.

        Raises:
            ImageError: the image cannot be read, or its views are larger than a server would run.
            GraphError: the graph fails.
        """
        look = self.look(image, plan)
        views, weights = look.views, [view.weight for view in look.views]
        total, done = math.fsum(weights), 0
        logits: list[Logits] = []
        for wave, count in enumerate(rule.waves(weights)):
            logits.append(look.run(views[done:count]))
            done = count
            mean = average(np.concatenate(logits), weights[:done], how)
            if rule.enough(wave, mean, math.fsum(weights[:done]) / total):
                break
        best = top_k(mean, TOP)
        return Answer(tuple(best), float(mean[best[0]]), Counter(view.size for view in views[:done]))

    def look(self, image: bytes, plan: Plan) -> "Look":
        """An encoded image at the scales of the views of a plan; raises ImageError."""
        opened = Opened(image, ImageLimits())
        planned = plan.views(opened.size, self._wanted)
        distinct = planned.distinct()
        if reason := over_bounds([distinct]):
            raise ImageError(reason)
        return Look(planned, distinct.views, self, Scaled.of(opened, distinct, self._wanted))

    def run(self, scaled: Scaled, views: tuple[View, ...]) -> Logits:
        """The logits of some views of an image."""
        found = []
        for batch in _batches(views):
            size = batch[0].size
            rows = np.empty((len(batch), size.height, size.width, self._wanted.channels), np.uint8)
            scaled.draw(batch, rows)
            found.append(run(self._session, rows))
        return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Look:
    """One decoded image and what is seen of it."""

    planned: ViewPlan
    views: tuple[View, ...]
    """The distinct ones, weighted, in plan order."""
    runner: Runner
    scaled: Scaled

    def run(self, views: tuple[View, ...]) -> Logits:
        return self.runner.run(self.scaled, views)


def _batches(views: tuple[View, ...]) -> list[tuple[View, ...]]:
    """The views in order, in batches of one size."""
    found: list[tuple[View, ...]] = []
    for view in views:
        room = max(1, min(BATCH, BATCH_PIXELS // (view.size.width * view.size.height)))
        if found and found[-1][0].size == view.size and len(found[-1]) < room:
            found[-1] += (view,)
        else:
            found.append((view,))
    return found
