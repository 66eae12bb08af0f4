"""LeNet-5 on the digits, with Lightning. The recipe is what the manifest keeps.

The network sees crops of the resized digit at random places, a little turned and zoomed, and never a mirrored one.
The epoch is chosen on the validation part; the test part is not touched here.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from bundle.manifest import Source
from bundle.render import render
from bundle.views import Box, Size, View, centre
from export.architectures import Architecture
from export.data import SPLIT_SEED, Part, digits
from export.errors import ExportError
from export.graph import Normalize
from export.weights import Loaded, assign

EPOCHS, BATCH, RATE, DECAY, SMOOTHING = 60, 32, 3e-3, 0.05, 0.1
DEGREES, ZOOM, SHIFT = 15, 0.15, 0.2
"""The bounds of the random turn, zoom and shift (of half the image)."""


def train_digits(architecture: Architecture, seed: int) -> Loaded:
    """Trains a network on the digits and returns it at its best epoch; the same seed gives the same network.

    Raises:
        ExportError: the network is not one for small grey images.
    """
    if (architecture.channels, architecture.classes) != (1, 10):
        raise ExportError(f"{architecture.name} is no network for the digits (10 classes, grey); train lenet5")
    split = digits()
    best, progress = BestEpoch(), Progress()
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        module = Recipe(architecture)
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            callbacks=[best, progress],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, _loader(split.train, architecture, shuffle=True), _loader(split.validation, architecture))
    recipe = {
        "optimiser": f"AdamW, one cycle to {RATE}, weight decay {DECAY}, batch {BATCH}, label smoothing {SMOOTHING}",
        "augmentation": f"turned to {DEGREES} degrees, zoomed to {ZOOM:.0%}, shifted to {SHIFT / 2:.0%}; not mirrored",
        "epochs": EPOCHS,
        "seed": seed,
        "split": {
            "seed": SPLIT_SEED,
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        "chosen": {"epoch": best.epoch, "by": "validation accuracy, then loss", "accuracy": round(best.score[0], 4)},
    }
    return Loaded(assign(architecture, best.state), architecture, Source(kind="trained", name="digits", recipe=recipe))


class Recipe(pl.LightningModule):
    """How a network learns from resized uint8 images."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.size = architecture.size
        self.network = architecture.build(architecture.classes, architecture.channels)
        self.normalized = Normalize(self.network, architecture.preprocessing)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        images, classes = batch
        return cross_entropy(self.normalized(disturbed(images, self.size))[0], classes, label_smoothing=SMOOTHING)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        images, classes = batch
        box = centre(Box(0, 0, images.shape[2], images.shape[1]), Size(self.size, self.size))
        centres = images[:, box.top : box.top + box.height, box.left : box.left + box.width]
        logits, _probabilities = self.normalized(centres)
        self.log("loss", cross_entropy(logits, classes))
        self.log("accuracy", (logits.argmax(1) == classes).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), RATE, weight_decay=DECAY)
        schedule = OneCycleLR(optimizer, RATE, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class BestEpoch(pl.Callback):
    """Keeps a copy of the weights of the best epoch in memory: ModelCheckpoint would leave files."""

    def __init__(self) -> None:
        self.epoch, self.score = 0, (-1.0, 0.0)
        self.state: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = (float(trainer.callback_metrics["accuracy"]), -float(trainer.callback_metrics["loss"]))
        if score > self.score:
            network = cast("Recipe", pl_module).network
            self.epoch, self.score, self.state = trainer.current_epoch, score, copy.deepcopy(network.state_dict())


class Progress(pl.Callback):
    """One bar of epochs on stderr: Lightning's own writes to stdout, which is for results."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002 Lightning's
        self.bar = tqdm(total=trainer.max_epochs, desc="training", unit="epoch")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002 Lightning's
        self.bar.set_postfix(accuracy=f"{float(trainer.callback_metrics['accuracy']):.4f}")
        self.bar.update()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002 Lightning's
        self.bar.close()


def disturbed(images: torch.Tensor, size: int) -> torch.Tensor:
    """A crop of `size` of each [n, height, width, 1] image at a random place, turned and zoomed a little."""
    count, height = images.shape[:2]

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return torch.empty(count, *shape).uniform_(-bound, bound)

    angle, zoom = uniform(math.radians(DEGREES)), size / height * (1 + uniform(ZOOM))
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    turn = torch.stack([cosine, -sine, sine, cosine], 1).reshape(count, 2, 2)
    maps = torch.cat([turn, uniform(SHIFT, 2, 1)], 2)
    grid = affine_grid(maps, [count, 1, size, size], align_corners=False)
    return grid_sample(images.permute(0, 3, 1, 2).float(), grid, align_corners=False).permute(0, 2, 3, 1)


def _loader(part: Part, architecture: Architecture, *, shuffle: bool = False) -> DataLoader[tuple[torch.Tensor, ...]]:
    """The images of a part as the service resizes them, before the crop."""
    size = Size(architecture.input.resize, architecture.input.resize)
    rows = np.empty((len(part), size.height, size.width, 1), np.uint8)
    for row, image in zip(rows, part.images, strict=True):
        render(Image.fromarray(image), [View(size, Box(0, 0, *size), size)], row[None])
    data = TensorDataset(torch.from_numpy(rows), torch.from_numpy(part.classes))
    return DataLoader(data, BATCH if shuffle else len(part), shuffle=shuffle)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's advice from the user: the data is in memory, and no GPU is wanted."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            yield
    finally:
        logger.setLevel(level)
