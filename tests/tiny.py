"""Trainings that take a second: small images of two or three classes that even a small network tells apart."""

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from bundle.labelled import Labelled
from export.architectures import Architecture, find
from export.models.resnet_cifar import CifarResNet
from export.train.data import TrainingData
from export.train.job import TrainJob
from export.train.log import METRICS
from export.train.recipe import Part, Recipe
from export.train.recipes import RECIPES
from export.train.run import fit, hushed
from export.train.start import Start, begin
from export.train.watch import BestEpoch

RESNET8 = replace(find("resnet20"), name="resnet8", build=partial(CifarResNet, 1))


def labelled(count: int, size: int = 32, classes: int = 3, channels: int = 3, seed: int = 0) -> Labelled:
    """Noise, with a bright stripe whose place is the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = generator.integers(0, 120, (count, size, size, channels), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[size * label // classes : size * (label + 1) // classes] += 100
    return Labelled.of_arrays("stripes", images if channels == 3 else images[..., 0], labels)


def stripes(count: int = 96, classes: int = 3, channels: int = 3) -> TrainingData:
    names = tuple(f"stripe {index}" for index in range(classes))
    train, validation = labelled(count, 32, classes, channels), labelled(24, 32, classes, channels, seed=1)
    return TrainingData("stripes", names, train, validation, {"by": "test"}, digits=False)


def write_folders(folder: Path, count: int, size: int = 40, classes: int = 3, seed: int = 0) -> Path:
    """The same as PNG files, `count` of each class, in folders named stripe_0 and so on; not all of one size."""
    data = labelled(count * classes, size, classes, seed=seed)
    for index in range(len(data)):
        array = data.array(index)
        assert array is not None
        parent = folder / f"stripe_{data.labels[index]}"
        parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        image.resize((size + 8 * (index % 2), size)).save(parent / f"{index}.png")
    return folder


def recipe(name: str = "resnet-cifar", **changes: Part | float | str | None) -> Recipe:
    """A published recipe for a few images."""
    return RECIPES[name].model_copy(update={"iterations": None, "epochs": 2, "batch": 16} | changes)


def job(network: str = "resnet20", **options: object) -> TrainJob:
    return TrainJob.model_validate(
        {"network": network, "data": "stripes", "repository": Path("unused"), "device": "cpu"} | options
    )


def run_tiny(
    row: Architecture, wanted: Recipe, data: TrainingData | None = None, weights: str | None = None, **options: object
) -> tuple[Start, BestEpoch]:
    """A training as the command does it, on the stripes."""
    data = data or stripes(channels=row.channels)
    with torch.random.fork_rng(devices=[]), hushed():
        torch.manual_seed(0)
        start = begin(row, wanted, len(data.labels), weights)
        return start, fit(start, wanted, data, job(row.name).model_copy(update=options))


def small(auxiliary: str = "") -> Architecture:
    """A network for three stripes that trains in no time."""

    class Small(nn.Module):
        def __init__(self, classes: int, channels: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, 4, 5, 4)
            self.relu = nn.ReLU()
            self.dropout = nn.Dropout(0.1)
            self.linear = nn.Linear(4 * 7 * 7, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.linear(self.dropout(self.relu(self.conv1(x)).flatten(1)))
            return logits

    return replace(RESNET8, name="small", build=Small, dynamic=False, auxiliary=(auxiliary,) if auxiliary else ())


def rows(run: Path) -> list[dict[str, str]]:
    """Its log."""
    with (run / METRICS).open(newline="") as file:
        return list(csv.DictReader(file))
