"""A version of a model in memory: its facts, and the engine that runs it."""

import logging
from concurrent.futures import Executor
from typing import Literal

import numpy as np

from bundle.manifest import Manifest
from bundle.store import Bundle
from bundle.views import PLANS, Size, ViewPlan
from service.engine.backend import Backend, open_backend
from service.engine.batcher import Batcher
from service.engine.queue import Shape
from service.errors import UnknownViewsError
from service.metrics import Metrics

logger = logging.getLogger(__name__)


class ServedModel:
    """What `registry.get` returns; immutable but for its queue."""

    def __init__(self, bundle: Bundle, backend: Backend, batcher: Batcher) -> None:
        self.name = bundle.name
        self.version = bundle.version
        self.digest = bundle.digest
        self.labels = bundle.labels
        self.manifest: Manifest = bundle.manifest
        self.backend = backend
        self.batcher = batcher

    @property
    def shape(self) -> Shape:
        """Height, width and channels of a view."""
        size = self.manifest.input
        return size.height, size.width, size.channels

    @property
    def plans(self) -> list[str]:
        """The view plans that it can answer."""
        return list(PLANS)

    def plan(self, name: str, image: Size) -> ViewPlan:
        """The views of an upright image of that size.

        Raises:
            UnknownViewsError: no such plan.
        """
        self.check_plan(name)
        return PLANS[name](image, self.manifest.input.size, self.manifest.input.resize)

    def check_plan(self, name: str) -> None:
        if name not in PLANS:
            raise UnknownViewsError(f"{self.name} has no view plan {name[:64]!r}; it has {', '.join(self.plans)}")


def load_model(
    bundle: Bundle, provider: Literal["auto", "cpu", "cuda"], metrics: Metrics, *, max_queue_size: int, pool: Executor
) -> ServedModel:
    """Opens the session, warms it, and checks the golden inputs before anything is served.

    Raises:
        BundleError: the golden answers are not met.
        ProviderError: the provider asked for does not work.
    """
    manifest = bundle.manifest
    shape = (manifest.input.height, manifest.input.width, manifest.input.channels)
    backend = open_backend(bundle.model, manifest.macs, provider, shape)
    error = max(_check_golden(backend, bundle, size) for size in {1, backend.max_batch_size})
    logger.info("%s version %d on %s, golden error %.2g", bundle.name, bundle.version, backend.provider, error)
    batcher = Batcher(backend, metrics.of(bundle.name), max_queue_size=max_queue_size, pool=pool)
    return ServedModel(bundle, backend, batcher)


def _check_golden(backend: Backend, bundle: Bundle, batch_size: int) -> float:
    """The error of the golden answers, asked in batches of that size, filled up with repetitions."""
    golden = bundle.golden
    count = len(golden.images)
    rows = np.resize(np.arange(count), max(count, batch_size))
    batches = [golden.images[rows[start : start + batch_size]] for start in range(0, count, batch_size)]
    answers = np.concatenate([backend.run(batch) for batch in batches])
    return golden.check(answers[:count], backend.provider)
