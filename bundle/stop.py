"""Early exit: when the views that are scored so far are enough. Pure functions of scores; the caller runs the views.

Views are run in plan order, in waves; after each wave the rule looks at the mean over the views so far. How views are
divided into waves depends on the weights alone, so that the same image has the same answer on every machine.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bundle.aggregate import Average, average, sharpen

Probabilities = npt.NDArray[np.float64]

SLACK = 1e-3
"""What the two best classes must differ by beyond the weight that is left, for `Exact`: the probabilities of one view
move by some 1e-5 with the batch that it runs in."""

STEPS = 16
"""After its first look `Exact` looks again after every 1/16 of the views."""


class Rule(Protocol):
    """When to stop."""

    def waves(self, weights: Sequence[float]) -> list[int]:
        """The numbers of views after which to look, ascending; the last is all of them.

        Args:
            weights: of the distinct views in plan order.
        """

    def enough(self, wave: int, mean: Probabilities, seen: float) -> bool:
        """Whether to stop here.

        Args:
            wave: the place in `waves`, from 0.
            mean: [classes], the weighted mean over the views so far, summing to 1.
            seen: their part of the whole weight, 0 to 1.
        """


@dataclass(frozen=True, slots=True)
class Never:
    """All views are run."""

    def waves(self, weights: Sequence[float]) -> list[int]:
        return [len(weights)]

    def enough(self, wave: int, mean: Probabilities, seen: float) -> bool:  # noqa: ARG002 nothing is asked
        return False


@dataclass(frozen=True, slots=True)
class Exact:
    """Stops when the weight that is left can no longer change the best class of the mean of probabilities.

    A view adds at most its weight to a class and nothing to another, so it is over once the two best differ by more
    than the weight of all views to come: the best class is then that of the full plan.
    """

    def waves(self, weights: Sequence[float]) -> list[int]:
        total = math.fsum(weights)
        sums = list(accumulate(weights))
        half = next(count for count, seen in enumerate(sums, 1) if 2 * seen > total or count == len(sums))
        step = max(len(weights) // STEPS, 1)
        return [*range(half, len(weights), step), len(weights)]

    def enough(self, wave: int, mean: Probabilities, seen: float) -> bool:  # noqa: ARG002 every wave is alike
        second, best = np.sort(mean)[-2:] if len(mean) > 1 else (0.0, mean[0])
        return bool((best - second) * seen > (1 - seen) + SLACK)


@dataclass(frozen=True, slots=True)
class Confident:
    """Stops when the calibrated probability of the best class reaches `threshold`; looks after 1, 2, 4, 8 ... views.

    What it costs in accuracy is measured when it is calibrated (`multicrop-export calibrate`).
    """

    threshold: float
    temperatures: tuple[float, ...]
    """One for each wave, see `aggregate.sharpen`; the last one also stands for waves after it."""

    def waves(self, weights: Sequence[float]) -> list[int]:
        return doubling(len(weights))

    def enough(self, wave: int, mean: Probabilities, seen: float) -> bool:  # noqa: ARG002 the wave says it
        temperature = self.temperatures[min(wave, len(self.temperatures) - 1)]
        return bool(sharpen(mean, temperature).max() >= self.threshold)


def doubling(views: int) -> list[int]:
    """1, 2, 4, 8 ... and `views`."""
    return [*(2**power for power in range((views - 1).bit_length())), views]


@dataclass(frozen=True, slots=True)
class StopOption:
    """What a request asks for: `never`, `exact`, `confident` at the calibrated threshold, or `confident:P`."""

    kind: str
    threshold: float | None = None

    @classmethod
    def parse(cls, text: str) -> "StopOption":
        """Raises ValueError: it is none of these, or P is not between 0 and 1."""
        if text in {"never", "exact", "confident"}:
            return cls(text)
        number = re.fullmatch(r"confident:([01]?\.\d{1,17}|0|1)", text)
        if number is None or not 0 < float(number[1]) <= 1:
            raise ValueError("stop is never, exact, confident, or confident:P with P above 0 and at most 1")
        return cls("confident", float(number[1]))


def replay(
    logits: npt.ArrayLike, weights: Sequence[float], rule: Rule, how: Average
) -> tuple[npt.NDArray[np.float64], int]:
    """What a rule would have answered, had the views been run in waves.

    Args:
        logits: [views, classes], of all views.
        weights: [views].
        rule: when to stop.
        how: see `aggregate.average`.

    Returns:
        Probabilities [classes] of the mean over the views used, and how many these are.
    """
    scores, total = np.asarray(logits), math.fsum(weights)
    for wave, count in enumerate(rule.waves(weights)):
        mean = average(scores[:count], weights[:count], how)
        if rule.enough(wave, mean, math.fsum(weights[:count]) / total):
            break
    return mean, count
