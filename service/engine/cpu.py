"""ONNX Runtime on the CPU: lanes on a shared session of one thread, and a session of several for who is alone."""

from typing import Any

import numpy as np

from service.engine.backend import Provider
from service.engine.entry import Pixels, Scores, Shape
from service.engine.limits import cores, usual_lanes
from service.engine.session import open_session

BATCH_MACS = 200_000_000
"""A batch holds as many views as fit into this many multiply-adds (some 5 ms on one core), so that a lane is soon free
again, and the cost per call does not weigh on tiny networks."""
MAX_BATCH_SIZE = 16

WIDE_MACS = BATCH_MACS
"""Of a view that several threads share out. For less they save little, and cost more in all (docs/benchmarks.md)."""


class CpuBackend:
    """Lanes on a shared session of one thread each, which is the most that several requests can have.

    A batch that is alone has all cores: it runs in a session of as many threads.

    Args:
        model: ONNX file.
        macs: multiply-adds of one view.
        lanes: as `usual_lanes` when None.
        max_batch_size: in views; see `batch_size` when None.
    """

    provider: Provider = "cpu"
    fills_ahead = False

    def __init__(self, model: bytes, macs: int, *, lanes: int | None = None, max_batch_size: int | None = None) -> None:
        self.lanes = self.at_once = lanes or usual_lanes(cores())
        self.max_batch_size = max_batch_size or batch_size(macs)
        self._narrow = _open(model, 1)
        threads = min(self.lanes, cores()) if macs >= WIDE_MACS else 1
        self._wide = _open(model, threads) if threads > 1 else self._narrow

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        """See `Backend.run`."""
        session = self._wide if alone else self._narrow
        return np.asarray(session.run(["logits"], {"images": images})[0])

    def warm(self, shape: Shape) -> None:
        """Runs the largest batch both ways."""
        for alone in (False, True):
            self.run(np.zeros((self.max_batch_size, *shape), np.uint8), alone=alone)


def batch_size(macs: int) -> int:
    """Most views in a batch, of which each costs so many multiply-adds."""
    return min(max(BATCH_MACS // max(macs, 1), 1), MAX_BATCH_SIZE)


def _open(model: bytes, threads: int) -> Any:
    return open_session(model, "CPUExecutionProvider", {}, threads=threads)
