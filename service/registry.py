"""The models in memory: which versions and ensembles serve, which were refused and why."""

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from bundle import store
from bundle.errors import BundleError
from bundle.serving import ENSEMBLE, SERVING, Member, Serving, read_ensemble, read_serving
from service.ensemble import Ensemble, load_ensemble
from service.errors import InvalidParameterError, ModelNotFoundError, ModelNotReadyError, ProviderError
from service.metrics import Metrics
from service.model import ServedModel, load_model
from service.settings import Settings
from service.wishes import Wishes

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""For a batch, or the loading of a model, to come to its end."""

State = Literal["LOADING", "READY", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class Version:
    """One line of the index."""

    state: State
    model: ServedModel | Ensemble | None = None
    reason: str = ""
    """Why it does not serve; of one that serves, what of its plans or calibrations is left out."""


Line = dict[int | None, Version]
"""The versions of a model by their numbers; an ensemble has one line, without a number."""


class ModelRegistry:
    """Loads the repository in the background; a bundle that fails says why and leaves the others alone."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="fill")
        self._models: dict[str, Line] = {}
        self._servings: dict[str, Serving] = {}
        self._closing = threading.Event()
        self._loaded = threading.Event()
        self._loader = threading.Thread(target=self._load_all, name="loader", daemon=True)

    @property
    def state(self) -> str:
        """loading, ready, or no model: nothing that could answer."""
        if not self._loaded.is_set():
            return "loading"
        return "ready" if any(self._served(name) for name in self._models) else "no model"

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
                self._models[name] = self._look_up(name)
            except OSError as error:
                logger.error("%s cannot be read: %s", name, error)  # noqa: TRY400 the reason is enough
        self._loader.start()

    def close(self) -> None:
        """Ends the threads, or leaves them after `CLOSE_SECONDS`: nobody waits for an answer any more."""
        end = time.monotonic() + CLOSE_SECONDS
        self._closing.set()
        self._loader.join(CLOSE_SECONDS)
        found = [version.model for versions in self._models.values() for version in versions.values()]
        batchers = [model.batcher for model in found if isinstance(model, ServedModel)]
        for batcher in batchers:
            batcher.stop()
        for batcher in batchers:
            batcher.close(max(0.0, end - time.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def index(self) -> dict[str, Line]:
        """Every version of every model, the oldest first, and every ensemble."""
        return {
            name: dict(sorted(versions.items(), key=lambda item: item[0] or 0))
            for name, versions in sorted(self._models.items())
        }

    def get(self, name: str, version: int | None = None) -> ServedModel | Ensemble:
        """The version asked for, or the newest that serves, or the ensemble of that name.

        Raises:
            ModelNotFoundError: no such model, or no such version of it.
            ModelNotReadyError: it is loading, or was refused.
            InvalidParameterError: a version of an ensemble.
        """
        versions = self._models.get(name)
        if not versions:
            known = ", ".join(self._models) or "nothing yet"
            raise ModelNotFoundError(f"there is no model {name[:64]!r}; this server has {known}")
        if version is not None and None in versions:
            raise InvalidParameterError(f"{name} is an ensemble, which has no versions; leave version out")
        if version is None:
            if served := self._served(name):
                return served
            version = max(versions, key=lambda number: number or 0)
        if version not in versions:
            raise ModelNotFoundError(f"{name} has no version {version}; it has {', '.join(map(str, versions))}")
        found = versions[version]
        if found.model is None:
            what = name if version is None else f"version {version} of {name}"
            loading = found.state == "LOADING"
            doing = "is loading; try again soon" if loading else f"was refused: {found.reason}"
            raise ModelNotReadyError(f"{what} {doing}", loading=loading)
        return found.model

    def _served(self, name: str) -> ServedModel | Ensemble | None:
        """The ensemble, or the newest version that serves."""
        lines = sorted(self._models[name].items(), key=lambda item: item[0] or 0, reverse=True)
        return next((found.model for _, found in lines if found.model), None)

    def _look_up(self, name: str) -> Line:
        """What of a folder is to be loaded, and what the operator wants and is not there."""
        folder = self._settings.repository / name
        there = store.versions(self._settings.repository, name)
        if (folder / ENSEMBLE).exists():
            if not there:
                return {None: Version("LOADING")}
            logger.warning("%s has versions: it is a model, and its %s is not read", name, ENSEMBLE)
        try:
            serving = self._servings[name] = read_serving(folder)
        except BundleError as error:
            logger.error("%s is refused: %s", name, error)  # noqa: TRY400 the reason is enough
            return dict.fromkeys(there, Version("UNAVAILABLE", reason=str(error)))
        if isinstance(serving.versions, str):
            return dict.fromkeys(there[-1:] if serving.versions == "latest" else there, Version("LOADING"))
        missing = f"{SERVING} lists it, and it is not there; export it, or take it off the list"
        return {
            number: Version("LOADING") if number in there else Version("UNAVAILABLE", reason=missing)
            for number in serving.versions
        }

    def _load_all(self) -> None:
        # The newest of every model first, so that each model answers soon.
        jobs = [
            (age, name, number)
            for name, versions in self._models.items()
            for age, number in enumerate(sorted((n for n in versions if n is not None), reverse=True))
        ]
        for _, name, number in sorted(jobs):
            if self._models[name][number].state == "LOADING":
                self._put(name, number)
        for name in [name for name, versions in self._models.items() if None in versions]:
            self._put(name, None)
        self._loaded.set()

    def _put(self, name: str, number: int | None) -> None:
        """Loads a line of the index, unless the server ends already."""
        if self._closing.is_set():
            return
        what = name if number is None else f"{name} version {number}"
        try:
            found = self._load_ensemble(name) if number is None else self._load(name, number)
        except (BundleError, ProviderError) as error:
            logger.error("%s is refused: %s", what, error)  # noqa: TRY400 the reason is enough
            found = Version("UNAVAILABLE", reason=str(error))
        except Exception:  # a library's own words may hold addresses and paths: they stay in the log
            logger.exception("%s cannot be loaded", what)
            found = Version("UNAVAILABLE", reason="the graph cannot be loaded; see the server's log")
        self._models[name][number] = found
        self._metrics.models.labels(name, number or "ensemble").set(found.state == "READY")

    def _load(self, name: str, number: int) -> Version:
        settings = self._settings
        bundle = store.open_bundle(settings.repository, name, number)
        wishes = Wishes(settings.repository / name, self._servings[name], bundle)
        for remark in wishes.remarks:
            logger.warning("%s version %d: %s", name, number, remark)
        model = load_model(
            bundle, wishes, settings.provider, self._metrics, max_queue_size=settings.max_queue_size, pool=self._pool
        )
        return Version("READY", model, "; ".join(wishes.remarks))

    def _load_ensemble(self, name: str) -> Version:
        file = read_ensemble(self._settings.repository / name)
        return Version("READY", load_ensemble(name, file, self._member))

    def _member(self, member: Member) -> ServedModel:
        """Raises BundleError: there is no such model, it does not serve, or it is an ensemble itself."""
        if None in self._models.get(member.model, {}):
            raise BundleError(f"{ENSEMBLE}: {member.model} is an ensemble itself; list its members")
        try:
            model = self.get(member.model, member.version)
        except (ModelNotFoundError, ModelNotReadyError) as error:
            raise BundleError(f"{ENSEMBLE}: {error}") from error
        assert isinstance(model, ServedModel)  # noqa: S101 for the type checker; ensembles are refused above
        return model
