"""Which load to try next, and where the knee is: pure functions of the steps so far.

The load is doubled until two steps in a row do not hold: one may be unlucky, when something else runs for a moment.
Then the gap is halved until two neighbours are closer than `FINEST`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.loadtest.figures import Figures

FACTOR = 2.0
FINEST = 1.05
"""Neighbouring loads this close to each other (their ratio) settle where the knee is."""
ON_TIME = 0.99
"""Of the requests, to be answered within the deadline: with less the p99 of all that was sent is beyond it. One may
always be late: of fewer than a hundred it says nothing about the hundredth."""
KEPT_UP = 0.95
"""Of the rate that is offered, to be answered while it is: with less a queue grows."""
GROWS = 1.03
"""Times the answers per second of fewer clients, for more clients to be of use."""
DOWN = 8
"""Times that the first load is halved, where already it does not hold."""


class Bracket(NamedTuple):
    """Where the knee lies."""

    holds: Figures | None
    """The highest load that holds."""
    fails: Figures | None
    """The lowest one beyond it."""


def holds(step: Figures, before: Figures | None) -> bool:
    """Whether the server bears the load of a step.

    Args:
        step: to judge.
        before: the highest lower load that holds; more clients that bring no more answers only wait longer.
    """
    if not step.sent or step.sent - step.in_time > max(1, (1 - ON_TIME) * step.sent):
        return False
    if step.rate is not None:
        return step.throughput >= KEPT_UP * step.sent / step.seconds
    return before is None or step.goodput >= GROWS * before.goodput


def bracket(steps: Sequence[Figures]) -> Bracket:
    best: Figures | None = None
    beyond: Figures | None = None
    for step in sorted(steps, key=lambda step: step.load):
        if holds(step, best):
            best, beyond = step, None
        elif beyond is None:
            beyond = step
    return Bracket(best, beyond)


def next_load(steps: Sequence[Figures], first: float, most: float = math.inf) -> float | None:
    """The load to try next; None when the knee is known. Clients are whole numbers.

    Args:
        steps: so far, in any order.
        first: the load to begin with.
        most: to try.
    """
    if not steps:
        return first
    whole = steps[0].rate is None
    best, worst = bracket(steps)
    if worst is None:
        assert best is not None  # noqa: S101 there are steps
        more = min(FACTOR * best.load, most)
        return more if more > best.load else None
    if best is None:
        less = math.floor(worst.load / FACTOR) if whole else worst.load / FACTOR
        return less if less > 0 and len(steps) <= DOWN else None
    further, top = min(FACTOR * worst.load, most), max(step.load for step in steps)
    if top < further:
        return further
    return _between(best.load, worst.load, whole=whole)


def _between(low: float, high: float, *, whole: bool) -> float | None:
    if high / low < FINEST:
        return None
    middle = math.sqrt(low * high)
    if not whole:
        return middle
    return next((near for near in (round(middle), math.floor(middle)) if low < near < high), None)
