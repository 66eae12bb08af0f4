"""How a network learns by a recipe, as a LightningModule; Lightning carries devices, precision and checkpoints."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, DistributedSampler

from export.architectures import Architecture
from export.errors import TrainingError
from export.graph import Normalize
from export.train.augment import Colours, warp
from export.train.clipping import clip, gradients, norm
from export.train.data import Epoch, Pictures
from export.train.optimizers import make_optimizer
from export.train.recipe import Recipe, Warp
from export.train.saturation import Saturation
from export.train.schedules import Rate

EXPLODED = 1e6
"""A gradient norm that no training comes back from, where nothing clips it."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""uint8 [n, height, width, channels], and the classes [n]"""


class Learner(pl.LightningModule):
    """A network that learns by a recipe.

    It logs, of steps: train_loss, train_error, rate, gradient_norm, gradient_norm_clipped (after clipping) and
    saturated/LAYER; of epochs: train_loss_epoch, train_error_epoch, validation_loss and validation_error.
    """

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        network: nn.Module,
        train: Pictures,
        validation: Pictures,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        """`network` may answer (logits, those of auxiliary heads...) while it trains; `workers` draw the images."""
        super().__init__()
        self.recipe, self.seed, self.workers = recipe, seed, workers
        self.pictures = {"train": train, "validation": validation}
        self.input = architecture.input
        self.network = network
        self.normalize = Normalize(nn.Identity(), architecture.preprocessing)
        self.colours = Colours(recipe.augmentation)
        self.average = None if recipe.ema is None else average(network, recipe.ema)
        self.rate = Rate(recipe)
        self.saturation = Saturation(network)

    @property
    def learned(self) -> nn.Module:
        """What is validated and published."""
        return self.network if self.average is None else self.average.module

    def train_dataloader(self) -> "DataLoader[Batch]":
        """The images of the current epoch, whose order follows from seed and epoch; asked for anew for each."""
        trainer, epoch = self.trainer, self.trainer.current_epoch
        images = Epoch(self.pictures["train"], self.seed, epoch, mirrored=self.recipe.augmentation.mirror)
        sampler: DistributedSampler[Batch] = DistributedSampler(
            images, trainer.world_size, trainer.global_rank, seed=self.seed % 2**32
        )
        sampler.set_epoch(epoch)
        return self._loader(images, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> "DataLoader[Batch]":
        return self._loader(Epoch(self.pictures["validation"], self.seed, 0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.recipe, self.network.parameters())

    def on_train_start(self) -> None:
        self._steps = int(self.trainer.estimated_stepping_batches)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 Lightning's
        if batch_idx == 0:
            torch.manual_seed(epoch_seed(self.seed, self.trainer.current_epoch, self.trainer.global_rank))
        rate = self.rate.at(self.trainer.global_step, self._steps, int(self.trainer.num_training_batches))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("rate", rate)
        self.saturation.watch(wanted=self._is_logged())

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        images, classes = batch
        outputs = self.network(self.normalize.normalized(self._augmented(images)))
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self._loss(logits, classes)
        for other in auxiliary:
            loss = loss + self.recipe.auxiliary * self._loss(other, classes)
        error = (logits.detach().argmax(1) != classes).float().mean()
        if self.rate.warming:
            self.rate.saw(float(torch.as_tensor(self.all_gather(error)).mean()))
        self.log_dict({"train_loss": loss.detach(), "train_error": error}, on_step=True, on_epoch=False)
        means = {"train_loss_epoch": loss.detach(), "train_error_epoch": error}
        self.log_dict(means, on_step=False, on_epoch=True, sync_dist=self.trainer.world_size > 1)
        self.log_dict({f"saturated/{name}": value for name, value in self.saturation.fractions.items()})
        self._last_loss = loss.detach()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,  # noqa: ARG002 Lightning's
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002 Lightning's
    ) -> None:
        """Clips, and stops a training that diverged before its step is taken."""
        found = gradients(self.network.parameters())
        before = norm(found)
        self._require_converging(before, optimizer.param_groups[0]["lr"])
        if self.recipe.clip is not None:
            clip(found, self.recipe.clip)
        after = before if self.recipe.clip is None else norm(found)
        self.log_dict({"gradient_norm": before, "gradient_norm_clipped": after})

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 Lightning's
        if self.average is not None:
            self.average.update_parameters(self.network)

    def validation_step(self, batch: Batch, _: int) -> None:
        images, classes = batch
        logits = self.learned(self.normalize.normalized(images))
        sums = {
            "validation_loss": cross_entropy(logits, classes),
            "validation_error": (logits.argmax(1) != classes).float().mean(),
        }
        self.log_dict(sums, batch_size=len(images), sync_dist=self.trainer.world_size > 1)

    def on_validation_epoch_end(self) -> None:
        """Stops a training whose last step ended it before the epoch is kept as a good one."""
        error, loss = (float(self.trainer.callback_metrics[f"validation_{name}"]) for name in ("error", "loss"))
        if not np.isfinite(loss):
            raise self._diverged(self.trainer.global_step, f"validation loss {loss:.4g}")
        self.rate.errors.append(error)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rate"] = self.rate.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rate.restore(checkpoint["rate"])

    def _loader(self, images: Epoch, **options: Any) -> "DataLoader[Batch]":
        batch = self.recipe.batch // self.trainer.world_size
        # a batch is drawn as one; the default would look into it image by image
        return DataLoader(images, batch, num_workers=self.workers, collate_fn=_as_it_is, **options)

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        crop = self.recipe.augmentation.crop
        pixels = warp(images, self.input.size, crop) if isinstance(crop, Warp) else images.float()
        coloured: torch.Tensor = self.colours(pixels)
        return coloured

    def _loss(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, classes, label_smoothing=self.recipe.smoothing)

    def _is_logged(self) -> bool:
        every = int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        return (self.trainer.global_step + 1) % every == 0

    def _require_converging(self, gradient_norm: torch.Tensor, rate: float) -> None:
        if self.trainer.precision == "16-mixed":  # its scaler tries and skips steps that overflow
            gradient_norm = self._last_loss
        value, loss = float(gradient_norm), float(self._last_loss)
        if not np.isfinite(value) or (self.recipe.clip is None and value > EXPLODED):
            figures = f"loss {loss:.4g}, gradient norm {value:.4g}, rate {rate:.4g}"
            raise self._diverged(self.trainer.global_step + 1, figures)

    def _diverged(self, step: int, figures: str) -> TrainingError:
        return TrainingError(f"training diverged at step {step}, epoch {self.trainer.current_epoch + 1}: {figures}")


def average(network: nn.Module, decay: float) -> AveragedModel:
    """The moving average of a network's weights and statistics; TensorFlow's, which follows faster at the start."""

    def follow(mean: torch.Tensor, now: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        if not mean.is_floating_point():
            return now
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        return mean + (1 - kept) * (now - mean)

    return AveragedModel(network, avg_fn=follow, use_buffers=True).requires_grad_(requires_grad=False)


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Of what is random on a device in an epoch: dropout, warps, colours."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0] >> 1)


def _as_it_is(batch: Any) -> Any:
    return batch
