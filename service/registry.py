"""The models in memory: which versions serve, which were refused and why."""

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from bundle import store
from bundle.errors import BundleError
from service.errors import ModelNotFoundError, ModelNotReadyError, ProviderError
from service.metrics import Metrics
from service.model import ServedModel, load_model
from service.settings import Settings

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""For a batch, or the loading of a model, to come to its end."""

State = Literal["LOADING", "READY", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class Version:
    """One line of the index."""

    state: State
    model: ServedModel | None = None
    reason: str = ""


class ModelRegistry:
    """Loads every bundle of a repository in the background; one that fails says why and leaves the others alone."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="fill")
        self._versions: dict[str, dict[int, Version]] = {}
        self._closing = threading.Event()
        self._loaded = threading.Event()
        self._loader = threading.Thread(target=self._load_all, name="loader", daemon=True)

    @property
    def state(self) -> str:
        """loading, ready, or no model: nothing that could answer."""
        if not self._loaded.is_set():
            return "loading"
        return "ready" if any(self._newest(name) for name in self._versions) else "no model"

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
        for name in store.names(repository):
            try:
                self._versions[name] = dict.fromkeys(store.versions(repository, name), Version("LOADING"))
            except OSError as error:
                logger.error("%s cannot be read: %s", name, error)  # noqa: TRY400 the reason is enough
        self._loader.start()

    def close(self) -> None:
        """Ends the threads, or leaves them after `CLOSE_SECONDS`: nobody waits for an answer any more."""
        end = time.monotonic() + CLOSE_SECONDS
        self._closing.set()
        self._loader.join(CLOSE_SECONDS)
        batchers = [
            version.model.batcher
            for versions in self._versions.values()
            for version in versions.values()
            if version.model
        ]
        for batcher in batchers:
            batcher.stop()
        for batcher in batchers:
            batcher.close(max(0.0, end - time.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def index(self) -> dict[str, dict[int, Version]]:
        """Every version of every model, the oldest first."""
        return {name: dict(sorted(versions.items())) for name, versions in sorted(self._versions.items())}

    def get(self, name: str, version: int | None = None) -> ServedModel:
        """The version asked for, or the newest that serves.

        Raises:
            ModelNotFoundError: no such model, or no such version of it.
            ModelNotReadyError: it is loading, or was refused.
        """
        versions = self._versions.get(name)
        if not versions:
            known = ", ".join(self._versions) or "nothing yet"
            raise ModelNotFoundError(f"there is no model {name[:64]!r}; this server has {known}")
        if version is None:
            version = self._newest(name) or max(versions)
        if version not in versions:
            raise ModelNotFoundError(f"{name} has no version {version}; it has {', '.join(map(str, versions))}")
        found = versions[version]
        if found.model is None:
            doing = "is loading; try again soon" if found.state == "LOADING" else f"was refused: {found.reason}"
            raise ModelNotReadyError(f"version {version} of {name} {doing}")
        return found.model

    def _newest(self, name: str) -> int | None:
        return max((number for number, found in self._versions[name].items() if found.model), default=None)

    def _load_all(self) -> None:
        # The newest of every model first, so that each model answers soon.
        jobs = [
            (age, name, number)
            for name, versions in self._versions.items()
            for age, number in enumerate(sorted(versions, reverse=True))
        ]
        for _, name, number in sorted(jobs):
            if self._closing.is_set():
                return
            self._versions[name][number] = self._load(name, number)
            self._metrics.models.labels(name, number).set(self._versions[name][number].state == "READY")
        self._loaded.set()

    def _load(self, name: str, number: int) -> Version:
        settings = self._settings
        try:
            bundle = store.open_bundle(settings.repository, name, number)
            model = load_model(
                bundle, settings.provider, self._metrics, max_queue_size=settings.max_queue_size, pool=self._pool
            )
        except (BundleError, ProviderError) as error:
            logger.error("%s version %d is refused: %s", name, number, error)  # noqa: TRY400 the reason is enough
            return Version("UNAVAILABLE", reason=str(error))
        except Exception:  # a library's own words may hold addresses and paths: they stay in the log
            logger.exception("%s version %d cannot be loaded", name, number)
            return Version("UNAVAILABLE", reason="the graph cannot be loaded; see the server's log")
        return Version("READY", model)
