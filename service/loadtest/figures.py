"""What a run of samples says: counts, rates, percentiles. Pure functions of the samples."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from bundle.manifest import Facts
from service.loadtest.sample import OK, STAGES, Sample

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

CURVE = (0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 99, 99.5, 99.7, 99.8, 99.9, 99.95, 99.99)
"""Percentiles of the curve that is drawn."""


class Second(Facts):
    """Requests that were due within one second of the run."""

    start: float
    """Seconds from the beginning of what is measured."""
    answered: int
    failed: int
    """Refused, or without an answer."""
    p50_ms: float | None
    max_ms: float | None


class Figures(Facts):
    """Of one step: of the requests that were due in the measured time, whenever their answers came.

    Latencies are of answers with status 200, in milliseconds, from when the request was due.
    """

    rate: float | None = None
    """Requests per second that were offered; None in a closed loop."""
    concurrency: int | None = None
    """Clients of a closed loop; None in an open one."""
    seconds: float = Field(gt=0)
    """That were measured."""
    sent: int
    answered: int
    """With status 200."""
    in_time: int
    """Of these within the deadline; all without one."""
    refused: dict[str, int]
    """By status and code of the problem."""
    errors: dict[str, int]
    """Requests without any answer, by what happened."""
    throughput: float
    """Answers per second that came within the measured time."""
    goodput: float
    """Answers within their deadline per second."""
    mean_ms: float | None
    max_ms: float | None
    percentiles_ms: dict[str, float | None]
    """By percentile; None where the samples are too few to speak of it: one in a hundred needs a hundred."""
    server_ms: dict[str, float]
    """Mean time of an answer in each stage, as the server measured it."""
    late_p99_ms: float | None
    """By how much the generator itself was behind; None in a closed loop, which has no schedule."""
    cores: float
    """That the generator kept busy: near 1 it is its own limit."""
    curve: tuple[tuple[float, float], ...]
    """Percentile and latency, for the picture."""
    course: tuple[Second, ...]
    """The run second by second."""

    @property
    def load(self) -> float:
        return self.rate or self.concurrency or 0.0

    @property
    def on_time(self) -> float:
        """The part of the requests that was answered within the deadline."""
        return self.in_time / self.sent if self.sent else 0.0

    def percentile(self, which: float) -> float | None:
        return self.percentiles_ms[f"{which:g}"]


def summarize(
    samples: Sequence[Sample],
    start: float,
    stop: float,
    *,
    deadline_ms: float | None,
    cores: float,
    rate: float | None = None,
    concurrency: int | None = None,
) -> Figures:
    """The figures of what was due from `start` to `stop`, in seconds from the beginning of the run.

    What came before only warms up. Of the answers per second those count that arrived in that time, whenever they were
    due: of an overloaded server neither what was left to do at the start nor what is left in the end.
    """
    measured = [sample for sample in samples if start <= sample.due < stop]
    answered = [sample for sample in measured if sample.told.code == OK]
    latencies = 1000 * np.array([sample.took for sample in answered])
    in_time = len(answered) if deadline_ms is None else int((latencies <= deadline_ms).sum())
    arrived = [s for s in samples if s.told.code == OK and start <= s.due + s.took < stop]
    late = None if rate is None else [1000 * sample.late for sample in measured]
    told = [sample.told for sample in measured if sample.told.code != OK]
    return Figures(
        rate=rate,
        concurrency=concurrency,
        seconds=stop - start,
        sent=len(measured),
        answered=len(answered),
        in_time=in_time,
        refused=dict(Counter(f"{one.status} {one.code}" for one in told if one.status).most_common()),
        errors=dict(Counter(one.code for one in told if not one.status).most_common()),
        throughput=len(arrived) / (stop - start),
        goodput=in_time / (stop - start),
        mean_ms=float(latencies.mean()) if answered else None,
        max_ms=float(latencies.max()) if answered else None,
        percentiles_ms={f"{which:g}": percentile(latencies.tolist(), which) for which in PERCENTILES},
        server_ms=_stages(answered),
        late_p99_ms=float(np.percentile(late, 99)) if late else None,
        cores=cores,
        curve=tuple((which, found) for which in CURVE if (found := percentile(latencies.tolist(), which)) is not None),
        course=_course(measured, start, stop),
    )


def percentile(values: Sequence[float], which: float) -> float | None:
    """Between neighbours in proportion; None of fewer values than it takes to have one beyond it."""
    if len(values) * (100 - which) < 100 - 1e-9 or not values:
        return None
    return float(np.percentile(values, which))


def _stages(answered: Sequence[Sample]) -> dict[str, float]:
    timed = [sample.told.stages for sample in answered if len(sample.told.stages) == len(STAGES)]
    return dict(zip(STAGES, map(float, np.mean(timed, axis=0)), strict=True)) if timed else {}


def _course(measured: Sequence[Sample], start: float, stop: float) -> tuple[Second, ...]:
    seconds = []
    for begin in np.arange(start, stop, 1.0):
        here = [sample for sample in measured if begin <= sample.due < begin + 1]
        took = [1000 * sample.took for sample in here if sample.told.code == OK]
        seconds.append(
            Second(
                start=float(begin - start),
                answered=len(took),
                failed=len(here) - len(took),
                p50_ms=float(np.percentile(took, 50)) if took else None,
                max_ms=max(took, default=None),
            )
        )
    return tuple(seconds)
