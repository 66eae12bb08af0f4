"""Ctrl-C ends a training also where Python drops what is raised."""

import io
import signal
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from export.train import run
from export.train.interrupt import Interrupt
from export.train.watch import LAST, Bar
from tiny import recipe, rows, run_tiny, small


def strike() -> None:
    """A Ctrl-C that arrives now; the handler runs before the loop ends."""
    signal.raise_signal(signal.SIGINT)
    for _ in range(100):
        pass


class Dropped(io.IOBase):
    """Ctrl-C arrives when it is finalised, as the file of a checkpoint is; what is raised there is cleared silently."""

    @property
    def closed(self) -> bool:
        strike()
        return True


def test_python_drops_an_interrupt_in_a_finaliser() -> None:
    file = Dropped()
    del file


class AfterEpoch(Bar):
    """At the end of an epoch a Ctrl-C is dropped."""

    epoch = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            Dropped()


class Last(AfterEpoch):
    epoch = 3


@pytest.mark.parametrize(("striking", "epochs"), [(AfterEpoch, 1), (Last, 4)])
def test_an_interrupt_that_was_dropped_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, striking: type[AfterEpoch], epochs: int
) -> None:
    monkeypatch.setattr(run, "Bar", striking)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(small(), recipe(epochs=4), run=tmp_path / "run")
    assert sum(bool(row["validation_error"]) for row in rows(tmp_path / "run")) == epochs
    assert (tmp_path / "run" / LAST).exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_not_dropped_ends_the_training_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class InBatch(Bar):
        def on_train_batch_end(self, *said: Any) -> None:
            super().on_train_batch_end(*said)
            seen.append(said[-1])
            if said[-1] == 2:
                strike()

    monkeypatch.setattr(run, "Bar", InBatch)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(small(), recipe())
    assert seen == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_ctrl_c_means_something_else_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt().noticed():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_than_the_main_one_may_train() -> None:
    entered: list[bool] = []

    def work() -> None:
        with Interrupt().noticed():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]
