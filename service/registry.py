"""The models of the server: looked up by requests, changed in the background by one thread of its own."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from service.engine.limits import cores
from service.ensemble import Ensemble
from service.errors import LoadInProgressError
from service.index import Change, Index, Line, State, Version
from service.loading import Loader
from service.metrics import Metrics
from service.model import ServedModel
from service.reload import Reloader
from service.repository import ModelRepository
from service.settings import Settings
from service.worker import Worker

__all__ = ["Change", "Line", "ModelRegistry", "State", "Version"]

CLOSE_SECONDS = 5.0
"""For a batch, or the loading of a model, to come to its end."""


class ModelRegistry:
    """Loads the repository in the background; a bundle that fails says why and leaves the others alone.

    Whoever has got a model may use it to the end, whatever is reloaded meanwhile.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="fill")
        self._index = Index()
        self._worker = Worker("loader")
        self._reloader = Reloader(
            self._index,
            ModelRepository(settings.repository),
            Loader(settings, metrics, self._pool),
            metrics,
            lambda: self._worker.closing,
        )
        self._first: Future[list[Change]] = Future()
        self._asked: set[str] = set()
        """Models that somebody waits for, of whom `load` was asked."""
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """loading, ready, or no model: nothing that could answer."""
        if not self._first.done():
            return "loading"
        return "ready" if self._index.holds(lambda _: True) else "no model"

    def start(self) -> None:
        """Begins loading.

        Raises:
            FileNotFoundError: there is no such repository.
        """
        repository = self._settings.repository
        if not repository.is_dir():
            raise FileNotFoundError(
                f"there is no repository {repository}; export a model there, or name another folder"
            )
        self._reloader.announce()
        # A child for every bundle would make a start slow, and a graph that ends this process now costs no request.
        self._first = self._worker.submit(lambda: self._reloader.run(smoke=False))
        self._worker.start()

    def close(self) -> None:
        """Ends the threads, or leaves them after `CLOSE_SECONDS`: nobody waits for an answer any more."""
        end = time.monotonic() + CLOSE_SECONDS
        self._worker.close(CLOSE_SECONDS)
        found = [version.model for line in self._index.sorted().values() for version in line.values()]
        batchers = [model.batcher for model in found if isinstance(model, ServedModel)]
        for batcher in batchers:
            batcher.stop()
        for batcher in batchers:
            batcher.close(max(0.0, end - time.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def index(self) -> dict[str, Line]:
        """Every version of every model, the oldest first, and every ensemble."""
        return self._index.sorted()

    def aliases(self, name: str) -> dict[str, int]:
        """Other names of versions of a model."""
        return self._index.aliases(name)

    def get(self, name: str, version: int | str | None = None) -> ServedModel | Ensemble:
        """The version asked for, or the newest that serves, or the ensemble of that name.

        Args:
            name: of a model or an ensemble.
            version: a number, its digits, or an alias.

        Raises:
            ModelNotFoundError: no such model, or no such version or alias of it.
            ModelNotReadyError: it is loading, or was refused.
            InvalidParameterError: neither a number nor an alias, or a version of an ensemble.
        """
        return self._index.get(name, version)

    def reload(self, *, again: bool = True) -> Future[list[Change]]:
        """Brings what serves up to date with the repository, in the background.

        Args:
            again: also try what was refused and has not changed. Without it copies under way are passed over.

        Returns:
            What has changed, or ShuttingDownError.
        """
        return self._worker.submit(lambda: self._reloader.run(again=again))

    def load(self, name: str) -> Future[None]:
        """Loads a model that was unloaded or refused, or brings it up to date, in the background.

        Returns:
            None once it serves, or ModelNotFoundError (the repository has none), ModelNotReadyError (it was refused),
            ShuttingDownError.

        Raises:
            LoadInProgressError: somebody has asked for that before, and it is not done yet.
        """
        with self._lock:
            if name in self._asked:
                raise LoadInProgressError(f"{name[:64]!a} is being loaded already; wait until that is done")
            self._asked.add(name)
        try:
            future = self._worker.submit(lambda: self._reloader.load(name))
        except BaseException:
            self._asked.discard(name)
            raise
        future.add_done_callback(lambda _: self._asked.discard(name))
        return future

    def unload(self, name: str) -> Future[None]:
        """Gives a model to no new request, and ends it once those in flight are answered.

        No reload brings it back, `load` does.

        Returns:
            None once that is so, or ModelNotFoundError, ShuttingDownError.
        """
        return self._worker.submit(lambda: self._reloader.unload(name))
