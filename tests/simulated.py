"""The queue in virtual time: lanes, a pool, clients that leave, damaged images and poison, all from one seed.

What `Batcher` does with threads and locks is done here by generators that yield how long they take, so that a million
interleavings can be tried, and one that breaks a promise comes again with its seed.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, log2

from service.engine.entry import Batch, Entry, Segment, State
from service.engine.isolate import MAX_CULPRITS, searching
from service.engine.queue import SPARE, BatchQueue
from service.errors import DeadlineExceededError, QueueFullError

Steps = Generator[float, None, None]
"""Of a lane: the seconds that each takes; infinitely long until it is woken."""


class BrokenError(Exception):
    """A promise was broken."""


def require(holds: bool, promise: str) -> None:
    if not holds:
        raise BrokenError(promise)


@dataclass(eq=False)
class Fate:
    """What a seed has in store for an entry, and what became of it."""

    poison: bool
    damaged: bool
    fill_seconds: float
    rows: Counter[int] = field(default_factory=Counter)
    """How often each was run with success."""
    next_row: int = 0
    ends: list[str] = field(default_factory=list)
    passed: int = 0
    """Batches of its priority that went by since it was ready, or last had its turn."""
    ahead: int = 0
    """Entries of its priority in the queue at that time."""


class Simulation:
    """One run; raises BrokenError.

    Args:
        seed: decides everything.
        requests: that arrive.
    """

    def __init__(self, seed: int, requests: int = 20) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.ends: Counter[str] = Counter()
        self.refused = 0
        self.reruns = 0
        self._count = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._fates: dict[Entry, Fate] = {}
        self._alive: dict[Entry, None] = {}
        choose = self.random.choice
        self._ahead = choose([False, True])
        self._largest = choose([1, 2, 4, 8, 16, 64])
        lanes = choose([1, 1, 2, 3, 4])
        self._queue = BatchQueue(
            max_batch_size=self._largest,
            max_queue_size=choose([4, 40, 400]),
            lanes=lanes,
            quantum=choose([None, 1, 3, self._largest]),
        )
        self._at_once = choose([lanes, 1])
        self._under_way = 0
        self._idle: list[Steps] = []
        self._bad = choose([0.0, 0.0, 0.1, 0.5])
        self._leaving = choose([0.0, 0.2, 0.6])
        self._patience = choose([inf, 0.05, 1.0])
        for _ in range(lanes):
            self._step(self._lane())
        gap = choose([0.0001, 0.003, 0.03])
        for number in range(requests):
            self._at(number * gap * self.random.uniform(0.5, 1.5), self._arrive)

    def run(self) -> None:
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()
        require(self._queue.waiting == 0, "nothing is left in the queue")
        require(self._queue.predicted_wait() == 0, "nothing is left to be drawn")
        require(self._queue.take() is None, "nothing is left to be taken")
        for entry, fate in self._fates.items():
            require(len(fate.ends) == 1, f"an entry ends once: {fate.ends}")
            self.ends[fate.ends[0]] += 1
            if fate.ends == ["done"]:
                require(fate.rows == Counter(range(entry.rows)), "each view was run once")

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), act))

    def _wake(self) -> None:
        idle, self._idle = self._idle, []
        for lane in idle:
            self._at(self.now, lambda lane=lane: self._step(lane))  # type: ignore[misc]

    def _step(self, lane: Steps) -> None:
        seconds = next(lane)
        if seconds == inf:
            self._idle.append(lane)
        else:
            self._at(self.now + seconds, lambda: self._step(lane))

    def _arrive(self) -> None:
        deadline = self.now + self._patience * self.random.uniform(0.5, 2.0)
        self._offer(self.random.choice([0, 0, 0, 1, -1]), deadline, waves=self.random.choice([0, 0, 1, 2]))

    def _offer(self, priority: int, deadline: float, *, waves: int, admitted: bool = False) -> None:
        draw = self.random
        entries = [
            Entry(
                draw.choice([1, 1, 2, 10, 30]),
                (1, draw.choice([1, 1, 2]), 1),
                lambda _: None,
                deadline,
                priority,
                draw.choice([1, 1, 1, 3, 20]),
            )
            for _ in range(draw.choice([1, 1, 1, 3]))
        ]
        before, charge = self._queue.waiting, sum(entry.charge for entry in entries)
        wait = self._queue.predicted_answer()
        try:
            self._queue.offer(entries, self.now, filling=self._ahead, admitted=admitted)
        except DeadlineExceededError:
            require(deadline <= self.now, "only a deadline that is past is one")
            return
        except QueueFullError:
            require(not admitted, "who was let in before is not refused")
            full = before > 0 and before + charge > self._queue.max_queue_size
            require(full or wait > (1 - SPARE) * (deadline - self.now), "only a full queue or a long wait refuses")
            self.refused += 1
            return
        for entry in entries:
            fate = Fate(draw.random() < self._bad, draw.random() < self._bad / 3, draw.uniform(0.0, 0.02))
            self._fates[entry] = fate
            self._alive[entry] = None
            if deadline < inf:
                self._at(deadline, self._wake)
            if draw.random() < self._leaving:
                self._at(self.now + draw.uniform(0.0, 0.1), lambda entry=entry: self._end(entry, "cancelled"))  # type: ignore[misc]
        self._continue(entries, priority, deadline, waves)
        if self._ahead:
            self._fill_ahead(entries)
        self._wake()

    def _continue(self, entries: Sequence[Entry], priority: int, deadline: float, waves: int) -> None:
        """The next wave is offered when this one is done."""

        def done(_: object) -> None:
            if waves and all(entry.future.done() for entry in entries):
                self._offer(priority, deadline, waves=waves - 1, admitted=True)

        for entry in entries:
            entry.future.add_done_callback(done)

    def _fill_ahead(self, entries: Sequence[Entry]) -> None:
        when = self.now
        for entry in entries:
            when += self._fates[entry].fill_seconds
            self._at(when, lambda entry=entry: self._drawn(entry))  # type: ignore[misc]

    def _drawn(self, entry: Entry) -> None:
        """As the pool: what is gone is not drawn."""
        if not entry.gone:
            self._queue.drew(self._fates[entry].fill_seconds)
            self._filled(entry)

    def _filled(self, entry: Entry) -> None:
        fate = self._fates[entry]
        if fate.damaged:
            self._end(entry, "damaged")
        elif not entry.gone:
            self._queue.filled(entry)
            self._turn(entry)
        self._wake()

    def _turn(self, entry: Entry) -> None:
        fate = self._fates[entry]
        fate.passed, fate.ahead = 0, sum(one.priority == entry.priority for one in self._waiting())

    def _waiting(self) -> list[Entry]:
        return [entry for entry in self._alive if entry.untaken]

    def _over(self, entry: Entry, how: str) -> None:
        self._fates[entry].ends.append(how)
        self._alive.pop(entry, None)

    def _lane(self) -> Steps:
        while True:
            for entry in self._queue.expire(self.now):
                require(entry.deadline <= self.now, "what expires is late")
                self._over(entry, "expired")
                entry.future.cancel()
            waiting = self._waiting()
            idle = self._under_way < self._at_once
            batch = self._queue.take(1 if idle else self._largest)
            if batch is None:
                ready = [entry for entry in waiting if entry.state in (State.WAITING, State.READY)]
                require(not (ready and idle), "no device is idle while there is something to take")
                yield inf
                continue
            require(idle or batch.cost >= self._largest, "only a full batch is taken ahead")
            self._under_way += 1
            self._check(batch, waiting)
            for entry in batch.to_fill:
                if not entry.gone:
                    yield self._fates[entry].fill_seconds
                    self._queue.drew(self._fates[entry].fill_seconds)
                    self._filled(entry)
            yield from self._run(batch)
            self._under_way -= 1
            self._wake()

    def _check(self, batch: Batch, waiting: Sequence[Entry]) -> None:
        require(batch.cost <= self._largest or batch.rows == 1, "a batch is no larger than it may be")
        require(len({segment.entry.shape for segment in batch.segments}) == 1, "views of a batch have one shape")
        first = batch.segments[0].entry
        for segment in batch.segments:
            entry, fate = segment.entry, self._fates[segment.entry]
            require(not fate.ends, "what is over is not taken")
            require(entry.deadline > self.now, "what is late is not taken")
            require(segment.start == fate.next_row, "views are taken in order")
            fate.next_row = segment.stop
            self._turn(entry)
        taken = {segment.entry for segment in batch.segments}
        for entry in waiting:
            if entry.state is State.READY and entry not in taken and entry.untaken:
                require(entry.priority <= first.priority, "a higher priority is taken first")
                if entry.priority == first.priority:
                    self._fates[entry].passed += 1
                    require(self._fates[entry].passed <= self._fates[entry].ahead, "everybody has a turn")
        self._check_shares(batch, waiting)

    def _check_shares(self, batch: Batch, waiting: Sequence[Entry]) -> None:
        """Of those who could have had one place more."""
        shape, taken = batch.segments[0].entry.shape, {segment.entry for segment in batch.segments}
        for entry in waiting:
            if not entry.untaken or entry.cost > 1 or entry.shape != shape:
                continue
            if entry in taken:
                lower = any(segment.entry.priority < entry.priority for segment in batch.segments)
                require(not lower, "a lower priority has what is left over")
            elif entry.state in (State.WAITING, State.READY):
                for segment in batch.segments:
                    turn = max(self._queue.quantum, segment.entry.cost)
                    fair = segment.cost <= turn or segment.entry.priority > entry.priority
                    require(fair, "nobody has a second turn before the first of another")

    def _run(self, batch: Batch) -> Steps:
        worked = yield from self._try(batch.segments)
        if worked:
            return
        search, runs = searching(batch.segments), 0
        poisoned = sum(self._fates[segment.entry].poison for segment in batch.segments)
        try:
            part = next(search)
            while True:
                runs += 1
                part = search.send((yield from self._try(part)))
        except StopIteration as end:
            culprits: list[Segment] = end.value
        self.reruns += runs
        left = sum(segment.entry.given_up for segment in batch.segments)
        budget = max(poisoned, 1) * (ceil(log2(len(batch.segments))) + 1) + left
        require(runs <= budget, "culprits are found within the budget")
        for segment in culprits:
            innocent = not self._fates[segment.entry].poison
            require(not innocent or len(culprits) >= MAX_CULPRITS, "nobody fails for somebody else")
            self._end(segment.entry, "failed")

    def _try(self, segments: Sequence[Segment]) -> Generator[float, None, bool]:
        for segment in segments:
            if segment.entry.deadline <= self.now:
                self._end(segment.entry, "expired")
        live = Batch([segment for segment in segments if not segment.entry.gone])
        if not live.segments:
            return True
        for segment in live.segments:
            require(segment.entry.deadline > self.now, "what is late is not run")
            require(not self._fates[segment.entry].ends, "what is over is not run")
        seconds = 0.002 + 0.0005 * live.cost * self.random.uniform(0.5, 1.5)
        yield seconds
        if any(self._fates[segment.entry].poison for segment in live.segments):
            return False
        for segment in live.segments:
            self._fates[segment.entry].rows.update(range(segment.start, segment.stop))
        for entry in self._queue.done(live, seconds):
            self._over(entry, "done")
            entry.future.set_result(None)  # type: ignore[arg-type]
        return True

    def _end(self, entry: Entry, how: str) -> None:
        if self._queue.cancel(entry) is not None:
            self._over(entry, how)
            entry.future.cancel()
            self._wake()
