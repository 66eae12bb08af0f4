"""How many clients ask a candidate: pure functions of the steps that were tried.

More clients keep a server busier, until they only wait longer. The number is doubled as long as answers keep the limit
and come faster. It may be larger than it had to be, which costs nothing; one that is too small would look like a slow
candidate.
"""

from collections.abc import Sequence

from service.loadtest.figures import Figures
from service.loadtest.sweep import GROWS, holds

MARGIN = 0.8
"""Of the limit, for the p99 of the search: a number that is just within it would be beyond it in other rounds."""
MOST_CLIENTS = 256


def next_clients(steps: Sequence[Figures], first: int) -> int | None:
    """The number to try next; None when `best_clients` is known.

    Args:
        steps: so far, in the order in which they were tried, judged by the limit times `MARGIN`.
        first: to begin with.
    """
    if not steps:
        return first
    tried = steps[-1].concurrency or 1
    if not holds(steps[-1], None):
        found = any(holds(step, None) for step in steps)
        return None if found or tried == 1 else tried // 2
    if len(steps) > 1 and tried < (steps[-2].concurrency or 1):  # on the way down
        return None
    if len(steps) > 2 and steps[-1].goodput < GROWS * steps[-3].goodput:  # noqa: PLR2004 one doubling may be unlucky
        return None
    return min(2 * tried, MOST_CLIENTS) if tried < MOST_CLIENTS else None


def best_clients(steps: Sequence[Figures]) -> Figures:
    """The step with the most clients within the limit; that with the fewest where none is."""
    within = [step for step in steps if holds(step, None)]
    return max(within, key=lambda step: step.load) if within else min(steps, key=lambda step: step.load)
