"""What waits and runs: the views of one image that have one shape, and the batches that they are taken in."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from math import inf

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]
Shape = tuple[int, int, int]


class State(Enum):
    WAITING = "waiting"
    FILLING = "filling"
    READY = "ready"
    GONE = "gone"


def spent(_: Pixels) -> None:
    """Takes the place of an entry's `fill` once it was called: an upload of megabytes hangs on that."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Entry:
    """Views of one image that have one shape."""

    rows: int
    """Number of views."""
    shape: Shape
    """Height, width and channels of a view; only entries of one shape share a batch."""
    fill: Callable[[Pixels], None]
    """Writes the views' pixels into uint8 [rows, height, width, channels]; raises when the image is bad."""
    deadline: float = inf
    """Seconds on the caller's clock after which no view of it is run."""
    priority: int = 0
    """Higher is taken first."""
    cost: int = 1
    """What a view costs, in views of the network's native size; whatever is bounded or shared out is counted so."""
    future: Future[Scores] = field(default_factory=Future)
    """float32 [rows, classes]"""

    state: State = State.WAITING
    beside: tuple["Entry", ...] = ()
    """The others of its request, which whoever fills this one fills too; nothing once it is taken or gone."""
    ahead: bool = False
    """Somebody who is no taker fills it, and has not yet."""
    taken: int = 0
    """Views handed out so far, in order."""
    scored: int = 0
    pixels: Pixels | None = None
    scores: Scores | None = None

    offered_at: float = 0.0
    fill_seconds: float = 0.0
    run_seconds: float = 0.0
    """Of the batches that it took part in; of batches that ran side by side, both."""
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0

    @property
    def untaken(self) -> int:
        return self.rows - self.taken

    @property
    def charge(self) -> int:
        """What its untaken views cost."""
        return self.untaken * self.cost

    @property
    def gone(self) -> bool:
        """Complete, failed, expired or cancelled."""
        return self.state is State.GONE

    @property
    def given_up(self) -> bool:
        """Gone without being complete."""
        return self.gone and self.scored < self.rows


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of an entry's views in a batch: rows start to stop of the entry."""

    entry: Entry
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def cost(self) -> int:
        return self.rows * self.entry.cost


@dataclass(frozen=True, slots=True)
class Batch:
    segments: list[Segment]
    to_fill: Sequence[Entry] = ()
    """What the taker has to fill before it runs the batch: an entry, if there is one, and those beside it."""

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @property
    def cost(self) -> int:
        """In views of native size."""
        return sum(segment.cost for segment in self.segments)
