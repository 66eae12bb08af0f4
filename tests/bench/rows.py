"""The lines of the tables of `serve.py`: a server at one load, over all rounds."""

import statistics
from dataclasses import dataclass, field

from bench.inprocess import Speed
from bench.load import Load, percentile

REFUSALS = (408, 429, 503, 504)
"""Statuses that say that there is too much to do."""


@dataclass
class Closed:
    """A server at one concurrency, over all rounds."""

    server: str
    concurrency: int
    per_second: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    """Of the limit of the same round."""
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    cpu_ms: list[float] = field(default_factory=list)
    """CPU time of the server for each request."""
    client_ms: list[float] = field(default_factory=list)
    """CPU time of the clients for each request."""

    def add(self, load: Load, limit: float, cpu_seconds: float) -> None:
        rate = len(load.good) / load.seconds
        self.per_second.append(rate)
        self.share.append(rate / limit)
        self.latencies += [1e3 * (answer.ended - answer.due) for answer in load.good]
        self.errors += len(load.answers) - len(load.good)
        self.cpu_ms.append(1e3 * cpu_seconds / load.sent)
        self.client_ms.append(1e3 * load.client_seconds / load.sent)

    def limit(self, speed: Speed) -> None:
        """Notes the limit itself."""
        self.per_second.append(speed.images_per_second)
        self.share.append(1.0)
        self.cpu_ms.append(speed.cpu_ms)

    def row(self) -> str:
        rate = (
            f"| {self.server} | {statistics.median(self.per_second):.1f} | {100 * statistics.median(self.share):.1f} %"
        )
        cpu = f"{statistics.median(self.cpu_ms):.1f} |"
        if not self.latencies:  # the limit itself
            return f"{rate} | | | | {cpu}"
        p50, p99 = percentile(self.latencies, 50), percentile(self.latencies, 99)
        return f"{rate} | {p50:.1f} | {p99:.1f} | {self.errors} | {cpu}"


@dataclass
class Open:
    """A server at one load, over all rounds."""

    server: str
    load: float
    """Of the capacity."""
    offered: list[float] = field(default_factory=list)
    """Requests a second."""
    goodput: list[float] = field(default_factory=list)
    """Answers within the deadline a second."""
    latencies: list[float] = field(default_factory=list)
    """Of the answers, late ones too."""
    late: int = 0
    refused: int = 0
    errors: int = 0
    lag_ms: list[float] = field(default_factory=list)
    """The 99th percentile by which the clients were behind."""

    def add(self, load: Load, deadline: float) -> None:
        self.offered.append(load.sent / load.seconds)
        self.goodput.append(load.within(deadline) / load.seconds)
        self.latencies += [1e3 * (answer.ended - answer.due) for answer in load.good]
        self.late += len(load.good) - load.within(deadline)
        refused = sum(answer.status in REFUSALS for answer in load.answers)
        self.refused += refused
        self.errors += len(load.answers) - len(load.good) - refused
        self.lag_ms.append(load.lag_ms(99))

    def row(self) -> str:
        return (
            f"| {self.server} | {statistics.median(self.offered):.1f} | {statistics.median(self.goodput):.1f} "
            f"| {percentile(self.latencies, 50):.0f} | {percentile(self.latencies, 99):.0f} | {self.late} "
            f"| {self.refused} | {self.errors} |"
        )
