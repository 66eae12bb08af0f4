"""The state machine alone: no threads, no clock."""

from collections.abc import Sequence
from itertools import combinations
from math import ceil, inf, log2

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine.entry import Batch, Entry, Segment, State
from service.engine.isolate import MAX_CULPRITS, isolate
from service.engine.queue import SPARE, BatchQueue
from service.errors import DeadlineExceededError, QueueFullError

SHAPE = (1, 1, 1)


def entry(
    rows: int, *, priority: int = 0, deadline: float = inf, shape: tuple[int, int, int] = SHAPE, cost: int = 1
) -> Entry:
    return Entry(rows, shape, fill=lambda _: None, priority=priority, deadline=deadline, cost=cost)


def ready(queue: BatchQueue, *entries: Entry) -> None:
    """Offers entries whose pixels are there already."""
    for one in entries:
        queue.offer([one], 0.0, filling=True)
        queue.filled(one)


def parts(batch: Batch | None) -> list[tuple[Entry, int, int]]:
    assert batch is not None
    return [(segment.entry, segment.start, segment.stop) for segment in batch.segments]


def test_entries_share_a_batch() -> None:
    queue = BatchQueue(max_batch_size=8, max_queue_size=100)
    first, second = entry(3), entry(2)
    ready(queue, first, second)
    assert parts(queue.take()) == [(first, 0, 3), (second, 0, 2)]
    assert queue.take() is None
    assert queue.waiting == 0


def test_a_large_entry_is_split_and_others_have_their_turn_between() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=100, quantum=4)
    large, small = entry(10), entry(1)
    ready(queue, large, small)
    assert parts(queue.take()) == [(large, 0, 4)]
    assert parts(queue.take()) == [(small, 0, 1), (large, 4, 7)]
    assert parts(queue.take()) == [(large, 7, 10)]


def test_the_quantum_bounds_what_one_entry_gives_while_others_wait() -> None:
    queue = BatchQueue(max_batch_size=8, max_queue_size=100, quantum=2)
    large, small = entry(10), entry(1)
    ready(queue, large, small)
    assert parts(queue.take()) == [(large, 0, 7), (small, 0, 1)]
    larger = entry(50)
    ready(queue, larger, *(entry(1) for _ in range(6)))
    assert [stop - start for _, start, stop in parts(queue.take())] == [2, 2, 1, 1, 1, 1]


def test_a_higher_priority_is_taken_first_and_a_lower_one_fills_the_rest() -> None:
    queue = BatchQueue(max_batch_size=3, max_queue_size=100)
    low, high = entry(5), entry(2, priority=1)
    ready(queue, low, high)
    assert parts(queue.take()) == [(high, 0, 2), (low, 0, 1)]


def test_different_shapes_never_share_a_batch() -> None:
    queue = BatchQueue(max_batch_size=8, max_queue_size=100)
    square, wide, other = entry(1), entry(1, shape=(1, 2, 1)), entry(1)
    ready(queue, square, wide, other)
    assert parts(queue.take()) == [(square, 0, 1), (other, 0, 1)]
    assert parts(queue.take()) == [(wide, 0, 1)]


def test_an_entry_that_a_lane_fills_is_taken_by_no_other_lane_until_it_is_filled() -> None:
    queue = BatchQueue(max_batch_size=2, max_queue_size=100)
    one = entry(4)
    queue.offer([one], 0.0)
    batch = queue.take()
    assert batch is not None
    assert batch.to_fill == [one]
    assert queue.take() is None
    queue.filled(one)
    assert parts(queue.take()) == [(one, 2, 4)]


def test_a_taker_fills_all_shapes_of_an_image_and_other_takers_pass_them_over() -> None:
    queue = BatchQueue(max_batch_size=8, max_queue_size=100)
    one, wide, left, other = entry(1), entry(1, shape=(1, 2, 1)), entry(1, shape=(1, 3, 1)), entry(1)
    queue.offer([one, wide, left], 0.0)
    queue.offer([other], 0.0)
    queue.cancel(left)
    batch = queue.take()
    assert parts(batch) == [(one, 0, 1)]
    assert batch is not None
    queue.cancel(one)  # who took it still has the others to fill
    assert batch.to_fill == [one, wide]
    second = queue.take()
    assert parts(second) == [(other, 0, 1)]
    assert second is not None
    assert second.to_fill == [other]
    assert queue.take() is None
    queue.filled(wide)
    third = queue.take()
    assert parts(third) == [(wide, 0, 1)]
    assert third is not None
    assert third.to_fill == []


def test_a_taker_has_at_most_one_entry_to_fill() -> None:
    """Sixteen images over two lanes: neither lane draws them all while the other has nothing to do."""
    queue = BatchQueue(max_batch_size=16, max_queue_size=100, lanes=2)
    unfilled = [entry(1) for _ in range(3)]
    filled, last = [entry(1) for _ in range(2)], entry(1)
    queue.offer([unfilled[0]], 0.0)
    ready(queue, *filled)
    queue.offer([unfilled[1]], 0.0)
    queue.offer([unfilled[2]], 0.0)
    ready(queue, last)
    assert [one for one, _, _ in parts(queue.take())] == [unfilled[0], *filled]
    assert [one for one, _, _ in parts(queue.take())] == [unfilled[1]]
    assert [one for one, _, _ in parts(queue.take())] == [unfilled[2], last]


@pytest.mark.parametrize("max_batch_size", [1, 2, 4, 8, 16])
def test_drawn_entries_do_not_take_the_places_of_those_that_are_yet_to_be_drawn(max_batch_size: int) -> None:
    """Until the last of twelve has its turn, four large ones that are drawn already have theirs, and no second one."""
    queue = BatchQueue(max_batch_size=max_batch_size, max_queue_size=1000, lanes=2)
    turn = min(max_batch_size, 4)
    larges, smalls = [entry(150) for _ in range(4)], [entry(1) for _ in range(12)]
    ready(queue, *larges)
    for one in smalls:
        queue.offer([one], 0.0)
    taken = []
    while any(one.untaken for one in smalls[:-1]):
        taken += parts(queue.take())
    assert [one for one, _, _ in taken if one in smalls] == smalls[:-1]
    assert sorted(sum(stop - start for one, start, stop in taken if one is large) for large in larges) == [turn] * 4


def test_an_entry_that_a_pool_fills_is_not_taken_before() -> None:
    queue = BatchQueue(max_batch_size=2, max_queue_size=100)
    one = entry(1)
    queue.offer([one], 0.0, filling=True)
    assert queue.take() is None
    queue.filled(one)
    assert parts(queue.take()) == [(one, 0, 1)]


def test_a_full_queue_refuses_and_says_how_long_to_wait() -> None:
    queue = BatchQueue(max_batch_size=2, max_queue_size=4, lanes=2)
    ready(queue, entry(2))
    batch = queue.take()
    assert batch is not None
    queue.done(batch, 0.6)  # 0.3 s a view, two lanes
    ready(queue, entry(4))
    with pytest.raises(QueueFullError, match="4 views wait, at most 4") as refused:
        queue.offer([entry(1)], 0.0)
    assert refused.value.retry_after == pytest.approx(4 * 0.3 / 2)


def test_an_entry_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    queue = BatchQueue(max_batch_size=2, max_queue_size=4)
    queue.offer([entry(9)], 0.0)
    assert queue.waiting == 9


def test_a_predicted_wait_past_the_deadline_is_refused_on_arrival() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=100)
    ready(queue, entry(4))
    batch = queue.take()
    assert batch is not None
    queue.done(batch, 4.0)  # 1 s a view
    ready(queue, entry(3))
    queue.offer([entry(1, deadline=13.0)], 0.0)  # 3 s of waiting, 2 runs of 4 s: before it and its own; 15 % to spare
    with pytest.raises(QueueFullError, match=r"wait would be 4\.0 s"):
        queue.offer([entry(1, deadline=13.9)], 0.0)


def test_short_runs_spare_no_more_than_two_of_them() -> None:
    queue = BatchQueue(max_batch_size=1, max_queue_size=100)
    ready(queue, entry(1))
    batch = queue.take()
    assert batch is not None
    queue.done(batch, 0.01)
    ready(queue, entry(96))
    with pytest.raises(QueueFullError):
        queue.offer([entry(1, deadline=0.999)], 0.0)
    queue.offer([entry(1, deadline=1.001)], 0.0)  # 96 before it, 2 with it, 2 to spare: 1 s, of which 15 % were fifteen


def test_nobody_is_refused_by_a_prediction_while_nothing_waits() -> None:
    """What was slow once is tried again."""
    queue = BatchQueue(max_batch_size=4, max_queue_size=100)
    ready(queue, entry(4))
    batch = queue.take()
    assert batch is not None
    queue.done(batch, 400.0)
    queue.offer([entry(1, deadline=0.1)], 0.0)
    with pytest.raises(QueueFullError):
        queue.offer([entry(1, deadline=0.1)], 0.0)


def test_a_deadline_already_past_is_its_own_error() -> None:
    with pytest.raises(DeadlineExceededError):
        BatchQueue(max_batch_size=1, max_queue_size=1).offer([entry(1, deadline=5.0)], 5.0)


def test_expired_entries_are_returned_once_and_never_taken() -> None:
    queue = BatchQueue(max_batch_size=8, max_queue_size=100)
    early, late = entry(2, deadline=1.0), entry(3, deadline=2.0)
    ready(queue, late, early)
    assert queue.next_deadline() == 1.0
    assert queue.expire(1.0) == [early]
    assert queue.expire(1.5) == []
    assert queue.next_deadline() == 2.0
    assert parts(queue.take()) == [(late, 0, 3)]


def test_cancelling_frees_the_views_that_are_not_taken() -> None:
    queue = BatchQueue(max_batch_size=2, max_queue_size=100)
    one = entry(5)
    ready(queue, one)
    batch = queue.take()
    assert batch is not None
    assert queue.cancel(one) == 3
    assert queue.cancel(one) is None
    assert queue.waiting == 0
    assert queue.done(batch, 0.1) == []  # its last views finish, and nobody waits for them


def test_an_entry_is_complete_when_its_last_view_is_scored_whatever_the_order() -> None:
    queue = BatchQueue(max_batch_size=2, max_queue_size=100)
    one = entry(4)
    ready(queue, one)
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    assert queue.done(second, 0.1) == []
    assert queue.done(first, 0.1) == [one]


def test_large_views_are_charged_by_what_they_cost() -> None:
    queue = BatchQueue(max_batch_size=8, max_queue_size=20)
    ready(queue, entry(5, cost=3))
    assert queue.waiting == 15
    with pytest.raises(QueueFullError, match="15 views wait, at most 20"):
        queue.offer([entry(2, cost=3)], 0.0)
    queue.offer([entry(5)], 0.0)
    assert queue.waiting == 20
    assert queue.cancel(next(iter(queue._rings[0]))) == 5
    assert queue.waiting == 5


def test_a_batch_holds_what_costs_no_more_than_it() -> None:
    queue = BatchQueue(max_batch_size=8, max_queue_size=100, quantum=8)
    large = entry(5, cost=3)
    ready(queue, large)
    assert parts(queue.take()) == [(large, 0, 2)]
    assert queue.waiting == 9


def test_a_view_larger_than_a_batch_runs_by_itself() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=100)
    huge, other = entry(2, cost=9), entry(1)
    ready(queue, huge, other)
    assert parts(queue.take()) == [(huge, 0, 1)]
    assert parts(queue.take()) == [(other, 0, 1)], "what costs more than is left waits for the next batch"
    assert parts(queue.take()) == [(huge, 1, 2)]
    assert (queue.take(), queue.waiting) == (None, 0)


def test_turns_are_dealt_by_cost() -> None:
    """A quantum of four: four small views or one that costs three."""
    queue = BatchQueue(max_batch_size=14, max_queue_size=100, quantum=4)
    small, large = entry(20), entry(20, cost=3)
    ready(queue, small, large)
    assert [(one, stop - start) for one, start, stop in parts(queue.take())] == [(small, 8), (large, 2)]


def test_the_predicted_wait_counts_cost() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=100)
    ready(queue, entry(1, cost=4))
    batch = queue.take()
    assert batch is not None
    queue.done(batch, 2.0)  # 0.5 s for a view of native size
    ready(queue, entry(3, cost=4))
    assert queue.predicted_wait() == pytest.approx(12 * 0.5)


def test_a_request_is_admitted_as_a_whole_or_not_at_all() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=10)
    ready(queue, entry(4))
    with pytest.raises(QueueFullError):
        queue.offer([entry(3), entry(2, cost=2)], 0.0)
    assert queue.waiting == 4
    queue.offer([entry(2), entry(2, cost=2)], 0.0)
    assert queue.waiting == 10


def test_a_request_larger_than_the_queue_is_taken_whole_when_nothing_waits() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=10)
    queue.offer([entry(8), entry(1, cost=9, shape=(3, 3, 1))], 0.0)
    assert queue.waiting == 17


def test_what_continues_a_request_is_refused_by_its_deadline_alone() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=4)
    ready(queue, entry(4))
    batch = queue.take()
    assert batch is not None
    queue.done(batch, 40.0)  # 10 s a view
    ready(queue, entry(4))
    with pytest.raises(QueueFullError):
        queue.offer([entry(1, deadline=5.0)], 0.0)
    queue.offer([entry(1, deadline=5.0)], 0.0, admitted=True)
    assert queue.waiting == 5
    with pytest.raises(DeadlineExceededError):
        queue.offer([entry(1, deadline=5.0)], 5.0, admitted=True)


def test_the_predicted_wait_counts_the_drawing_that_takers_do() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=200, lanes=2)
    for seconds in (1.0, 3.0, 60.0):  # one odd image is no trend
        queue.drew(seconds)
    entries = [entry(150), entry(1), entry(1)]
    for one in entries:
        queue.offer([one], 0.0)
    assert queue.predicted_wait() == pytest.approx(3 * 2.0 / 2)
    with pytest.raises(QueueFullError, match=r"wait would be 3\.0 s"):
        queue.offer([entry(1, deadline=2.5)], 0.0)
    queue.cancel(entries[1])
    queue.take()
    assert queue.predicted_wait() == pytest.approx(1.0)


def test_the_predicted_wait_counts_the_drawing_that_is_done_ahead() -> None:
    """Beside the runs: the slower of the two is waited for."""
    queue = BatchQueue(max_batch_size=4, max_queue_size=200, drawers=2)
    for _ in range(2):
        queue.drew(0.5)
    entries = [entry(1) for _ in range(6)]
    for one in entries:
        queue.offer([one], 0.0, filling=True)
    assert queue.predicted_wait() == pytest.approx(6 * 0.5 / 2)
    queue.filled(entries[0])
    queue.cancel(entries[1])
    assert queue.predicted_wait() == pytest.approx(4 * 0.5 / 2)
    with pytest.raises(QueueFullError):
        queue.offer([entry(1, deadline=0.9)], 0.0, filling=True)
    batch = queue.take()
    assert batch is not None
    queue.done(batch, 1.0)  # which is the slower one now, four of whose views are a batch
    assert queue.predicted_wait() == pytest.approx(4.0)


def test_what_is_asked_needs_time_to_be_drawn_itself() -> None:
    """And what is being drawn meanwhile, by whoever draws."""
    for filling in (True, False):
        queue = BatchQueue(max_batch_size=4, max_queue_size=200)
        for _ in range(2):
            queue.drew(0.5)
        queue.offer([entry(1)], 0.0, filling=filling)
        assert queue.predicted_answer() == pytest.approx(0.5 + 2 * 0.5)


def test_a_first_slow_drawing_refuses_nobody() -> None:
    queue = BatchQueue(max_batch_size=4, max_queue_size=100)
    queue.drew(60.0)
    queue.offer([entry(1)], 0.0)
    queue.offer([entry(1, deadline=1.0)], 0.0)


def alone(count: int) -> list[Segment]:
    return [Segment(entry(1), 0, 1) for _ in range(count)]


class Poison:
    """A device that fails on any of some segments; what it was asked, and what it has finished."""

    def __init__(self, segments: list[Segment]) -> None:
        self.culprits = set(segments)
        self.runs = 0
        self.finished: set[Segment] = set()

    def run(self, part: Sequence[Segment]) -> bool:
        self.runs += 1
        if works := self.culprits.isdisjoint(part):
            self.finished.update(part)
        return works


@pytest.mark.parametrize(
    ("size", "bad"), [(size, bad) for size in (1, 2, 3, 5, 8, 13) for bad in (1, 2, 3) if bad <= size]
)
def test_all_culprits_of_a_batch_and_nobody_else_are_found_within_the_budget(size: int, bad: int) -> None:
    for where in combinations(range(size), bad):
        segments = alone(size)
        poison = Poison([segments[place] for place in where])
        assert set(isolate(segments, poison.run)) == poison.culprits
        assert poison.finished == set(segments) - poison.culprits
        assert poison.runs <= bad * (ceil(log2(size)) + 1)


def test_a_failure_that_does_not_come_again_fails_nobody() -> None:
    runs: list[int] = []
    assert isolate(alone(8), lambda part: not runs.append(len(part))) == []  # type: ignore[func-returns-value]
    assert sum(runs) == 8, "each has run once"


def test_a_device_that_fails_always_is_not_asked_for_every_entry() -> None:
    runs: list[int] = []
    segments = alone(64)
    assert set(isolate(segments, lambda part: bool(runs.append(len(part))))) == set(segments)  # type: ignore[func-returns-value]
    assert len(runs) <= MAX_CULPRITS * (6 + 1)


class AnyOrder(RuleBasedStateMachine):
    """Whatever the order of calls: each view is run once or dropped, batches are legal, the count of views is right."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue = BatchQueue(max_batch_size=4, max_queue_size=40, lanes=2, quantum=3)
        self.alive: list[Entry] = []
        self.running: list[Batch] = []
        self.runs: dict[Entry, list[int]] = {}
        self.gone: set[Entry] = set()
        self.told: set[Entry] = set()
        """Entries that somebody was told to fill."""
        self.ahead: set[Entry] = set()
        """Those of them that no taker was told."""

    @rule(
        sizes=st.lists(
            st.tuples(st.integers(1, 12), st.booleans(), st.sampled_from([1, 1, 2, 7])), min_size=1, max_size=3
        ),
        priority=st.integers(-1, 1),
        filling=st.booleans(),
        wait=st.sampled_from([0.5, 5.0, inf]),
        admitted=st.booleans(),
    )
    def offer(
        self, sizes: list[tuple[int, bool, int]], priority: int, filling: bool, wait: float, admitted: bool
    ) -> None:
        wave = [
            entry(rows, priority=priority, deadline=self.now + wait, shape=(1, 2 if wide else 1, 1), cost=cost)
            for rows, wide, cost in sizes
        ]
        before, charge = self.queue.waiting, sum(rows * cost for rows, _, cost in sizes)
        try:
            self.queue.offer(wave, self.now, filling=filling, admitted=admitted)
        except QueueFullError:
            assert not admitted
            assert before + charge > 40 or self.queue.predicted_answer() > (1 - SPARE) * wait
            assert self.queue.waiting == before
        else:
            assert admitted or not before or before + charge <= 40
            self.alive += wave
            self.told.update(wave if filling else ())
            self.ahead.update(wave if filling else ())
            self.runs |= {one: [] for one in wave}

    @rule()
    def take(self) -> None:
        waiting = [one for one in self.alive if one.untaken and one.state in (State.WAITING, State.READY)]
        batch = self.queue.take()
        if batch is None:
            assert not waiting, "a lane would stand idle"
            return
        assert batch.cost == sum(segment.rows * segment.entry.cost for segment in batch.segments)
        assert batch.rows >= 1
        assert batch.cost <= 4 or batch.rows == 1
        assert len({segment.entry.shape for segment in batch.segments}) == 1
        self._check_priorities(batch, waiting)
        for segment in batch.segments:
            assert segment.entry not in self.gone
            assert segment.entry.deadline > self.now
            self.runs[segment.entry] += range(segment.start, segment.stop)
        assert self.told.isdisjoint(batch.to_fill)
        self.told.update(batch.to_fill)
        self.running.append(batch)

    @rule(data=st.data())
    @precondition(lambda self: self.alive)
    def fill(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.alive))
        if one.state is State.FILLING:
            assert one in self.told, "nobody would ever fill it"
            one.pixels = np.zeros((one.rows, *one.shape), np.uint8)
            self.queue.filled(one)

    @rule(data=st.data(), seconds=st.floats(0.001, 0.1))
    @precondition(lambda self: self.running)
    def done(self, data: st.DataObject, seconds: float) -> None:
        batch = data.draw(st.sampled_from(self.running))
        self.running.remove(batch)
        for one in self.queue.done(batch, seconds):
            assert one not in self.gone
            assert sorted(self.runs[one]) == list(range(one.rows))
            self.alive.remove(one)

    @rule(data=st.data())
    @precondition(lambda self: self.alive)
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.alive))
        assert self.queue.cancel(one) == one.rows - len(self.runs[one])
        self._drop(one)

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for one in self.queue.expire(self.now):
            assert one.deadline <= self.now
            self._drop(one)

    @rule(seconds=st.floats(0.0, 2.0))
    def drew(self, seconds: float) -> None:
        self.queue.drew(seconds)

    def _check_priorities(self, batch: Batch, waiting: list[Entry]) -> None:
        """The first of a batch has the highest priority of all that could be taken."""
        assert batch.segments[0].entry.priority == max(one.priority for one in waiting)

    def _drop(self, one: Entry) -> None:
        self.gone.add(one)
        self.alive.remove(one)

    @invariant()
    def counts(self) -> None:
        assert self.queue._undrawn == sum(one.state is State.WAITING for one in self.alive)
        assert self.queue._ahead == sum(one.state is State.FILLING for one in self.alive if one in self.ahead)
        assert self.queue.waiting == sum((one.rows - len(self.runs[one])) * one.cost for one in self.alive)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
