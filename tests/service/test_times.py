"""What runs are predicted to take, on devices whose times are known."""

import pytest

from service.engine.entry import Entry
from service.engine.queue import BatchQueue
from service.engine.times import RunTimes
from service.errors import QueueFullError


def test_before_any_run_nothing_is_known() -> None:
    assert RunTimes(8).of(100) == 0.0


@pytest.mark.parametrize(("views", "seconds"), [(0, 0.0), (1, 2.0), (3, 6.0), (8, 16.0), (20, 40.0)])
def test_a_cpu_takes_as_many_times_as_long_as_there_are_views(views: int, seconds: float) -> None:
    times = RunTimes(8)
    times.learn(4, 8.0)
    assert times.of(views) == pytest.approx(seconds)


@pytest.mark.parametrize(("views", "seconds"), [(1, 5.0), (8, 6.0), (32, 9.0), (100, 3 * 9.0 + 5 + 3 / 7), (20, 7.5)])
def test_a_gpu_takes_little_longer_for_more_views(views: int, seconds: float) -> None:
    times = RunTimes(32)
    for size, took in [(32, 9.0), (1, 5.0), (8, 6.0)]:
        times.learn(size, took)
    assert times.of(views) == pytest.approx(seconds)


def test_a_view_larger_than_a_batch_counts_as_its_part_of_it() -> None:
    times = RunTimes(4)
    times.learn(20, 10.0)
    assert times.of(8) == pytest.approx(4.0)


def test_what_was_long_ago_is_forgotten() -> None:
    times = RunTimes(4)
    times.learn(4, 60.0)
    for _ in range(50):
        times.learn(3, 1.0)
        times.learn(4, 2.0)
    assert 1.0 <= times.of(4) <= 2.5
    assert 1.0 <= times.usual <= 2.0


def test_single_views_that_went_before_refuse_no_burst() -> None:
    """On a GPU of 5 ms a batch; counted by the view, 63 of them would be 315 ms, beyond the deadline of the last."""
    queue = BatchQueue(max_batch_size=32, max_queue_size=1000)
    for rows in (1, 1, 32, 1, 1, 1):
        queue.offer([one := Entry(rows, (1, 1, 1), lambda _: None)], 0.0)
        batch = queue.take()
        assert batch is not None
        assert batch.to_fill == [one]
        queue.done(batch, 0.005)
    for _ in range(64):
        queue.offer([Entry(1, (1, 1, 1), lambda _: None, deadline=0.1)], 0.0, filling=True)
    assert queue.predicted_wait() == pytest.approx(0.010)
    with pytest.raises(QueueFullError):
        queue.offer([Entry(1, (1, 1, 1), lambda _: None, deadline=0.02)], 0.0)
