"""A training in whose midst the process is killed: python tests/killed_training.py RUN EPOCH."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from export.train import run, watch
from export.verify import one_thread
from tiny import RESNET8, recipe, run_tiny


class Killer(watch.Bar):
    """Kills the process in the middle of an epoch, without a chance to clean up."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if (trainer.current_epoch, batch_idx) == (int(sys.argv[2]), 1):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    setattr(run, "Bar", Killer)  # noqa: B010 a name that it imports
    with one_thread():  # as the test that compares the weights
        run_tiny(RESNET8, recipe(epochs=4), run=Path(sys.argv[1]))
