"""The threads around the queue, against a device that stands still until the test lets it go."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest

from fakes import FakeBackend
from service.engine.batcher import Batcher
from service.engine.entry import Entry, Pixels, Scores
from service.errors import BackendError, DeadlineExceededError, QueueFullError, ShuttingDownError
from service.metrics import Metrics

SHAPE = (1, 1, 3)
SOON = 10.0
"""Seconds after which a test gives up."""


class GatedBackend(FakeBackend):
    """Runs a batch for each `release`; `started` says that one is running."""

    def __init__(self, **options: int | bool) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        self.started.release()
        assert self.gate.acquire(timeout=SOON)
        return super().run(images, alone=alone)

    def release(self, batches: int) -> None:
        self.gate.release(batches)


class Inline(Executor):
    """A pool that has done its work when `submit` returns."""

    def submit(self, work: Callable[..., object], /, *args: object, **options: object) -> "Future[object]":  # type: ignore[override]
        future: Future[object] = Future()
        future.set_result(work(*args, **options))
        return future


def marked(rows: int, mark: int, **options: float) -> Entry:
    """An entry whose views carry their own number, so that a score tells whose it is."""

    def fill(pixels: Pixels) -> None:
        pixels[:, 0, 0] = [[mark, row, 0] for row in range(rows)]

    return Entry(rows, SHAPE, fill, **options)  # type: ignore[arg-type]


def expected(rows: int, mark: int) -> list[list[int]]:
    return [[mark, row, 0] for row in range(rows)]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def start(metrics: Metrics) -> Iterator[Callable[..., Batcher]]:
    batchers = []

    def make(backend: FakeBackend, **options: object) -> Batcher:
        batcher = Batcher(backend, metrics.of("model"), **{"max_queue_size": 100, **options})  # type: ignore[arg-type]
        batchers.append(batcher)
        return batcher

    yield make
    for batcher in batchers:
        for backend in batcher._backends:
            if isinstance(backend, GatedBackend):
                backend.release(1000)
        batcher.close(SOON)


def dropped(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("multicrop_dropped_views_total", {"model": "model", "reason": reason})


@pytest.mark.parametrize("lanes", [1, 3])
def test_scores_belong_to_their_submitter_whatever_the_batches(start: Callable[..., Batcher], lanes: int) -> None:
    batcher = start(FakeBackend(max_batch_size=4, lanes=lanes), max_queue_size=10_000)
    entries = [marked(rows=1 + mark % 11, mark=mark) for mark in range(200)]
    for entry in entries:
        batcher.submit(entry)
    for mark, entry in enumerate(entries):
        assert entry.future.result(SOON).tolist() == expected(entry.rows, mark)


def test_two_lanes_serve_one_entry(start: Callable[..., Batcher]) -> None:
    backend = GatedBackend(max_batch_size=2, lanes=2)
    batcher = start(backend)
    entry = marked(4, 7)
    batcher.submit(entry)
    for _ in range(2):  # both lanes run parts of it at once
        assert backend.started.acquire(timeout=SOON)
    backend.release(2)
    assert entry.future.result(SOON).tolist() == expected(4, 7)


def test_a_lane_that_only_prepares_takes_full_batches_alone(start: Callable[..., Batcher]) -> None:
    """Two lanes on a device that computes one batch at a time: what is not full goes on gathering."""
    backend = GatedBackend(max_batch_size=4, lanes=2, at_once=1, fills_ahead=True)
    batcher = start(backend, pool=Inline())
    first, some, more = marked(1, 1), marked(3, 2), marked(2, 3)
    batcher.submit(first)
    assert backend.started.acquire(timeout=SOON)
    batcher.submit(some)
    batcher.submit(more)
    assert backend.started.acquire(timeout=SOON)
    backend.release(3)
    for entry, mark in ((first, 1), (some, 2), (more, 3)):
        assert entry.future.result(SOON).tolist() == expected(entry.rows, mark)
    assert sorted(backend.batches) == [1, 1, 4], "three are no full batch, four are; the last waited for the device"


def test_a_batch_is_told_whether_it_is_alone(start: Callable[..., Batcher]) -> None:
    told = []

    class Noting(GatedBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            told.append((len(images), alone))
            return super().run(images, alone=alone)

    backend = Noting(max_batch_size=2, lanes=2)
    batcher = start(backend)
    lonely, pair, last = marked(1, 1), marked(2, 2), marked(2, 3)
    batcher.submit(lonely)
    assert backend.started.acquire(timeout=SOON)
    batcher.submit(pair)
    assert backend.started.acquire(timeout=SOON)
    backend.release(2)
    pair.future.result(SOON)
    lonely.future.result(SOON)
    backend.release(1)
    batcher.submit(last)
    last.future.result(SOON)
    assert told == [(1, True), (2, False), (2, True)]


def test_requests_gather_while_the_device_is_busy(start: Callable[..., Batcher]) -> None:
    backend = GatedBackend(max_batch_size=8, fills_ahead=True)
    batcher = start(backend, pool=Inline())
    entries = [marked(1, mark) for mark in range(6)]
    batcher.submit(entries[0])
    assert backend.started.acquire(timeout=SOON)
    for entry in entries[1:]:
        batcher.submit(entry)
    backend.release(2)
    for entry in entries:
        entry.future.result(SOON)
    assert backend.batches == [1, 5]


def test_a_bad_image_fails_its_own_entry_alone(start: Callable[..., Batcher], metrics: Metrics) -> None:
    backend = GatedBackend(max_batch_size=8)
    batcher = start(backend)
    first, second = marked(1, 1), marked(1, 2)

    def broken(_: Pixels) -> None:
        raise ValueError("no image")

    bad = Entry(3, SHAPE, broken)
    batcher.submit(first)
    assert backend.started.acquire(timeout=SOON)
    batcher.submit(bad)
    batcher.submit(second)
    backend.release(2)
    with pytest.raises(ValueError, match="no image"):
        bad.future.result(SOON)
    assert second.future.result(SOON).tolist() == expected(1, 2)
    assert backend.batches == [1, 1]
    assert batcher.waiting == 0
    assert dropped(metrics, "failed") == 3


def test_a_failed_run_fails_its_batch_and_the_lane_goes_on(
    start: Callable[..., Batcher], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(FakeBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            if images[0, 0, 0, 0] == 13:
                raise RuntimeError("address 0xdeadbeef")
            return super().run(images, alone=alone)

    batcher = start(Failing())
    bad, good = marked(1, 13), marked(1, 14)
    batcher.submit(bad)
    with pytest.raises(BackendError, match="try again") as failure:
        bad.future.result(SOON)
    assert "0xdeadbeef" not in str(failure.value)
    assert "0xdeadbeef" in caplog.text
    batcher.submit(good)
    assert good.future.result(SOON).tolist() == expected(1, 14)


class Poisoned(GatedBackend):
    """Fails on every batch that holds a view with the mark 13."""

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        scores = super().run(images, alone=alone)
        if 13 in images[:, 0, 0, 0]:
            raise RuntimeError("address 0xdeadbeef")
        return scores


def reruns(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("multicrop_reruns_total", {"model": "model"})


@pytest.mark.parametrize("place", range(8))
def test_of_a_batch_that_fails_only_the_culprit_does(
    start: Callable[..., Batcher], metrics: Metrics, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    backend = Poisoned(max_batch_size=8, fills_ahead=True)
    batcher = start(backend, pool=Inline())
    batcher.submit(marked(1, 99))
    assert backend.started.acquire(timeout=SOON)
    marks = [13 if number == place else number for number in range(8)]
    entries = [marked(1, mark) for mark in marks]
    for entry in entries:
        batcher.submit(entry)
    backend.release(1000)
    for entry, mark in zip(entries, marks, strict=True):
        if mark == 13:
            with pytest.raises(BackendError, match="try again"):
                entry.future.result(SOON)
        else:
            assert entry.future.result(SOON).tolist() == expected(1, mark)
    assert backend.batches[:2] == [1, 8]
    assert len(backend.batches) - 2 <= 4
    assert reruns(metrics) == len(backend.batches) - 2
    assert dropped(metrics, "failed") == 1
    assert "0xdeadbeef" in caplog.text
    good = marked(1, 1)
    batcher.submit(good)
    assert good.future.result(SOON).tolist() == expected(1, 1)


def test_what_expires_while_a_culprit_is_looked_for_is_not_run_again(
    start: Callable[..., Batcher], metrics: Metrics
) -> None:
    now = 0.0

    class Late(Poisoned):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            nonlocal now
            try:
                return super().run(images, alone=alone)
            finally:
                now += 1.0

    backend = Late(max_batch_size=8, fills_ahead=True)
    batcher = start(backend, pool=Inline(), clock=lambda: now)
    batcher.submit(marked(1, 99))
    assert backend.started.acquire(timeout=SOON)
    bad, late = marked(1, 13), marked(1, 2, deadline=1.5)
    batcher.submit(bad)
    batcher.submit(late)
    backend.release(1000)
    with pytest.raises(DeadlineExceededError):
        late.future.result(SOON)
    with pytest.raises(BackendError):
        bad.future.result(SOON)
    assert backend.batches == [1, 2, 1]
    assert dropped(metrics, "deadline") == 1


def test_a_stream_of_large_photographs_is_not_admitted_beyond_its_deadline(start: Callable[..., Batcher]) -> None:
    """Lanes draw here: the device would be fast enough, the drawing is not."""
    now = 0.0

    def fill(pixels: Pixels) -> None:
        nonlocal now
        now += 0.5
        pixels[:] = 0

    backend = GatedBackend(max_batch_size=8)
    batcher = start(backend, clock=lambda: now)
    for _ in range(4):
        entry = Entry(1, SHAPE, fill)
        batcher.submit(entry)
        backend.release(1)
        entry.future.result(SOON)
    batcher.submit(Entry(1, SHAPE, fill))
    for _ in range(5):
        assert backend.started.acquire(timeout=SOON)
    for _ in range(2):
        batcher.submit(Entry(1, SHAPE, fill, deadline=now + 2.2))
    with pytest.raises(QueueFullError, match=r"wait would be 1\.0 s"):  # half a second of its own, and one under way
        batcher.submit(Entry(1, SHAPE, fill, deadline=now + 2.2))


def test_too_few_rows_are_an_error_and_no_shifted_answers(start: Callable[..., Batcher]) -> None:
    class Short(FakeBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            return super().run(images, alone=alone)[:-1]

    entry = marked(3, 1)
    start(Short()).submit(entry)
    with pytest.raises(BackendError):
        entry.future.result(SOON)


def test_views_of_a_caller_who_left_are_never_run(start: Callable[..., Batcher], metrics: Metrics) -> None:
    backend = GatedBackend(max_batch_size=2)
    batcher = start(backend)
    first, left, last = marked(1, 1), marked(5, 2), marked(1, 3)
    batcher.submit(first)
    assert backend.started.acquire(timeout=SOON)
    batcher.submit(left)
    batcher.submit(last)
    assert left.future.cancel()
    assert batcher.waiting == 1
    backend.release(2)
    assert last.future.result(SOON).tolist() == expected(1, 3)
    assert backend.batches == [1, 1]
    assert dropped(metrics, "cancelled") == 5


def test_views_past_their_deadline_are_never_run(start: Callable[..., Batcher], metrics: Metrics) -> None:
    now = 0.0
    backend = GatedBackend(max_batch_size=2)
    batcher = start(backend, clock=lambda: now)
    first, late, last = marked(1, 1), marked(4, 2, deadline=1.0), marked(1, 3, deadline=9.0)
    batcher.submit(first)
    assert backend.started.acquire(timeout=SOON)
    batcher.submit(late)
    batcher.submit(last)
    now = 2.0
    backend.release(2)
    with pytest.raises(DeadlineExceededError):
        late.future.result(SOON)
    assert last.future.result(SOON).tolist() == expected(1, 3)
    assert backend.batches == [1, 1]
    assert dropped(metrics, "deadline") == 4


def test_a_full_queue_refuses_and_counts(start: Callable[..., Batcher], metrics: Metrics) -> None:
    backend = GatedBackend()
    batcher = start(backend, max_queue_size=4)
    batcher.submit(marked(1, 0))
    assert backend.started.acquire(timeout=SOON)
    batcher.submit(marked(4, 1))
    with pytest.raises(QueueFullError):
        batcher.submit(marked(2, 2))
    assert dropped(metrics, "queue_full") == 2


def test_closing_runs_what_was_admitted_and_admits_nothing_more() -> None:
    backend = GatedBackend(max_batch_size=2)
    batcher = Batcher(backend, Metrics().of("model"), max_queue_size=100)
    entries = [marked(3, mark) for mark in range(3)]
    for entry in entries:
        batcher.submit(entry)
    closer = threading.Thread(target=batcher.close, args=(SOON,))
    closer.start()
    backend.release(10)
    closer.join(SOON)
    assert not closer.is_alive()
    assert [entry.future.result(0).tolist() for entry in entries] == [expected(3, mark) for mark in range(3)]
    with pytest.raises(ShuttingDownError):
        batcher.submit(marked(1, 9))


def test_a_pool_fills_ahead_where_the_backend_wants_it(start: Callable[..., Batcher]) -> None:
    threads = []

    def fill(pixels: Pixels) -> None:
        threads.append(threading.current_thread().name)
        pixels[:] = 5

    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        batcher = start(FakeBackend(fills_ahead=True), pool=pool)
        entry = Entry(2, SHAPE, fill)
        batcher.submit(entry)
        assert entry.future.result(SOON).tolist() == [[5, 5, 5]] * 2
    assert threads == ["pool_0"]


@pytest.mark.parametrize("fills_ahead", [True, False], ids=["threads of the pool", "lanes"])
def test_one_thread_draws_all_shapes_of_an_image(start: Callable[..., Batcher], *, fills_ahead: bool) -> None:
    """They wait for its decoding: both of two threads would stand still while another image could be drawn."""
    decoding, other = threading.Lock(), threading.Event()

    def fill(pixels: Pixels) -> None:
        with decoding:
            assert other.wait(SOON)
            pixels[:] = 1

    def fill_other(pixels: Pixels) -> None:
        pixels[:] = 2
        other.set()

    with ThreadPoolExecutor(2) as pool:
        batcher = start(FakeBackend(lanes=2, fills_ahead=fills_ahead), pool=pool)
        shapes = [Entry(1, SHAPE, fill), Entry(1, (4, 6, 3), fill)]
        batcher.submit(*shapes)
        last = Entry(1, SHAPE, fill_other)
        batcher.submit(last)
        assert last.future.result(SOON).tolist() == [[2, 2, 2]]
        assert [entry.future.result(SOON).tolist() for entry in shapes] == [[[1, 1, 1]]] * 2


def test_stages_add_up(start: Callable[..., Batcher]) -> None:
    """Queue, decode and compute are disjoint: together they are the time from submit to answer."""
    now = 0.0

    class Slow(FakeBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            nonlocal now
            now += 5.0
            return super().run(images, alone=alone)

    def fill(pixels: Pixels) -> None:
        nonlocal now
        now += 3.0
        pixels[:] = 0

    entry = Entry(1, SHAPE, fill)
    start(Slow(), clock=lambda: now).submit(entry)
    entry.future.result(SOON)
    assert (entry.queue_seconds, entry.fill_seconds, entry.compute_seconds) == (0.0, 3.0, 5.0)


def test_compute_is_the_device_alone(start: Callable[..., Batcher]) -> None:
    """Two entries of four batches in turn: each waits while the other runs."""
    now = 0.0

    class Slow(GatedBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            nonlocal now
            scores = super().run(images, alone=alone)
            now += 1.0
            return scores

    backend = Slow(max_batch_size=1, fills_ahead=True)
    batcher = start(backend, pool=Inline(), clock=lambda: now)
    entries = [marked(2, mark) for mark in range(2)]
    for entry in entries:
        batcher.submit(entry)
    backend.release(4)
    for entry in entries:
        entry.future.result(SOON)
    assert [(entry.queue_seconds, entry.compute_seconds) for entry in entries] == [(1.0, 2.0), (2.0, 2.0)]


def test_an_image_that_is_slow_to_draw_does_not_refuse_the_next(start: Callable[..., Batcher]) -> None:
    now = 0.0

    def fill(pixels: Pixels) -> None:
        nonlocal now
        now += 60.0
        pixels[:] = 0

    backend = GatedBackend(max_batch_size=1)
    batcher = start(backend, clock=lambda: now)
    slow = Entry(1, SHAPE, fill)
    batcher.submit(slow)
    backend.release(1)
    slow.future.result(SOON)
    for mark in range(10):
        batcher.submit(marked(1, mark, deadline=now + 1.0))


def test_nothing_that_is_raised_ends_a_lane(
    start: Callable[..., Batcher], metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = start(FakeBackend())
    with monkeypatch.context() as broken:
        broken.setattr(batcher._metrics, "batch", lambda _: 1 / 0)
        bad = marked(2, 1)
        batcher.submit(bad)
        with pytest.raises(BackendError):
            bad.future.result(SOON)
    good = marked(2, 2)
    batcher.submit(good)
    assert good.future.result(SOON).tolist() == expected(2, 2)
    assert dropped(metrics, "failed") == 2


def test_memory_that_is_not_there_fails_one_entry(start: Callable[..., Batcher]) -> None:
    huge = Entry(1, (1 << 40, 1 << 20, 3), lambda _: None)
    batcher = start(FakeBackend())
    batcher.submit(huge)
    with pytest.raises((MemoryError, ValueError)):
        huge.future.result(SOON)
    good = marked(1, 1)
    batcher.submit(good)
    good.future.result(SOON)


def test_closing_does_not_wait_for_an_image_that_was_bad(metrics: Metrics) -> None:
    """One lane fails to draw the only entry while the other waits for it."""
    drawing, broken = threading.Event(), threading.Event()

    def fill(_: Pixels) -> None:
        drawing.set()
        assert broken.wait(SOON)
        raise ValueError("no image")

    batcher = Batcher(FakeBackend(max_batch_size=1, lanes=2), metrics.of("model"), max_queue_size=9)
    entry = Entry(4, SHAPE, fill)
    batcher.submit(entry)
    assert drawing.wait(SOON)
    batcher.stop()
    broken.set()
    batcher.close(SOON)
    assert not any(lane.is_alive() for lane in batcher._lanes)
    assert metrics.registry.get_sample_value("multicrop_queue_views", {"model": "model"}) == 0


def test_a_failed_entry_counts_all_its_views_once(start: Callable[..., Batcher], metrics: Metrics) -> None:
    class Failing(FakeBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            raise RuntimeError(len(images))

    entry = marked(10, 1)
    start(Failing(max_batch_size=4)).submit(entry)
    with pytest.raises(BackendError):
        entry.future.result(SOON)
    assert dropped(metrics, "failed") == 10


def test_views_of_another_size_are_counted(start: Callable[..., Batcher], metrics: Metrics) -> None:
    batcher = start(FakeBackend(), native=SHAPE)
    wide = Entry(3, (1, 2, 3), lambda pixels: pixels.fill(5))
    for entry in (marked(2, 1), wide):
        batcher.submit(entry)
        entry.future.result(SOON)
    assert metrics.registry.get_sample_value("multicrop_cold_views_total", {"model": "model"}) == 3


def test_entries_of_a_request_are_admitted_together(start: Callable[..., Batcher], metrics: Metrics) -> None:
    backend = GatedBackend(max_batch_size=8)
    batcher = start(backend, max_queue_size=6)
    batcher.submit(marked(1, 0))
    assert backend.started.acquire(timeout=SOON)
    batcher.submit(marked(2, 1))
    wide = Entry(2, (1, 2, 3), lambda pixels: pixels.fill(5), cost=2)
    with pytest.raises(QueueFullError):
        batcher.submit(marked(1, 2), wide)
    assert (batcher.waiting, dropped(metrics, "queue_full")) == (2, 3)
    narrow = marked(1, 3)
    batcher.submit(narrow, wide, admitted=True)
    assert batcher.waiting == 7
    backend.release(9)
    assert wide.future.result(SOON).tolist() == [[5, 5, 5]] * 2
    assert narrow.future.result(SOON).tolist() == expected(1, 3)


def test_versions_of_a_model_share_the_gauge(metrics: Metrics) -> None:
    first, second = metrics.of("model"), metrics.of("model")
    first.waiting(3)
    second.waiting(4)
    second.waiting(1)
    assert metrics.registry.get_sample_value("multicrop_queue_views", {"model": "model"}) == 4


def test_a_finished_entry_and_its_upload_are_free_at_once(start: Callable[..., Batcher]) -> None:
    upload = np.zeros(1000)
    seen = weakref.ref(upload)

    def fill(pixels: Pixels, upload: np.ndarray[tuple[int], np.dtype[np.float64]] = upload) -> None:
        pixels[:] = upload[0]

    entry = Entry(1, SHAPE, fill)
    alive = weakref.ref(entry)
    del fill, upload
    batcher = start(FakeBackend())
    gc.disable()
    try:
        batcher.submit(entry)
        entry.future.result(SOON)
        assert seen() is None
        del entry
        last = marked(1, 1)  # a lane that waits holds nothing of the batch before
        batcher.submit(last)
        last.future.result(SOON)
        assert alive() is None
    finally:
        gc.enable()


class NotingBackend(GatedBackend):
    """Also notes who called, and may be broken."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__(max_batch_size=2)
        self.callers: set[int] = set()
        self.broken = broken

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        self.callers.add(threading.get_ident())
        scores = super().run(images, alone=alone)
        if self.broken:
            raise RuntimeError("a device is lost")
        return scores


def test_devices_run_side_by_side_each_called_by_a_thread_of_its_own(start: Callable[..., Batcher]) -> None:
    devices = [NotingBackend(), NotingBackend(), NotingBackend()]
    batcher = start(devices[0], others=devices[1:])
    for round_ in range(4):
        entry = marked(6, round_)
        batcher.submit(entry)
        for device in devices:  # all three have begun before any may end
            assert device.started.acquire(timeout=SOON)
        for device in devices:
            device.release(1)
        assert entry.future.result(SOON).tolist() == expected(6, round_)
    assert [device.batches for device in devices] == [[2] * 4] * 3
    assert [len(device.callers) for device in devices] == [1, 1, 1]
    assert len(set.union(*(device.callers for device in devices))) == 3


def test_a_device_that_fails_fails_its_own_batch(start: Callable[..., Batcher]) -> None:
    good, bad = NotingBackend(), NotingBackend(broken=True)
    batcher = start(good, others=[bad])
    entries = [marked(2, mark) for mark in range(2)]
    for entry in entries:
        batcher.submit(entry)
    for device in (good, bad):  # both have begun before any may end, and take what is the other's
        assert device.started.acquire(timeout=SOON)
    for device in (good, bad):
        device.release(1)
    ended = [entry.future.exception(SOON) for entry in entries]
    assert sorted(type(error).__name__ for error in ended) == ["BackendError", "NoneType"]
    (whole,) = [entry for entry in entries if entry.future.exception(SOON) is None]
    assert whole.future.result(SOON).tolist() == expected(2, entries.index(whole))


def test_the_wait_is_shared_by_all_devices(start: Callable[..., Batcher]) -> None:
    devices = [NotingBackend() for _ in range(4)]
    assert start(devices[0], others=devices[1:])._queue._lanes == 4
