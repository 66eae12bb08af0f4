"""From the disk into memory: a version, or why it is refused. A server that answers tries graphs in a child first."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from bundle import store
from bundle.errors import BundleError
from bundle.serving import SERVING, Serving
from service.engine.backend import Engine
from service.engine.cpu import batch_size
from service.engine.places import find_places
from service.errors import NotEnoughMemoryError, ProviderError
from service.index import Version
from service.memory import needed_memory, require_memory
from service.metrics import Metrics
from service.model import ServedModel, load_model
from service.names import require_own_name
from service.precision import fit
from service.settings import Settings
from service.wishes import Known, Wishes

logger = logging.getLogger(__name__)

SMOKE = (sys.executable, "-m", "service.smoke")
SMOKE_SECONDS = 120.0
"""For the child to open a graph and to run it once."""


class Loader:
    """Reads, checks and warms.

    Args:
        settings: of the server.
        metrics: that the engines write.
        pool: draws pixels ahead where batching pays.
    """

    def __init__(self, settings: Settings, metrics: Metrics, pool: Executor) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pool = pool

    def load(self, name: str, number: int, serving: Serving, *, smoke: bool) -> Version:
        """Opens a version; raises BundleError, ProviderError, NotEnoughMemoryError, or whatever a library does.

        Args:
            name: of the model.
            number: of the version.
            serving: what the operator wishes of it.
            smoke: try the graph in a child first: one that ends its process must not end this one.
        """
        settings = self._settings
        require_own_name(settings.repository, name)
        require_memory(_size(settings.repository / name / str(number) / store.MODEL))  # it is about to be read
        bundle = store.open_bundle(settings.repository, name, number)
        wishes = self._wishes(serving, bundle, number)
        engine = self._engine(serving)
        _require_room(bundle, engine)
        if smoke:
            _try_in_a_child(bundle)
        model = load_model(bundle, wishes, engine, self._metrics, self._pool)
        return Version("READY", model, "; ".join(wishes.remarks))

    def runs(self, model: ServedModel, digest: str, serving: Serving) -> bool:
        """Whether it is that bundle, with the sessions and the queue that are wished."""
        return model.digest == digest and model.engine.wanted == self._engine(serving)

    def _engine(self, serving: Serving) -> Engine:
        return Engine(
            serving.max_queue_size or self._settings.max_queue_size,
            self._settings.provider,
            () if serving.devices == "auto" else serving.devices,
            serving.instances,
            serving.buckets,
            serving.gpu_memory_mib,
        )

    def wish(self, model: ServedModel, serving: Serving) -> Version:
        """The same engine with what lies beside it now; raises BundleError."""
        wishes = self._wishes(serving, model, model.version)
        return Version("READY", model.wishing(wishes), "; ".join(wishes.remarks))

    def _wishes(self, serving: Serving, known: Known, number: int) -> Wishes:
        most = 1000 * self._settings.timeout
        if serving.timeout_ms is not None and serving.timeout_ms > most:
            raise BundleError(f"{SERVING}: timeout_ms = {serving.timeout_ms} is more than the server's own, {most:g}")
        wishes = Wishes(self._settings.repository / known.name, serving, known)
        for remark in wishes.remarks:
            logger.warning("%s version %d: %s", known.name, number, remark)
        return wishes


def attempt(what: str, load: Callable[[], Version]) -> Version:
    """What `load` gives, or a line that says why it gives nothing."""
    try:
        return load()
    except (BundleError, ProviderError, NotEnoughMemoryError) as error:
        logger.error("%s is refused: %s", what, error)  # noqa: TRY400 the reason is enough
        return Version("UNAVAILABLE", reason=str(error), refused=True)
    except Exception:  # a library's own words may hold addresses and paths: they stay in the log
        logger.exception("%s cannot be loaded", what)
        reason = "the graph cannot be loaded; see the server's log"
        return Version("UNAVAILABLE", reason=reason, refused=True)


def _require_room(bundle: store.Bundle, engine: Engine) -> None:
    """Raises NotEnoughMemoryError, ProviderError."""
    manifest = bundle.manifest
    places = find_places(fit(engine, bundle))
    at_once = [
        place.lanes * (place.buckets[-1] if place.buckets else batch_size(manifest.macs))
        for place in places
        if place.provider == "cpu"
    ]
    require_memory(needed_memory(len(bundle.model), manifest.input, sum(at_once)))


def _size(path: Path) -> int:
    """Bytes; 0 of a file that whoever reads it will refuse."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _try_in_a_child(bundle: store.Bundle) -> None:
    """Raises BundleError where the graph ends the process that opens it, or does not come to an end.

    A graph that is merely refused is refused here too, with its reason.
    """
    wanted = bundle.manifest.input
    command = [*SMOKE, *map(str, (wanted.height, wanted.width, wanted.channels))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        child = subprocess.run(  # noqa: S603 the command is ours
            command, input=bundle.model, env=environment, capture_output=True, timeout=SMOKE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"model.onnx was not opened within {SMOKE_SECONDS:g} s by a process of its own; export the bundle again"
        ) from error
    if child.returncode < 0:
        raise BundleError(
            f"model.onnx ends the process that opens it (signal {-child.returncode}); export the bundle again"
        )
