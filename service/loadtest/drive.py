"""One step: a load on a server for a while, and the figures of it. Ctrl-C ends it early, with what there is."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from service.loadtest.arrivals import Arrivals, times
from service.loadtest.figures import Figures, summarize
from service.loadtest.generator import MOST_CONNECTIONS, Ask, closed_loop, open_loop
from service.loadtest.sample import Sample, Told, read
from service.loadtest.wire import NoAnswerError, Wire, raise_file_limit

SEED = 0
"""Of the order of the images and of the arrivals: two runs send the same."""
TICK = 0.5
"""Seconds between looks at a run."""

Watch = Callable[[Sequence[Sample], float], None]
"""Is shown the samples so far and the seconds since the start, every `TICK`."""


@dataclass(frozen=True)
class Target:
    """What is sent, and where to."""

    url: httpx.URL
    requests: Sequence[bytes]
    """Whole ones, as they go over the connection."""
    deadline_ms: float | None = None
    """That answers are judged by."""


@dataclass(frozen=True)
class Load:
    """How it is sent."""

    warmup: float
    """Seconds before anything counts."""
    duration: float
    """Seconds that count."""
    rate: float | None = None
    """Requests per second: an open loop."""
    concurrency: int = 1
    """Clients: a closed loop, where there is no rate."""
    arrivals: Arrivals = "poisson"

    @property
    def seconds(self) -> float:
        return self.warmup + self.duration


def drive(target: Target, load: Load, watch: Watch) -> tuple[Figures | None, bool]:
    """The figures, None where nothing was measured yet, and whether Ctrl-C ended it."""
    samples: list[Sample] = []
    started, busy = time.monotonic(), time.process_time()
    with _undisturbed():
        try:
            asyncio.run(_run(target, load, samples, watch))
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
    took = time.monotonic() - started
    cores = (time.process_time() - busy) / took
    stop = min(load.seconds, took) if interrupted else load.seconds
    if stop <= load.warmup:
        return None, interrupted
    open_ = load.rate is not None
    figures = summarize(
        samples,
        load.warmup,
        stop,
        deadline_ms=target.deadline_ms,
        cores=cores,
        rate=load.rate,
        concurrency=None if open_ else load.concurrency,
    )
    return figures, interrupted


async def _run(target: Target, load: Load, samples: list[Sample], watch: Watch) -> None:
    rng = np.random.default_rng(SEED)
    wire = Wire(target.url)
    ask = _asking(wire, target.requests, rng)
    watching = asyncio.create_task(_watch(samples, watch))
    try:
        if load.rate is None:
            raise_file_limit(load.concurrency)
            await closed_loop(ask, load.concurrency, load.seconds, samples)
        else:
            due = times(load.arrivals, load.rate, load.seconds, rng)
            await open_loop(ask, due.tolist(), samples, raise_file_limit(MOST_CONNECTIONS))
    finally:
        watching.cancel()
        wire.close()


def _asking(wire: Wire, requests: Sequence[bytes], rng: np.random.Generator) -> Ask:
    """Sends the images in a random order, each as often as the others."""
    order: list[int] = []

    async def ask(number: int) -> Told:
        while number >= len(order):
            order.extend(rng.permutation(len(requests)).tolist())
        try:
            return read(await wire.ask(requests[order[number]]))
        except NoAnswerError as error:
            return Told(str(error))

    return ask


async def _watch(samples: Sequence[Sample], watch: Watch) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    while True:
        await asyncio.sleep(TICK)
        gc.collect(1)  # the few that are young
        gc.freeze()
        watch(samples, loop.time() - start)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The collector would walk all samples again and again while requests are due: they are put out of its way."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
