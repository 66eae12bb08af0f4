"""What is left of the answers when more is asked than can be done: an open loop on a fake device of 5 ms a batch.

    python tests/bench/overload.py [--loads 0.5 1 2 10] [--seconds 5] [--deadline 0.1] [--draw 0.01 [--lanes-draw]]

Requests of one view arrive at a fixed rate, whatever happened to those before, without HTTP. They are drawn as they
arrive, in no time; with --draw each takes that long, two at once: in a pool ahead of the device, as on a GPU, or by two
lanes before they run it, as on a CPU. Then drawing is what limits. The time of an answer counts from when its request
was due. Prints a table and writes JSON.
"""

import argparse
import functools
import json
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from fakes import FakeBackend
from service.engine.batcher import Batcher
from service.engine.entry import Entry, Pixels, Scores
from service.errors import DeadlineExceededError, QueueFullError
from service.metrics import Metrics

DEVICE_SECONDS = 0.005
MAX_BATCH_SIZE = 8
DRAWERS = 2
SHAPE = (1, 1, 3)


class Inline(Executor):
    """Draws in the thread that submits."""

    def submit(self, work: Any, /, *args: Any, **options: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(work(*args, **options))
        return future


@dataclass(frozen=True)
class Drawing:
    """How long an entry takes, and who does it."""

    seconds: float
    lanes: bool

    @property
    def capacity(self) -> float:
        """Views a second."""
        if self.lanes:  # a lane draws one entry a batch, so that the others have something to do
            return DRAWERS / (self.seconds + DEVICE_SECONDS)
        device = MAX_BATCH_SIZE / DEVICE_SECONDS
        return min(device, DRAWERS / self.seconds) if self.seconds else device

    def pool(self) -> Executor:
        return ThreadPoolExecutor(DRAWERS) if self.seconds else Inline()


class Watched(FakeBackend):
    """Counts the views whose deadline was over when their run began; each carries its number in its pixels."""

    def __init__(self, deadlines: list[float], drawing: Drawing) -> None:
        super().__init__(
            seconds=DEVICE_SECONDS,
            max_batch_size=MAX_BATCH_SIZE,
            lanes=DRAWERS if drawing.lanes else 1,
            fills_ahead=not drawing.lanes,
        )
        self._deadlines = deadlines
        self.late = 0

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        now = time.monotonic()
        numbers = images[:, 0, 0].astype(np.int64) @ [1, 256, 65536]
        self.late += sum(self._deadlines[number] < now for number in numbers)
        return super().run(images, alone=alone)


@dataclass
class Seen:
    answered: list[float] = field(default_factory=list)
    """Seconds from due to answered."""
    refused: list[float] = field(default_factory=list)
    """Seconds from asked to refused."""
    expired: int = 0
    lag: list[float] = field(default_factory=list)
    """Seconds by which this bench itself was behind."""


@dataclass(frozen=True)
class Result:
    load: float
    """Of the capacity."""
    offered: float
    """Requests a second that were sent."""
    goodput: float
    """Answers within their deadline a second."""
    accepted_p50_ms: float
    accepted_p99_ms: float
    expired: int
    """Accepted, and given up in the queue."""
    reject_p99_ms: float | None
    late_runs: int
    lag_p99_ms: float


def measure(load: float, duration: float, deadline: float, drawing: Drawing) -> Result:
    deadlines: list[float] = []
    backend, pool = Watched(deadlines, drawing), drawing.pool()
    batcher = Batcher(backend, Metrics().of("fake"), max_queue_size=4096, pool=pool, drawers=DRAWERS)
    seen = Seen()
    start = due = time.monotonic()
    while due < start + duration:
        if (now := time.monotonic()) < due:
            time.sleep(min(due - now, 0.001))
            continue
        seen.lag.append(now - due)
        deadlines.append(due + deadline)
        ask(batcher, len(deadlines) - 1, due, deadlines[-1], drawing.seconds, seen)
        due += 1 / (load * drawing.capacity)
    took = time.monotonic() - start
    batcher.close(5.0)
    pool.shutdown()
    return Result(
        load=load,
        offered=len(deadlines) / took,
        goodput=sum(seconds <= deadline for seconds in seen.answered) / took,
        accepted_p50_ms=percentile(seen.answered, 50) or 0.0,
        accepted_p99_ms=percentile(seen.answered, 99) or 0.0,
        expired=seen.expired,
        reject_p99_ms=percentile(seen.refused, 99),
        late_runs=backend.late,
        lag_p99_ms=percentile(seen.lag, 99) or 0.0,
    )


def ask(batcher: Batcher, number: int, due: float, deadline: float, draw_seconds: float, seen: Seen) -> None:
    def fill(pixels: Pixels) -> None:
        if draw_seconds:
            time.sleep(draw_seconds)
        pixels[:] = [number & 255, number >> 8 & 255, number >> 16]

    entry = Entry(1, SHAPE, fill, deadline)
    entry.future.add_done_callback(functools.partial(note, due, seen))
    asked = time.monotonic()
    try:
        batcher.submit(entry)
    except (QueueFullError, DeadlineExceededError):
        seen.refused.append(time.monotonic() - asked)


def note(due: float, seen: Seen, future: "Future[Scores]") -> None:
    if future.exception() is None:
        seen.answered.append(time.monotonic() - due)
    else:
        seen.expired += 1


def percentile(seconds: list[float], which: float) -> float | None:
    """In milliseconds."""
    return 1000 * float(np.percentile(seconds, which)) if seconds else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 1.0, 2.0, 10.0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--deadline", type=float, default=0.1)
    parser.add_argument("--draw", type=float, default=0.0, help="seconds of an entry")
    parser.add_argument("--lanes-draw", action="store_true", help="no pool does it ahead")
    parser.add_argument("--json", type=Path, default=Path("build/overload.json"))
    options = parser.parse_args()
    sys.setswitchinterval(0.0005)  # who asks is a thread of this process; it must not keep the lane from waking up
    drawing = Drawing(options.draw, options.lanes_draw)
    results = [asdict(measure(load, options.seconds, options.deadline, drawing)) for load in options.loads]
    peak = max(row["goodput"] for row in results)
    rows = [{**row, "of_peak": row["goodput"] / peak} for row in results]
    print(f"capacity {drawing.capacity:.0f} views a second")
    print("  ".join(f"{name:>{len(name)}}" for name in rows[0]))
    for row in rows:
        print(
            "  ".join(f"{'-' if value is None else format(value, '.4g'):>{len(name)}}" for name, value in row.items())
        )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
