"""A version of a model in memory: its facts, and the engine that runs it."""

import asyncio
import copy
import logging
import weakref
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from bundle.gate import has_short_header
from bundle.manifest import Manifest
from bundle.preprocess import Opened
from bundle.store import Bundle
from bundle.views import Size
from service.answer import Answered, Views, details
from service.engine.backend import Backend, Engine, Place, Provider
from service.engine.batcher import Batcher
from service.engine.entry import Shape
from service.engine.limits import cores
from service.engine.places import find_places, open_backend
from service.errors import ProviderError
from service.look import look
from service.metrics import Metrics
from service.precision import fit
from service.statistics import CountedBackend, Duration, total
from service.wishes import Wishes
from service.work import Asked, Bounds, Work, check_work, gmacs_of, work_of

logger = logging.getLogger(__name__)

WORKS_KEPT = 64
"""Image sizes and options whose views are remembered: cameras and browsers send the same ones again and again."""


class Hold:
    """On a batcher: its lanes end when nobody holds it any more, neither the registry nor a request in flight."""

    def __init__(self, batcher: Batcher) -> None:
        weakref.finalize(self, batcher.stop).atexit = False


@dataclass(frozen=True)
class Running:
    """What runs the views of a version."""

    wanted: Engine
    devices: tuple[str, ...]
    """Of each backend."""
    backends: tuple[CountedBackend, ...]
    """One at least; alike but for their devices."""

    def __str__(self) -> str:
        return ", ".join(self.devices)

    @property
    def provider(self) -> Provider:
        return self.backends[0].provider

    @property
    def max_batch_size(self) -> int:
        """In views."""
        return self.backends[0].max_batch_size

    @property
    def batches(self) -> dict[int, Duration]:
        """Of all devices, as `CountedBackend.batches`."""
        return total([backend.batches for backend in self.backends])


class ServedModel:
    """A version that serves; immutable but for its queue.

    Whoever has looked one up may use it to the end: its engine stops when the last one has let go of it.
    """

    def __init__(self, bundle: Bundle, engine: Running, batcher: Batcher, wishes: Wishes) -> None:
        self.name = bundle.name
        self.version = bundle.version
        self.digest = bundle.digest
        self.labels = bundle.labels
        self.manifest: Manifest = bundle.manifest
        self.engine = engine
        self.batcher = batcher
        self._wish(wishes)
        self._hold = Hold(batcher)

    @property
    def usual_timeout(self) -> float | None:
        """Seconds, of requests that name none; None leaves it to the server."""
        milliseconds = self.wishes.serving.timeout_ms
        return None if milliseconds is None else milliseconds / 1000

    def wishing(self, wishes: Wishes) -> "ServedModel":
        """The same engine, of which something else is wished."""
        changed = copy.copy(self)
        changed._wish(wishes)  # noqa: SLF001 it is one of us
        return changed

    def _wish(self, wishes: Wishes) -> None:
        self.wishes = wishes
        # Of facts alone and not of self: a cycle would keep the engine until it is collected.
        self._works = lru_cache(WORKS_KEPT)(partial(_work_out, wishes, self.manifest))

    def check(self, asked: Asked) -> None:
        """Raises UnknownViewsError or InvalidParameterError when it cannot do what is asked, whatever the image."""
        self.wishes.choose(asked)

    def work(self, asked: Asked, image: Size) -> Work:
        """What it would do with an upright image of that size; raises as `check`."""
        return self._works(asked, image)

    async def answer(self, image: bytes, asked: Asked, bounds: Bounds, deadline: float) -> Answered:
        """What it says of one image, see `classify.Classifier`."""
        if has_short_header(image):  # a thread's turn takes as long
            opened, work = self._prepare(image, asked, bounds)
        else:
            opened, work = await asyncio.to_thread(self._prepare, image, asked, bounds)
        return await self.run(opened, work, deadline)

    async def run(self, image: Opened, work: Work, deadline: float) -> Answered:
        """`answer` for work that is known and allowed."""
        looked = await look(self.batcher, self.manifest, image, work, deadline)
        choice, used = work.choice, len(looked.logits)
        views = Views(
            plan=choice.plan.name,
            planned=len(choice.plan),
            computed=used,
            gmacs=gmacs_of(work.views[:used], self.manifest),
            average=choice.average,
            stop=choice.stop,
            stopped=used < len(work.views),
        )
        if choice.detail:
            views.details = await asyncio.to_thread(details, work.views[:used], looked.logits, self.labels)
        return Answered(looked.mean, looked.seconds, views)

    def _prepare(self, image: bytes, asked: Asked, bounds: Bounds) -> tuple[Opened, Work]:
        opened = Opened(image, bounds.image)
        work = self.work(asked, opened.size)
        check_work([work], bounds.max_gmacs)
        bounds.charge(work.charge)
        return opened, work


def _work_out(wishes: Wishes, manifest: Manifest, asked: Asked, image: Size) -> Work:
    return work_of(wishes.choose(asked), image, manifest)


def load_model(bundle: Bundle, wishes: Wishes, wanted: Engine, metrics: Metrics, pool: Executor) -> ServedModel:
    """Opens the sessions, warms them, and checks the golden inputs on each before anything is served.

    Raises:
        BundleError: the golden answers are not met.
        ProviderError: a device or provider that was asked for is not there, or does not work.
    """
    manifest = bundle.manifest
    shape = (manifest.input.height, manifest.input.width, manifest.input.channels)
    opened = _open(bundle, wanted, shape)
    ways = [(each, size, alone) for _, each in opened for size in {1, each.max_batch_size} for alone in (False, True)]
    error = max(_check_golden(each, bundle, size, alone=alone) for each, size, alone in ways)
    running = Running(
        wanted,
        tuple(place.device for place, _ in opened),
        tuple(CountedBackend(each) for _, each in opened),  # what ran so far was no request
    )
    logger.info("%s version %d on %s, golden error %.2g", bundle.name, bundle.version, running, error)
    first, *others = running.backends
    reports = metrics.of(bundle.name, bundle.version)
    batcher = Batcher(
        first,
        reports,
        others=others,
        max_queue_size=wanted.max_queue_size,
        native=shape,
        pool=pool,
        drawers=cores(),  # as many threads as the registry's pool has; other models' share them
    )
    return ServedModel(bundle, running, batcher, wishes)


def _open(bundle: Bundle, wanted: Engine, shape: Shape) -> list[tuple[Place, Backend]]:
    """A backend at each place. Where nobody named CUDA, those that work, or else the CPU."""
    macs, opened = bundle.manifest.macs, []
    open_at = partial(open_backend, half=True) if bundle.manifest.precision == "fp16" else open_backend
    for place in find_places(fit(wanted, bundle)):
        try:
            opened.append((place, open_at(bundle.model, macs, place, shape)))
        except ProviderError:
            logger.warning("%s cannot run %s", place.device, bundle.name, exc_info=True)
            if not wanted.falls_back:
                raise
    if opened:
        return opened
    (place,) = find_places(fit(replace(wanted, provider="cpu"), bundle))
    return [(place, open_at(bundle.model, macs, place, shape))]


def _check_golden(backend: Backend, bundle: Bundle, batch_size: int, *, alone: bool) -> float:
    """The error of the golden answers, asked in batches of that size, filled up with repetitions."""
    golden = bundle.golden
    count = len(golden.images)
    rows = np.resize(np.arange(count), max(count, batch_size))
    batches = [golden.images[rows[start : start + batch_size]] for start in range(0, count, batch_size)]
    answers = np.concatenate([backend.run(batch, alone=alone) for batch in batches])
    return golden.check(answers[:count], backend.provider)
