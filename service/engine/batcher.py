"""The thin shell of threads around `BatchQueue`.

A lane asks for the next batch whenever it is free: requests gather exactly while the device is busy, without a timer.
Who draws the pixels: where batching pays (a GPU) a pool fills an entry before any lane may take it; elsewhere a lane
fills it itself, just before the run.
"""

import contextlib
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, InvalidStateError

import numpy as np

from service.engine.backend import Backend
from service.engine.entry import Batch, Entry, Scores, Segment, Shape, spent
from service.engine.isolate import isolate
from service.engine.queue import BatchQueue
from service.errors import BackendError, DeadlineExceededError, QueueFullError, ShuttingDownError
from service.metrics import ModelMetrics

logger = logging.getLogger(__name__)

LATE = "the deadline passed before the answer was there"


class Batcher:
    """Runs entries on a backend, or on several that are alike.

    Args:
        backend: says how many lanes, how many views a batch, and whether entries are filled ahead.
        metrics: of this model.
        others: more of its kind, on other devices; each backend is called by threads of its own alone.
        native: the shape that the backend has warmed; views of another run cold, and are counted.
        max_queue_size: in views.
        pool: fills entries ahead; needed by a backend that wants it.
        drawers: how many entries the pool fills at once.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        backend: Backend,
        metrics: ModelMetrics,
        *,
        others: Sequence[Backend] = (),
        max_queue_size: int,
        native: Shape | None = None,
        quantum: int | None = None,
        pool: Executor | None = None,
        drawers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backends = (backend, *others)
        self._metrics = metrics
        self._native = native
        self._pool = pool if backend.fills_ahead else None
        self._clock = clock
        owners = [each for each in self._backends for _ in range(each.lanes)]
        self._queue = BatchQueue(
            max_batch_size=backend.max_batch_size,
            max_queue_size=max_queue_size,
            lanes=len(owners),
            drawers=drawers,
            quantum=quantum,
        )
        self._busy: dict[int, Backend] = {}
        """The backends of the lanes that fill or run a batch now, by their threads."""
        self._changed = threading.Condition()
        self._closing = False
        self._lanes = [
            threading.Thread(target=self._lane, args=(owner,), name=f"lane-{number}", daemon=True)
            for number, owner in enumerate(owners)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def waiting(self) -> int:
        """Views of native size that wait; larger ones count as several."""
        return self._queue.waiting

    @property
    def quantum(self) -> int:
        """Views that an entry gives to a batch before the others have their turn."""
        return self._queue.quantum

    def submit(self, *entries: Entry, admitted: bool = False) -> None:
        """Admits the entries of one request, all or none.

        The future of each gets its scores or the reason why there are none. Cancelling it frees the queue.

        Args:
            entries: views of one image, one entry a shape.
            admitted: they continue a request that was let in before: a full queue does not refuse them.

        Raises:
            QueueFullError, DeadlineExceededError: as `BatchQueue.offer`.
            ShuttingDownError: after `close`.
        """
        with self._changed:
            if self._closing:
                raise ShuttingDownError("the server is shutting down; send the request to another one")
            try:
                self._queue.offer(entries, self._clock(), filling=self._pool is not None, admitted=admitted)
            except QueueFullError:
                self._metrics.dropped("queue_full", sum(entry.rows for entry in entries))
                raise
            self._metrics.waiting(self._queue.waiting)
            self._changed.notify(len(entries))
        for entry in entries:
            entry.future.add_done_callback(functools.partial(self._leave, weakref.ref(entry)))  # no cycle to collect
        if self._pool is not None:
            self._pool.submit(self._fill_ahead, entries)

    def stop(self) -> None:
        """Admits nothing more; what was admitted is still run."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Stops, and waits for the lanes to end; gives up on what is left after `timeout` seconds."""
        self.stop()
        end = time.monotonic() + timeout
        for lane in self._lanes:
            lane.join(max(0.0, end - time.monotonic()))

    def _lane(self, backend: Backend) -> None:
        while self._serve(backend):
            pass

    def _serve(self, backend: Backend) -> bool:
        """Fills and runs the next batch; False when there will be none."""
        batch = self._next(backend)
        if batch is None:
            return False
        try:
            for entry in batch.to_fill:
                self._fill(entry)
            self._run(batch, backend)
        except Exception as error:  # what fails here fails its own batch, never the lane
            logger.exception("a batch of %d views failed", batch.rows)
            self._fail(batch.segments, error)
        finally:
            with self._changed:
                self._rest()
        return True

    def _rest(self) -> None:
        """This lane needs its backend no more; to be called under the lock, any number of times."""
        backend = self._busy.pop(threading.get_ident(), None)
        if backend is not None and backend.at_once < backend.lanes:
            self._changed.notify_all()  # a lane that waited for a full batch now takes what there is

    def _next(self, backend: Backend) -> Batch | None:
        """Waits for the next batch of a backend; None when closing and nothing is left."""
        with self._changed:
            while True:
                now = self._clock()
                for entry in self._queue.expire(now):
                    self._end(entry, "deadline", DeadlineExceededError(LATE))
                idle = sum(each is backend for each in self._busy.values()) < backend.at_once
                batch = self._queue.take(1 if idle else backend.max_batch_size)
                self._metrics.waiting(self._queue.waiting)
                if batch is not None:
                    self._busy[threading.get_ident()] = backend
                    return batch
                if self._closing and not self._queue.waiting:
                    return None
                pause = self._queue.next_deadline() - now
                self._changed.wait(min(max(pause, 0.0), threading.TIMEOUT_MAX))

    def _fill_ahead(self, entries: Sequence[Entry]) -> None:
        """One after the other: side by side, all threads but one would wait until the image is decoded."""
        for entry in entries:
            self._fill(entry)

    def _fill(self, entry: Entry) -> None:
        """Draws an entry's views; a bad image, whatever it does, fails its own entry only."""
        if entry.gone:
            return
        started = self._clock()
        try:
            pixels = np.empty((entry.rows, *entry.shape), np.uint8)
            entry.fill(pixels)
        except Exception as error:  # noqa: BLE001 the caller gets it
            self._drop(entry, "failed", error)
            return
        entry.fill_seconds = self._clock() - started
        with self._changed:
            self._queue.drew(entry.fill_seconds)
            if not entry.gone:
                entry.pixels, entry.fill = pixels, spent
                self._queue.filled(entry)
            self._changed.notify_all()

    def _run(self, batch: Batch, backend: Backend) -> None:
        """Runs a batch; of one that fails only the culprits do."""
        error = self._try(batch.segments, backend)
        if error is None:
            return
        logger.error("the device failed on a batch of %d views", batch.rows, exc_info=error)
        self._fail(isolate(batch.segments, functools.partial(self._again, backend=backend)), error)

    def _again(self, segments: Sequence[Segment], backend: Backend) -> bool:
        """Runs a part of a failed batch; whether that worked."""
        self._metrics.rerun()
        return self._try(segments, backend) is None

    def _try(self, segments: Sequence[Segment], backend: Backend) -> Exception | None:
        """Runs those whose callers still wait; what the device said when it did not answer all of them."""
        now = self._clock()
        for segment in segments:
            if segment.entry.deadline <= now:  # while it was drawn, or a culprit was looked for
                self._drop(segment.entry, "deadline", DeadlineExceededError(LATE))
        with self._changed:
            alone = not self._queue.waiting and len(self._busy) <= 1
            live = Batch([segment for segment in segments if not segment.entry.gone])
            rows = [segment.entry.pixels[segment.start : segment.stop] for segment in live.segments]  # type: ignore[index]
        if not rows:
            return None
        started = self._clock()
        try:
            scores = backend.run(rows[0] if len(rows) == 1 else np.concatenate(rows), alone=alone)
            if scores.ndim != 2 or len(scores) != live.rows:  # noqa: PLR2004 rows and classes
                raise BackendError(f"the device answered {scores.shape} for {live.rows} rows")  # noqa: TRY301 as if it had raised
        except Exception as error:  # noqa: BLE001 whatever a device raises
            return error
        self._metrics.batch(live.rows)
        if self._native is not None and live.segments[0].entry.shape != self._native:
            self._metrics.cold(live.rows)
        self._scatter(live, scores, self._clock() - started)
        return None

    def _fail(self, segments: Sequence[Segment], cause: Exception) -> None:
        failure = BackendError("the device failed on this request; try again")
        failure.__cause__ = cause
        for segment in segments:
            self._drop(segment.entry, "failed", failure)

    def _scatter(self, batch: Batch, scores: Scores, seconds: float) -> None:
        """Scores land by offset, not by order of arrival: two lanes may serve one entry.

        The lane rests before anybody has an answer: who then asks again at once is alone, and not beside it.
        """
        offset = 0
        with self._changed:
            for segment in batch.segments:
                entry = segment.entry
                part = scores[offset : offset + segment.rows]
                offset += segment.rows
                if len(part) == entry.rows:
                    entry.scores = part
                    continue
                if entry.scores is None:
                    entry.scores = np.empty((entry.rows, scores.shape[1]), np.float32)
                entry.scores[segment.start : segment.stop] = part
            complete = self._queue.done(batch, seconds)
            self._rest()
        now = self._clock()
        for entry in complete:
            self._report(entry, now)
            with contextlib.suppress(InvalidStateError):  # the caller left between the check and here
                assert entry.scores is not None  # noqa: S101 for the type checker; it was set above
                entry.future.set_result(entry.scores)

    def _report(self, entry: Entry, now: float) -> None:
        """Divides the time from offer to answer: drawing, running, and the rest, which is waiting."""
        worked = now - entry.offered_at - entry.fill_seconds
        # Lanes side by side may have run for more than the time that passed.
        entry.compute_seconds = min(entry.run_seconds, worked)
        entry.queue_seconds = worked - entry.compute_seconds
        entry.pixels = None  # megabytes that nobody needs any more
        self._metrics.stage("decode", entry.fill_seconds)
        self._metrics.stage("queue", entry.queue_seconds)
        self._metrics.stage("compute", entry.compute_seconds)

    def _leave(self, entry: "weakref.ref[Entry]", future: Future[Scores]) -> None:
        """A caller who cancelled is gone: views that wait will not be run."""
        if future.cancelled() and (left := entry()) is not None:
            self._drop(left, "cancelled" if self._clock() < left.deadline else "deadline")

    def _drop(self, entry: Entry, reason: str, error: Exception | None = None) -> None:
        """Takes an entry out of the queue, once."""
        with self._changed:
            if self._queue.cancel(entry) is None:
                return
            self._metrics.waiting(self._queue.waiting)
            self._changed.notify_all()  # a lane that only waits for this one may end now
        self._end(entry, reason, error)

    def _end(self, entry: Entry, reason: str, error: Exception | None) -> None:
        self._metrics.dropped(reason, entry.rows - entry.scored)
        entry.pixels, entry.fill = None, spent
        if error is not None:
            with contextlib.suppress(InvalidStateError):
                entry.future.set_exception(error)
