"""What is kept and shown of a training while it runs."""

import copy
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from tqdm import tqdm

from export.train.log import METRICS, read_rows
from export.train.module import Learner
from export.weights import ACTIVATION

BEST, LAST = "best.pth", "last.ckpt"


class BestEpoch(pl.Callback):
    """Keeps a copy of the weights of the best epoch: in memory, in the checkpoint, and in the folder of the run.

    The file says the activation too, where it is not the network's own: no weight would show it.
    """

    def __init__(self, folder: Path | None, activation: str | None) -> None:
        self.folder, self.activation = folder, activation
        self.epoch, self.error, self.loss = 0, float("inf"), float("inf")  # epochs from 0, as Lightning counts them
        self.state: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        error, loss = (float(trainer.callback_metrics[f"validation_{name}"]) for name in ("error", "loss"))
        if (error, loss) < (self.error, self.loss):
            self.epoch, self.error, self.loss = trainer.current_epoch, error, loss
            self.state = copy.deepcopy(cast("Learner", pl_module).learned.state_dict())
            if self.folder is not None and trainer.is_global_zero:
                beside = self.folder / f"{BEST}.part"
                torch.save({"state_dict": self.state, ACTIVATION: self.activation}, beside)
                beside.replace(self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "error": self.error, "loss": self.loss, "state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.error, self.loss = (state_dict[key] for key in ("epoch", "error", "loss"))
        self.state = state_dict["state"]


class Bar(pl.Callback):
    """One bar of steps on stderr: Lightning's own writes to stdout, which is for results."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002 Lightning's
        steps = int(trainer.estimated_stepping_batches)
        shown = None if trainer.is_global_zero else True
        self.bar = tqdm(total=steps, initial=trainer.global_step, desc="training", unit="step", disable=shown)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002 Lightning's
        outputs: Any,  # noqa: ARG002 Lightning's
        batch: Any,  # noqa: ARG002 Lightning's
        batch_idx: int,
    ) -> None:
        every = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if (batch_idx + 1) % every == 0:
            self._show(trainer)
        self.bar.update()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002 Lightning's
        self._show(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002 Lightning's
        if hasattr(self, "bar"):
            self.bar.close()

    def _show(self, trainer: pl.Trainer) -> None:
        shown = {"loss": "train_loss", "error": "validation_error", "rate": "rate", "gradient": "gradient_norm"}
        values = {
            name: f"{float(trainer.callback_metrics[key]):.3g}"
            for name, key in shown.items()
            if key in trainer.callback_metrics
        }
        self.bar.set_postfix({"epoch": str(trainer.current_epoch + 1)} | values, refresh=False)


class LastEpoch(ModelCheckpoint):
    """last.ckpt: everything that a training needs to go on, written aside and renamed after each epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename=LAST.removesuffix(".ckpt"),
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )


def is_first() -> bool:
    """Whether this process is the one that writes, of those among which Lightning divides a training."""
    return getattr(rank_zero_only, "rank", 0) == 0


def continued_log(folder: Path, step: int) -> CSVLogger:
    """metrics.csv in the folder; what it held of steps before this one stays, later rows are those of a run that broke.

    Args:
        folder: of the run.
        step: the steps that were done at the checkpoint from which the training goes on; 0 for a new run.
    """
    rows = [row for row in read_rows(folder / METRICS) if int(row["step"]) < step]
    logger = CSVLogger(folder, name="", version="")
    if rows and is_first():
        logger.experiment.metrics.extend(rows)
        logger.experiment.save()
    return logger
