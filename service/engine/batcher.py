"""The thin shell of threads around `BatchQueue`.

A lane asks for the next batch whenever it is free: requests gather exactly while the device is busy, without a timer.
Who draws the pixels: where batching pays (a GPU) a pool fills an entry before any lane may take it; elsewhere a lane
fills it itself, just before the run.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, InvalidStateError

import numpy as np

from service.engine.backend import Backend
from service.engine.queue import Batch, BatchQueue, Entry, Pixels, Scores, State
from service.errors import BackendError, DeadlineExceededError, QueueFullError, ShuttingDownError
from service.metrics import ModelMetrics

logger = logging.getLogger(__name__)


class Batcher:
    """Runs entries on a backend.

    Args:
        backend: says how many lanes, how many views a batch, and whether entries are filled ahead.
        metrics: of this model.
        max_queue_size: in views.
        pool: fills entries ahead; needed by a backend that wants it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        backend: Backend,
        metrics: ModelMetrics,
        *,
        max_queue_size: int,
        quantum: int | None = None,
        pool: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._metrics = metrics
        self._pool = pool if backend.fills_ahead else None
        self._clock = clock
        self._queue = BatchQueue(
            max_batch_size=backend.max_batch_size, max_queue_size=max_queue_size, lanes=backend.lanes, quantum=quantum
        )
        self._changed = threading.Condition()
        self._closing = False
        self._lanes = [
            threading.Thread(target=self._lane, name=f"lane-{number}", daemon=True) for number in range(backend.lanes)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def waiting(self) -> int:
        """Views that wait."""
        return self._queue.waiting

    def submit(self, entry: Entry) -> None:
        """Admits an entry; its future gets the scores or the reason why there are none. Cancelling it frees the queue.

        Raises:
            QueueFullError, DeadlineExceededError: as `BatchQueue.offer`.
            ShuttingDownError: after `close`.
        """
        with self._changed:
            if self._closing:
                raise ShuttingDownError("the server is shutting down; send the request to another one")
            try:
                self._queue.offer(entry, self._clock(), filling=self._pool is not None)
            except QueueFullError:
                self._metrics.dropped("queue_full", entry.rows)
                raise
            self._metrics.waiting(self._queue.waiting)
            self._changed.notify()
        entry.future.add_done_callback(lambda future: self._leave(entry) if future.cancelled() else None)
        if self._pool is not None:
            self._pool.submit(self._fill, entry)

    def close(self, timeout: float) -> None:
        """Admits nothing more, runs what was admitted, ends the lanes; gives up on what is left after `timeout` s."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for lane in self._lanes:
            lane.join(max(0.0, end - time.monotonic()))

    def _lane(self) -> None:
        while (batch := self._next()) is not None:
            started = self._clock()
            for entry in batch.to_fill():
                self._fill(entry)
            self._run(batch, started)

    def _next(self) -> Batch | None:
        """Waits for the next batch; None when closing and nothing is left."""
        with self._changed:
            while True:
                now = self._clock()
                for entry in self._queue.expire(now):
                    self._metrics.dropped("deadline", entry.rows - entry.scored)
                    self._fail(entry, DeadlineExceededError("the deadline passed before the answer was there"))
                batch = self._queue.take(now)
                self._metrics.waiting(self._queue.waiting)
                if batch is not None or (self._closing and not self._queue.waiting):
                    return batch
                pause = self._queue.next_deadline() - now
                self._changed.wait(min(max(pause, 0.0), threading.TIMEOUT_MAX))

    def _fill(self, entry: Entry) -> None:
        if entry.state is State.GONE:
            return
        started = self._clock()
        pixels = np.empty((entry.rows, *entry.shape), np.uint8)
        try:
            entry.fill(pixels)
        except Exception as error:  # noqa: BLE001 whatever a bad image does, it fails its own entry only
            with self._changed:
                self._metrics.dropped("failed", entry.rows)
                self._queue.cancel(entry)
            self._fail(entry, error)
            return
        entry.fill_seconds = self._clock() - started
        with self._changed:
            entry.pixels = pixels
            self._queue.filled(entry)
            self._changed.notify_all()

    def _run(self, batch: Batch, started: float) -> None:
        live = Batch([segment for segment in batch.segments if segment.entry.state is not State.GONE])
        if not live.rows:
            return
        try:
            scores = self._backend.run(_stack(live))
            if scores.ndim != 2 or len(scores) != live.rows:  # noqa: PLR2004 rows and classes
                raise BackendError(f"the device answered {scores.shape} for {live.rows} rows")  # noqa: TRY301
        except Exception as error:  # a failed run fails its own batch, never the lane
            logger.exception("a batch of %d views failed", live.rows)
            failure = BackendError("the device failed on this request; try again")
            failure.__cause__ = error
            self._abandon(live, failure)
            return
        self._metrics.batch(live.rows)
        self._scatter(live, scores, self._clock() - started)

    def _scatter(self, batch: Batch, scores: Scores, seconds: float) -> None:
        """Scores land by offset, not by order of arrival: two lanes may serve one entry."""
        offset = 0
        with self._changed:
            for segment in batch.segments:
                entry = segment.entry
                if entry.scores is None:
                    entry.scores = np.empty((entry.rows, scores.shape[1]), np.float32)
                entry.scores[segment.start : segment.stop] = scores[offset : offset + segment.rows]
                offset += segment.rows
            complete = self._queue.done(batch, seconds)
        now = self._clock()
        for entry in complete:
            self._report(entry, now)
            with contextlib.suppress(InvalidStateError):  # the caller left between the check and here
                assert entry.scores is not None  # noqa: S101 for the type checker; it was set above
                entry.future.set_result(entry.scores)

    def _report(self, entry: Entry, now: float) -> None:
        """A lane's filling lies between taking and running, a pool's before taking."""
        waited, worked = entry.taken_at - entry.offered_at, now - entry.taken_at
        ahead = self._pool is not None
        entry.queue_seconds = max(waited - entry.fill_seconds, 0.0) if ahead else waited
        entry.compute_seconds = worked if ahead else worked - entry.fill_seconds
        entry.pixels = None  # megabytes that nobody needs any more
        self._metrics.stage("decode", entry.fill_seconds)
        self._metrics.stage("queue", entry.queue_seconds)
        self._metrics.stage("compute", entry.compute_seconds)

    def _abandon(self, batch: Batch, error: Exception) -> None:
        for segment in batch.segments:
            with self._changed:
                self._queue.cancel(segment.entry)
                self._metrics.dropped("failed", segment.rows)
            self._fail(segment.entry, error)

    def _leave(self, entry: Entry) -> None:
        """The caller is gone: its views will not be run."""
        with self._changed:
            if dropped := self._queue.cancel(entry):
                reason = "cancelled" if self._clock() < entry.deadline else "deadline"
                self._metrics.dropped(reason, dropped)
            self._metrics.waiting(self._queue.waiting)

    @staticmethod
    def _fail(entry: Entry, error: Exception) -> None:
        with contextlib.suppress(InvalidStateError):
            entry.future.set_exception(error)


def _stack(batch: Batch) -> Pixels:
    """The batch's pixels as uint8 [rows, height, width, channels]; without a copy when it is one run of one entry."""
    rows = [segment.entry.pixels[segment.start : segment.stop] for segment in batch.segments]  # type: ignore[index]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)
