"""When requests are due in an open loop, whatever becomes of those before them."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arrivals = Literal["poisson", "constant"]
Times = NDArray[np.float64]


def times(kind: Arrivals, rate: float, seconds: float, rng: np.random.Generator) -> Times:
    """Seconds from the start, ascending, all below `seconds`.

    Args:
        kind: poisson: independent users, with exponential gaps; constant: one gap.
        rate: requests per second.
        seconds: at most.
        rng: of the gaps.
    """
    if kind == "constant":
        return np.arange(np.ceil(rate * seconds)) / rate
    found = np.empty(0)
    last = 0.0
    while last < seconds:
        more = last + rng.exponential(1 / rate, max(16, int(rate * seconds))).cumsum()
        found, last = np.concatenate([found, more]), more[-1]
    return found[found < seconds]
