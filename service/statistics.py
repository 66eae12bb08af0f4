"""What the statistics extension of the Open Inference Protocol tells, by the name that clients asked and its version.

Requests are counted by name; batches are the device's, whoever's views were in them.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from service.engine.backend import Backend, Provider
from service.engine.entry import Pixels, Scores, Shape


@dataclass(frozen=True)
class Duration:
    """How often, and how long together."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: "Duration") -> "Duration":
        return Duration(self.count + other.count, self.ns + other.ns)

    def plus(self, seconds: float) -> "Duration":
        return Duration(self.count + 1, self.ns + max(round(seconds * 1e9), 0))


@dataclass(frozen=True)
class Tally:
    """Of one name and version; the stages are counted for the requests that succeeded."""

    last_inference: int = 0
    """Milliseconds since 1970."""
    inference_count: int = 0
    """Images."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(frozen=True)
class Stages:
    """Seconds of one request that succeeded."""

    queue: float
    compute_input: float
    """Taking the body apart, decoding and drawing."""
    compute_infer: float
    compute_output: float
    """Averaging, and putting the body together."""


class Statistics:
    """One for an application; it is written from the event loop alone.

    Args:
        wall: seconds since 1970.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._tallies: dict[tuple[str, int], Tally] = {}

    def succeeded(self, name: str, version: int, images: int, seconds: float, stages: Stages) -> None:
        """Call it with names that are served: each one is kept for good."""
        old = self.of(name, version)
        self._tallies[name, version] = replace(
            old,
            last_inference=int(self._wall() * 1000),
            inference_count=old.inference_count + images,
            success=old.success.plus(seconds),
            queue=old.queue.plus(stages.queue),
            compute_input=old.compute_input.plus(stages.compute_input),
            compute_infer=old.compute_infer.plus(stages.compute_infer),
            compute_output=old.compute_output.plus(stages.compute_output),
        )

    def failed(self, name: str, version: int, seconds: float) -> None:
        old = self.of(name, version)
        self._tallies[name, version] = replace(old, fail=old.fail.plus(seconds))

    def of(self, name: str, version: int) -> Tally:
        return self._tallies.get((name, version), Tally())

    def names(self) -> list[tuple[str, int]]:
        """Everything that was asked so far."""
        return sorted(self._tallies)


class CountedBackend:
    """A backend that counts its batches, and how long they took, by their size; any number of lanes may call it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._batches: dict[int, Duration] = {}
        self.provider: Provider = backend.provider
        self.lanes = backend.lanes
        self.at_once = backend.at_once
        self.max_batch_size = backend.max_batch_size
        self.fills_ahead = backend.fills_ahead

    @property
    def batches(self) -> dict[int, Duration]:
        """By the number of views, the smallest first; those that failed are not counted."""
        with self._lock:
            return dict(sorted(self._batches.items()))

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        """See `Backend.run`."""
        started = time.monotonic()
        scores = self._backend.run(images, alone=alone)
        seconds = time.monotonic() - started
        with self._lock:
            self._batches[len(images)] = self._batches.get(len(images), Duration()).plus(seconds)
        return scores

    def warm(self, shape: Shape) -> None:
        self._backend.warm(shape)


def total(parts: Iterable[dict[int, Duration]]) -> dict[int, Duration]:
    """What several backends have counted, the smallest batches first."""
    found: dict[int, Duration] = {}
    for part in parts:
        for size, duration in part.items():
            found[size] = found.get(size, Duration()) + duration
    return dict(sorted(found.items()))
