"""Measurements at the machine's full speed.

A guest whose host lends its cores to others runs at half its speed, or a quarter, for seconds or minutes, and counts
the time that it did not have as its own. Each measurement stands between two probes of all cores, and is done again
where one of them is slow.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Self, TypeVar

from service.engine.limits import cores

Result = TypeVar("Result")

SIDE, TIMES = 1024, 2
"""Of matrices, and how often they are multiplied in a probe on each core: 35 ms on a Zen 4. What slows networks down
need not slow Python down."""
SLOW = 1.2
"""A probe that takes that many times as long as the fastest so far is slow."""
PROBES = 20
"""At the start, to learn how fast full speed is."""
PAUSE = 0.25
"""Seconds until a slow machine is looked at again."""
MOST = 4
"""Attempts at a measurement; the last one counts, however slow."""
PATIENCE = 10.0
"""Seconds to wait for full speed before an attempt."""


class Steady:
    """Takes measurements one after the other; nothing else may be busy."""

    def __init__(self) -> None:
        self._count = cores()
        self._pool = ProcessPoolExecutor(self._count, multiprocessing.get_context("spawn"))
        self.disturbed = 0
        """Measurements that count although the machine was slow."""
        self._best = min(self._probe() for _ in range(PROBES))

    def __call__(self, measure: Callable[[], Result]) -> Result:
        """What it measures, at full speed where that comes within the attempts."""
        for _ in range(MOST):
            end = time.monotonic() + PATIENCE
            while self._is_slow() and time.monotonic() < end:
                time.sleep(PAUSE)
            found = measure()
            if not self._is_slow():
                return found
        self.disturbed += 1
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def _is_slow(self) -> bool:
        took = self._probe()
        self._best = min(self._best, took)
        return took > SLOW * self._best

    def _probe(self) -> float:
        return max(self._pool.map(_multiply, range(self._count)))


def _multiply(_: int) -> float:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import numpy as np  # noqa: PLC0415 it reads that

    matrix = np.ones((SIDE, SIDE), np.float32)
    began = time.perf_counter()
    for _ in range(TIMES):
        matrix @ matrix
    return time.perf_counter() - began
