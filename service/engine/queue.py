"""Which views run next: a pure, synchronous state machine.

Time is passed in and nothing waits here, so that it can be simulated. One caller at a time (`Batcher` holds the lock).

An entry is views of one image and one shape. It is offered, its rows are filled with pixels, its views are taken in
batches, possibly by several lanes at once, and it is done when its last view is scored. Who fills one of an image's
entries fills them all, since the others would only wait until the image is decoded:

    offer -> waiting --take--> filling --filled--> ready --take--> ... -> done
    offer(filling=True) -> filling                    (somebody else fills it; no lane takes it before `filled`)
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from math import inf

from service.engine.entry import Batch, Entry, Segment, State
from service.engine.times import RunTimes
from service.errors import DeadlineExceededError, QueueFullError

DRAWINGS = 16
"""The predicted wait looks back at so many drawings; the longest of them is left out: one odd image is no trend."""

SPARE = 0.15
"""The part of a request's patience that is left to spare, or two turns where that is less: a queue that is filled up to
the deadline would answer half of its views after it, and batches are not always full (see docs/benchmarks.md)."""


class BatchQueue:
    """Priority, then round robin over entries with a quantum, first in, first out within an entry.

    All sizes are in views of native size, of which a larger view is several (`Entry.cost`).

    Args:
        max_batch_size: most in a batch; a view that is larger than that runs by itself.
        max_queue_size: most that wait; a request larger than that is accepted when nothing waits.
        lanes: how many callers take at once; only the predicted wait depends on it.
        drawers: how many entries somebody else fills at once; the same.
        quantum: what an entry gives to a batch before the others have their turn; when None an eighth of a batch, and
            at least 4 where a batch holds them (measured in docs/adr/0002-quantum.md).
    """

    def __init__(
        self, *, max_batch_size: int, max_queue_size: int, lanes: int = 1, drawers: int = 1, quantum: int | None = None
    ) -> None:
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.waiting = 0
        """What is offered and not taken."""
        self._lanes = lanes
        self._drawers = drawers
        self.quantum = quantum or max(max_batch_size // 8, min(max_batch_size, 4))
        self._times = RunTimes(max_batch_size)
        self._undrawn = 0
        """Entries that a taker has to fill."""
        self._ahead = 0
        """Entries that somebody else still has to fill, or fills."""
        self._drawings: deque[float] = deque(maxlen=DRAWINGS)
        self._drawing = 0.0
        """Seconds per entry, however many views it has: decoding a large photograph takes longer than what follows."""
        self._rings: dict[int, OrderedDict[Entry, None]] = {}
        self._earliest = inf

    def offer(self, entries: Sequence[Entry], now: float, *, filling: bool = False, admitted: bool = False) -> None:
        """Admits the entries of one request, all or none.

        Args:
            entries: not offered before.
            now: the clock of `Entry.deadline`, in seconds.
            filling: somebody fills them already and will call `filled`.
            admitted: they continue a request that was let in before; only its deadline can refuse them.

        Raises:
            DeadlineExceededError: the deadline is past.
            QueueFullError: they do not fit, or are predicted to miss their deadline; never when nothing waits.
        """
        deadline = min(entry.deadline for entry in entries)
        if deadline <= now:
            raise DeadlineExceededError(
                "the deadline was past when the views were offered; allow the request more time"
            )
        if not admitted:
            self._require_room(sum(entry.charge for entry in entries), deadline - now)
        for entry in entries:
            entry.offered_at = now
            entry.state = State.FILLING if filling else State.WAITING
            entry.beside = () if filling else tuple(other for other in entries if other is not entry)
            self.waiting += entry.charge
            entry.ahead = filling
            self._ahead += filling
            self._undrawn += not filling
            self._rings.setdefault(entry.priority, OrderedDict())[entry] = None
        self._earliest = min(self._earliest, deadline)

    def filled(self, entry: Entry) -> None:
        """Its pixels are there."""
        if entry.state is State.FILLING:
            self._is_drawn(entry)
            entry.state = State.READY

    def drew(self, seconds: float) -> None:
        """Notes how long an entry took to fill."""
        self._drawings.append(seconds)
        usual = len(self._drawings) - 1
        self._drawing = (sum(self._drawings) - max(self._drawings)) / usual if usual else 0.0

    def take(self, least: int = 1) -> Batch | None:
        """The next batch, or None when nothing can be taken, or less than `least`. Call `expire` first."""
        rows = self._share(self.max_batch_size)
        if sum(entry.cost * count for entry, count in rows.items()) < least:
            return None
        waiting = [entry for entry in rows if entry.state is State.WAITING]
        to_fill = [entry for first in waiting for entry in (first, *first.beside) if not entry.gone]
        self._undrawn -= len(to_fill)
        for entry in to_fill:
            entry.state, entry.beside = State.FILLING, ()
        segments = [Segment(entry, entry.taken, entry.taken + count) for entry, count in rows.items()]
        for segment in segments:
            self._advance(segment)
        return Batch(segments, to_fill)

    def expire(self, now: float) -> list[Entry]:
        """Removes and returns the entries that have untaken views and a deadline that is past."""
        if now < self._earliest:
            return []
        waiting = [entry for ring in self._rings.values() for entry in ring]
        expired = [entry for entry in waiting if entry.deadline <= now]
        for entry in expired:
            self.cancel(entry)
        self._earliest = min((entry.deadline for entry in waiting if entry.deadline > now), default=inf)
        return expired

    def cancel(self, entry: Entry) -> int | None:
        """Removes an entry; the number of its views that will now not be run, None if it was gone already.

        Views that are running finish, and nobody looks at them.
        """
        if entry.gone:
            return None
        self._undrawn -= entry.state is State.WAITING
        self._is_drawn(entry)
        entry.state, entry.beside = State.GONE, ()
        dropped = entry.untaken
        if dropped:
            del self._rings[entry.priority][entry]
            self.waiting -= entry.charge
            entry.taken = entry.rows
        return dropped

    def done(self, batch: Batch, seconds: float) -> list[Entry]:
        """Notes that a batch has run for `seconds` on the device; returns the entries that are complete now."""
        self._times.learn(batch.cost, seconds)
        complete = []
        for segment in batch.segments:
            entry = segment.entry
            entry.scored += segment.rows
            entry.run_seconds += seconds
            if entry.scored == entry.rows and not entry.gone:
                entry.state = State.GONE
                complete.append(entry)
        return complete

    def predicted_wait(self) -> float:
        """Seconds until a view offered now would be taken, from what batches and drawings took; 0 before any.

        The device runs what was drawn ahead while the next are drawn: the slower of the two is waited for.
        """
        lanes = (self._times.of(self.waiting) + self._undrawn * self._drawing) / self._lanes
        return max(lanes, self._ahead * self._drawing / self._drawers)

    def predicted_answer(self) -> float:
        """Seconds until a view offered now would be answered: what is under way ends, it waits, it is served."""
        return self.predicted_wait() + 2 * self._seconds_alone() if self.waiting else 0.0

    def next_deadline(self) -> float:
        """No entry that waits has an earlier one."""
        return self._earliest

    def _seconds_alone(self) -> float:
        """Seconds of a usual entry that nobody is in the way of."""
        return self._drawing + self._times.usual

    def _is_drawn(self, entry: Entry) -> None:
        """Or need not be any more."""
        self._ahead -= entry.ahead
        entry.ahead = False

    def _require_room(self, charge: int, patience: float) -> None:
        if not self.waiting:
            return
        full = self.waiting + charge > self.max_queue_size
        late = self.predicted_answer() + min(2 * self._seconds_alone(), SPARE * patience) > patience
        if not (full or late):
            return
        wait = self.predicted_wait()
        if full:
            raise QueueFullError(f"{self.waiting} views wait, at most {self.max_queue_size} may; try again later", wait)
        raise QueueFullError(f"the wait would be {wait:.1f} s, too long for the request's deadline", wait)

    def _share(self, room: int) -> dict[Entry, int]:
        """Deals a batch out: the highest priority first, a quantum to each entry in turn, round after round.

        Where somebody is left out there is one round: what is in the batch would take their places again and again.
        """
        shares: dict[Entry, int] = {}
        for priority in sorted(self._rings, reverse=True):
            entries, everybody = self._in_order(priority, shares)
            hungry, room = self._deal(entries, room, shares)
            while hungry and everybody:
                hungry, room = self._deal(hungry, room, shares)
            if not everybody:
                break
        return shares

    def _in_order(self, priority: int, shares: dict[Entry, int]) -> tuple[list[Entry], bool]:
        """What may join a batch, the next one first, and whether that is everybody of its shape who could.

        It ends before the second entry of a batch that its taker would have to fill: while a lane draws one image after
        the other, the other lanes would stand idle.
        """
        found: list[Entry] = []
        shape = next(iter(shares)).shape if shares else None
        drawing = any(entry.state is State.WAITING for entry in shares)
        for entry in self._rings[priority]:
            if entry.state is State.FILLING or entry.shape != (shape or entry.shape):
                continue
            if (entry.state is State.WAITING and drawing) or len(found) == self.max_batch_size:
                return found, False
            shape, drawing = entry.shape, drawing or entry.state is State.WAITING
            found.append(entry)
        return found, True

    def _deal(self, entries: list[Entry], room: int, shares: dict[Entry, int]) -> tuple[list[Entry], int]:
        """A turn to each; who could do with another one, and the room that is left."""
        hungry = []
        for entry in entries:
            fits = room // entry.cost or int(not shares)  # the first view of a batch is taken whatever it costs
            turn = max(self.quantum // entry.cost, 1)
            share = min(entry.untaken - shares.get(entry, 0), turn, fits)
            if not share:
                continue
            shares[entry] = shares.get(entry, 0) + share
            room -= share * entry.cost
            if room <= 0:
                return [], 0
            if shares[entry] < entry.untaken:
                hungry.append(entry)
        return hungry, room

    def _advance(self, segment: Segment) -> None:
        """Moves an entry behind the others after its turn; one without untaken views leaves the ring."""
        entry = segment.entry
        ring = self._rings[entry.priority]
        entry.taken += segment.rows
        self.waiting -= segment.cost
        if entry.untaken:
            ring.move_to_end(entry)
        else:
            del ring[entry]
