"""One thread that does what it is given, one job after the other."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from service.errors import ServiceError, ShuttingDownError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Worker:
    """A daemon, unlike the thread of an executor: a job that hangs keeps no process from ending."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # a signal handler may submit while its thread does
        self.closing = False
        """A long job may look here whether its result is still wanted."""
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """The result of the job, or its error; ShuttingDownError after `close`."""
        future: Future[Result] = Future()
        with self._lock:
            if self.closing:
                raise ShuttingDownError("the server is shutting down; ask another one")
            self._jobs.put((job, future))
        return future

    def close(self, timeout: float) -> None:
        """Begins no job any more, and waits for the one that runs."""
        with self._lock:
            self.closing = True
            self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _work(self) -> None:
        while (work := self._jobs.get()) is not None:
            job, future = work
            if self.closing:
                future.set_exception(ShuttingDownError("the server is shutting down; ask another one"))
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except ServiceError as error:
                future.set_exception(error)
            except Exception as error:  # whoever gave the job may not look
                logger.exception("a job of the %s failed", self._thread.name)
                future.set_exception(error)
            del job, future, work  # a result may hold a model
