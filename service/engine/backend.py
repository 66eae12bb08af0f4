"""Devices that turn rows of pixels into rows of scores, and where they are.

CPU: batching gains nothing for convolutions, so a lane more than there are cores call one shared session with one
thread each (`cpu`). CUDA: batching is everything, so batches of a few fixed sizes run one after the other, all warmed
before use (`cuda`); several GPUs, or several sessions on one, are as many backends.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from service.engine.entry import Pixels, Scores, Shape

Provider = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Engine:
    """What the operator wishes of the engine of a version; to wish for another one takes new sessions."""

    max_queue_size: int
    """In views."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is every GPU that really works, else the CPU; one that is named never falls back."""
    devices: tuple[str, ...] = ()
    """("cpu",), or ("cuda:0", "cuda:1"); the provider decides when empty."""
    instances: int | None = None
    """On the CPU lanes, one more than cores when None; sessions on each GPU, one when None."""
    buckets: tuple[int, ...] | None = None
    """Batch sizes, ascending; on the CPU the largest is the most views in a batch. The backend's own when None."""

    gpu_memory_mib: int | None = None
    """Of each GPU, for each session; all that there is when None."""

    @property
    def falls_back(self) -> bool:
        return self.provider == "auto" and not self.devices


@dataclass(frozen=True)
class Place:
    """Where a backend runs."""

    provider: Provider
    number: int = 0
    """Of the GPU."""
    lanes: int = 1
    """On the CPU."""
    buckets: tuple[int, ...] | None = None
    memory_mib: int | None = None
    """Of the GPU, at most."""

    @property
    def device(self) -> str:
        return "cpu" if self.provider == "cpu" else f"cuda:{self.number}"


class Backend(Protocol):
    """What the batcher needs of a device."""

    provider: Provider
    lanes: int
    """Threads that may call `run` at once."""
    at_once: int
    """How many of these compute at once. The others prepare a batch meanwhile, and are given full ones alone."""
    max_batch_size: int
    """In views."""
    fills_ahead: bool
    """Whether entries are filled by a pool before they may be taken."""

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        """uint8 [n, height, width, channels] to logits float32 [n, classes]; n is at most `max_batch_size`.

        Args:
            images: rows.
            alone: nothing else waits or is worked on, so that all cores may work on this.
        """

    def warm(self, shape: Shape) -> None:
        """Runs whatever is slow the first time."""
