"""Ctrl-C during a training, wherever it strikes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl


class Interrupt(pl.Callback):
    """Raises a KeyboardInterrupt again that was dropped.

    Python drops what is raised while an object is finalised. At the end of an epoch that takes time: the file of the
    checkpoint is an object with Python code of its own, and the iterator of the images waits for its workers.
    """

    def __init__(self) -> None:
        self.noted = False

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Notes Ctrl-C within; does nothing where it means something else already, or nothing at all."""
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
            self._raise_again()
        finally:
            signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored

    def on_train_batch_start(self, *_: Any) -> None:
        self._raise_again()

    def on_validation_batch_start(self, *_: Any) -> None:
        self._raise_again()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        signal.default_int_handler(number, frame)

    def _raise_again(self) -> None:
        if self.noted:
            raise KeyboardInterrupt
