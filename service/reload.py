"""From what serves to what the repository holds, one line of the index after the other.

A version is loaded beside the one that serves, takes its place in one assignment, and the old one's engine ends when
the last request that had looked it up is answered (`model.Hold`). What is refused changes nothing but the reason in
the index. All of this runs in one thread; requests read the index meanwhile.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from bundle.serving import ENSEMBLE, SERVING
from service.errors import ModelNotFoundError
from service.index import Change, Index, Line, Version
from service.joiner import Joiner
from service.loading import Loader, attempt
from service.memory import give_back_memory
from service.metrics import Metrics
from service.model import ServedModel
from service.repository import Folder, ModelRepository, Stamp

logger = logging.getLogger(__name__)

UNLOADED = "it was unloaded; load it again"
MISSING = f"{SERVING} lists it, and it is not there; export it, or take it off the list"


class Reloader:
    """Writes the index; every method is called by the registry's own thread.

    Args:
        index: to write.
        repository: to read.
        loader: from the one into the other.
        metrics: told of each change.
        closing: whether the server ends, so that nothing more is begun.
    """

    def __init__(
        self,
        index: Index,
        repository: ModelRepository,
        loader: Loader,
        metrics: Metrics,
        closing: Callable[[], bool],
    ) -> None:
        self._index = index
        self._repository = repository
        self._loader = loader
        self._joiner = Joiner(index, repository.path)
        self._metrics = metrics
        self._closing = closing
        self._unloaded: set[str] = set()
        self._changes: list[Change] = []
        self._copying: set[tuple[str, int | None]] = set()
        self._unreadable: set[str] = set()

    def announce(self) -> None:
        """Lines for all that is to be loaded, before anything is."""
        for folder in self._look():
            self._announce(folder, again=True)

    def run(self, *, only: str | None = None, smoke: bool = True, again: bool = True) -> list[Change]:
        """One pass: every model's versions, the newest of each first, then the ensembles.

        Args:
            only: the one model to bring up to date; all when None.
            smoke: as `Loader.load`.
            again: also try what was refused and has not changed. Without it copies under way are passed over.
        """
        self._changes = []
        folders = {folder.name: folder for folder in self._look() if only in (None, folder.name)}
        if only is None:
            for name in self._index.names - folders.keys() - self._unloaded - self._unreadable:
                self._settle(Folder(name))
        jobs = [job for folder in folders.values() for job in self._announce(folder, again=again)]
        left = Counter(name for _, name, _ in jobs)
        for name in left:
            if folders[name].ignored:
                logger.warning("%s has versions: it is a model, and its %s is not read", name, ENSEMBLE)
        for name in folders.keys() - left.keys():
            self._settle(folders[name])
        for _, name, number in sorted(jobs):
            if self._closing():
                return self._changes
            self._bring(folders[name], number, smoke=smoke)
            left[name] -= 1
            if not left[name]:  # what is not wished any more goes before the next model comes
                self._settle(folders[name])
        self._join(folders, again=again)
        return self._changes

    def load(self, name: str) -> None:
        """Raises ModelNotFoundError or ModelNotReadyError unless it serves then."""
        if name not in self._repository.names():
            raise ModelNotFoundError(f"the repository has no model {name[:64]!r}; export it there")
        self._unloaded.discard(name)
        self.run(only=name)
        self._index.get(name)

    def unload(self, name: str) -> None:
        """Raises ModelNotFoundError: there is none."""
        line = self._index.line(name)
        if not line:
            self._index.get(name)
        self._changes = []
        self._unloaded.add(name)
        self._index.publish(name, dict.fromkeys(line, Version("UNAVAILABLE", reason=UNLOADED)))
        for number, found in line.items():
            if found.model:
                self._tell(name, number, "retired")
        self._join({}, again=False)

    def _look(self) -> list[Folder]:
        found = []
        self._unreadable.clear()
        for name in self._repository.names():
            if name in self._unloaded:
                continue
            try:
                found.append(self._repository.look(name))
            except OSError as error:
                self._unreadable.add(name)
                logger.error("%s cannot be read: %s", name, error)  # noqa: TRY400 the reason is enough
        return found

    def _announce(self, folder: Folder, *, again: bool) -> list[tuple[int, str, int]]:
        """Writes a line for what is to come; what serves stays. Returns what is to be loaded, with its age."""
        before = self._index.line(folder.name)
        if folder.refusal:
            self._refuse(folder, before)
            return []
        due = [number for number, stamp in folder.lines.items() if self._is_due(folder, number, stamp, again=again)]
        line = {**before, **{number: Version("LOADING") for number in due if not _serving(before, number)}}
        gone = [number for number, stamp in folder.lines.items() if stamp is None]
        line |= dict.fromkeys(gone, Version("UNAVAILABLE", reason=MISSING))
        if line != before:
            if folder.left_out:
                logger.warning("%s has %d versions too many; remove some, or list them", folder.name, folder.left_out)
            # An alias that moves does so when it can: see `_settle`.
            self._index.publish(folder.name, line, folder.serving.aliases | self._index.aliases(folder.name))
        for number in gone:
            if _serving(before, number):
                self._tell(folder.name, number, "retired")
        versions = sorted((number for number in due if number is not None), reverse=True)
        return [(age, folder.name, number) for age, number in enumerate(versions)]

    def _is_due(self, folder: Folder, number: int | None, stamp: Stamp | None, *, again: bool) -> bool:
        if stamp is None:
            return False
        if not stamp.whole and not again:
            if (folder.name, number) not in self._copying:
                logger.info("%s version %s is not whole yet", folder.name, number)
                self._copying.add((folder.name, number))
            return False
        self._copying.discard((folder.name, number))
        found = self._index.line(folder.name).get(number)
        return found is None or found.stamp != stamp or (again and found.refused)

    def _refuse(self, folder: Folder, before: Line) -> None:
        """A serving.toml that is none: what serves goes on as it was wished before."""
        if before and all(found.reason == folder.refusal for found in before.values()):
            return
        logger.error("%s is refused: %s", folder.name, folder.refusal)
        serving = {number: found for number, found in before.items() if found.model}
        wanted = serving or dict.fromkeys(folder.lines, Version("UNAVAILABLE"))
        line = {
            number: replace(found, reason=folder.refusal, refused=True, stamp=None) for number, found in wanted.items()
        }
        self._index.publish(folder.name, line)
        for number in line:
            self._tell(folder.name, number, "refused", folder.refusal)

    def _bring(self, folder: Folder, number: int, *, smoke: bool) -> None:
        """Loads a version, or wishes something else of the one that serves, and puts it in its place."""
        name, stamp = folder.name, folder.lines[number]
        line = self._index.line(name)
        before = line[number]
        what = f"{name} version {number}"
        model = before.model
        if isinstance(model, ServedModel) and stamp and self._loader.runs(model, stamp.bundle, folder.serving):
            outcome, found = "changed", attempt(what, lambda: self._loader.wish(model, folder.serving))
        else:
            outcome = "loaded"
            found = attempt(what, lambda: self._loader.load(name, number, folder.serving, smoke=smoke))
        give_back_memory()
        outcome, reason = ("refused", found.reason) if found.refused else (outcome, "")
        if found.refused and model:
            found = replace(before, reason=f"{found.reason} (the one before still serves)", refused=True)
        self._index.publish(name, {**line, number: replace(found, stamp=stamp)})
        self._tell(name, number, outcome, reason)

    def _settle(self, folder: Folder) -> None:
        """Once all is loaded: moves the aliases, and ends what is not wished, unless nothing that is wished serves."""
        if folder.refusal:
            return
        name, line = folder.name, self._index.line(folder.name)
        drop = [number for number in line if number not in folder.lines]
        failed = [number for number in folder.lines if number is not None and not _serving(line, number)]
        if failed and len(failed) == len(folder.lines):
            drop = [number for number in drop if not _serving(line, number)]
        left = {number: found for number, found in line.items() if number not in drop}
        before = self._index.aliases(name)
        aliases = dict(folder.serving.aliases)
        for alias in aliases.keys() & before.keys():
            if not _serving(left, aliases[alias]) and _serving(left, before[alias]):
                logger.error("%s: %s stays at version %d", name, alias, before[alias])
                aliases[alias] = before[alias]
        if drop or aliases != before:
            self._index.publish(name, left, aliases)
        for number in drop:
            self._forget(name, number)
            if _serving(line, number):
                self._tell(name, number, "retired")

    def _join(self, folders: dict[str, Folder], *, again: bool) -> None:
        """Puts ensembles together anew, where anything has changed: that costs no session."""
        for name, line in self._index.sorted().items():
            if None not in line or name in self._unloaded:
                continue
            stamp = folders[name].lines.get(None) if name in folders else line[None].stamp
            if self._changes or again or stamp != line[None].stamp:
                self._join_one(name, line, stamp)

    def _join_one(self, name: str, line: Line, stamp: Stamp | None) -> None:
        before = line[None]
        found, reason = self._joiner.renew(name, before)
        self._index.publish(name, {**line, None: replace(found, stamp=stamp)})
        if found.refused:
            self._tell(name, None, "refused", reason)
        elif found.model is not before.model:
            self._tell(name, None, "loaded")

    def _tell(self, name: str, number: int | None, outcome: str, reason: str = "") -> None:
        self._changes.append(Change(name, number, outcome, reason))
        self._metrics.reloads.labels(outcome).inc()
        if outcome != "refused":  # which `attempt` has logged
            logger.info("%s %s %s", name, "ensemble" if number is None else f"version {number}", outcome)
        line = self._index.line(name)
        if number in line:
            self._metrics.models.labels(name, number or "ensemble").set(line[number].model is not None)

    def _forget(self, name: str, number: int | None) -> None:
        self._copying.discard((name, number))
        label = str(number or "ensemble")
        if (name, label) in self._metrics.models._metrics:  # noqa: SLF001 it has no other way to ask
            self._metrics.models.remove(name, label)


def _serving(line: Line, number: int | None) -> bool:
    return number in line and line[number].model is not None
