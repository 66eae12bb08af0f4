"""What makes the registry look at the repository again: SIGHUP, and time."""

import contextlib
import signal
import threading
from concurrent.futures import Future

from service.errors import ShuttingDownError
from service.registry import Change, ModelRegistry


class Watcher:
    """Asks for a reload at SIGHUP, and every `seconds` where that is not 0.

    A look that finds nothing new reads some small files. The clock takes a version up when it is whole, so that a copy
    under way is no refusal; who sends SIGHUP wants to know, and is told.
    """

    def __init__(self, registry: ModelRegistry, seconds: float) -> None:
        self._registry = registry
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGHUP, lambda *_: self._reload(again=True))
        if self._seconds:
            self._thread.start()

    def close(self) -> None:
        """Looks no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            if (asked := self._reload(again=False)) is not None:
                with contextlib.suppress(Exception):  # the log has it
                    asked.result()  # the next look is after this one, however long it loads

    def _reload(self, *, again: bool) -> Future[list[Change]] | None:
        try:
            return self._registry.reload(again=again)
        except ShuttingDownError:
            return None
