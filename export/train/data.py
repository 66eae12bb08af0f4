"""The images of a training: which are trained on, which choose the epoch, and how each becomes a row of pixels."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import JsonValue
from torch.utils.data import Dataset
from tqdm import tqdm

from bundle.errors import ImageError, LabelledError
from bundle.labelled import Labelled, class_names, is_part, open_training
from bundle.manifest import Input
from bundle.preprocess import ImageLimits, Opened, Pixels
from bundle.published import find_training
from bundle.render import Scaled, cut
from bundle.views import Box, Size, View, shorter_side
from export.data import DIGITS, SPLIT_SEED, digits
from export.errors import ExportError
from export.train.augment import draw_view, fixed_scale, mirror
from export.train.recipe import Crop

HELD_OUT = 10
"""Every how-manieth image of a class chooses the epoch, where no validation part is given."""

MOST_BYTES = 2**30
"""Of resized images that are kept: CIFAR-10 at AlexNet's 256 pixels would take 9 GB."""

TRAINING, VALIDATION = ("train", "training"), ("val", "valid", "validation")
"""Folders of these names beside each other, as ImageNet is often laid out."""


@dataclass(frozen=True)
class TrainingData:
    name: str
    labels: tuple[str, ...]
    train: Labelled
    validation: Labelled
    split: dict[str, JsonValue]
    """How the parts were made, for the manifest."""
    digits: bool
    """Handwritten ones as published, whose mirror images are none."""


def open_data(
    data: str, labels: tuple[str, ...] | None = None, part: str | None = None, validation: str | None = None
) -> TrainingData:
    """Training images and those that choose the epoch; a test part is never among them.

    Args:
        data: "digits", or a path.
        labels: of the classes in order; the data's own when None.
        part: START:STOP of the images that may be used.
        validation: START:STOP of the images, or the path of others; one in ten of each class when None.

    Raises:
        ExportError, LabelledError: what does not fit.
    """
    if data == "digits":
        return _open_digits(part or validation)
    path = Path(data)
    training, beside = _layout(path)
    if not training.exists():
        raise LabelledError(f"{path} is not there; name the folder or file of the labelled images, or digits")
    names = labels or class_names(training)
    everything = open_training(training, names)
    usable = everything if part is None else everything.part(part)
    if validation is None and beside is None:
        train, held_out = _hold_out(usable)
        how: dict[str, JsonValue] = {"by": f"one in {HELD_OUT} of each class", "seed": SPLIT_SEED}
    elif validation is not None and is_part(validation):
        held_out = everything.part(validation)
        train, how = _without(everything, usable, held_out), {"by": f"part {validation}"}
    else:
        other = Path(validation) if validation is not None else beside
        assert other is not None  # noqa: S101 one of the two is given
        train, held_out, how = usable, open_training(other, names), {"by": f"{other.name}, beside the others"}
    split = how | {"part": part, "train": len(train), "validation": len(held_out)}
    is_idx = any("idx3" in file.name for file in find_training(training)) or "idx3" in training.name
    return TrainingData(path.resolve().name, names, train, held_out, split, digits=is_idx)


def _layout(path: Path) -> tuple[Path, Path | None]:
    """The folder of the training images, and that of the validation images where they lie beside each other."""
    for train in (path / name for name in TRAINING):
        for validation in (path / name for name in VALIDATION):
            if train.is_dir() and validation.is_dir():
                return train, validation
    return path, None


def _open_digits(part: str | None) -> TrainingData:
    if part is not None:
        raise ExportError("the digits have parts of their own; leave --part and --validation out")
    split = digits()
    train, validation = (
        Labelled.of_arrays(name, part.images, part.classes)
        for name, part in (("digits", split.train), ("digits, validation part", split.validation))
    )
    sizes: dict[str, JsonValue] = {"seed": SPLIT_SEED, "train": len(train), "validation": len(validation)}
    return TrainingData("digits", DIGITS, train, validation, sizes | {"test": len(split.test)}, digits=True)


def _hold_out(labelled: Labelled) -> tuple[Labelled, Labelled]:
    """One in ten of each class, at least one where a class has two, chosen by a seed of its own."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labelled))
    by_class = shuffled[np.argsort(labelled.labels[shuffled], kind="stable")]
    counts = np.bincount(labelled.labels)
    place = np.concatenate([np.arange(count) for count in counts])  # within its class
    many = np.repeat(counts, counts) > 1
    chosen = (place % HELD_OUT == 0) & many
    if not chosen.any():
        raise ExportError(f"{labelled.name} has one image of each class; give others with --validation")
    return (
        labelled.take(np.sort(by_class[~chosen]), labelled.name),
        labelled.take(np.sort(by_class[chosen]), f"{labelled.name}, held out"),
    )


def _without(everything: Labelled, usable: Labelled, held_out: Labelled) -> Labelled:
    """What remains to train on when a part chooses the epoch."""
    places = usable.places[~np.isin(usable.places, held_out.places)]
    if not len(places):
        raise ExportError(f"{held_out.name} leaves no image to train on; take a smaller --validation")
    return everything.take(places, usable.name)


class Pictures:
    """Images at the size at which they are cut: in memory where that is one size and not too much, else drawn anew."""

    def __init__(self, labelled: Labelled, wanted: Input, crop: Crop) -> None:
        self.labelled, self.wanted, self.crop = labelled, wanted, crop
        self._resized = self._resize_all() if labelled.array(0) is not None else None

    def __len__(self) -> int:
        return len(self.labelled)

    def draw(self, index: int, choose: Callable[[Size], View], row: Pixels) -> None:
        """Draws the view that `choose` makes for the size of the image.

        Raises:
            LabelledError: the file cannot be read, or is no usable image.
        """
        if self._resized is not None:
            view = choose(self._original)
            pixels = cut(self._resized[index], view.box)
            row[:] = pixels[:, ::-1] if view.mirrored else pixels
            return
        if (array := self.labelled.array(index)) is not None:
            view = choose(Size(array.shape[1], array.shape[0]))
            Scaled(self._convert(array), [view], self.wanted.interpolation).draw([view], row[None])
            return
        example = self.labelled[index]
        try:
            opened = Opened(example.image, ImageLimits())
            view = choose(opened.size)
            Scaled.of(opened, [view], self.wanted).draw([view], row[None])
        except ImageError as error:
            raise LabelledError(f"{self.labelled.name}: {example.name}: {error}") from error

    def _resize_all(self) -> Pixels | None:
        side = fixed_scale(self.crop, self.wanted)
        first = self.labelled.array(0)
        if side is None or first is None:
            return None
        self._original = Size(first.shape[1], first.shape[0])
        whole = shorter_side(self._original, side)
        shape = (len(self), whole.height, whole.width, self.wanted.channels)
        if math.prod(shape) > MOST_BYTES:
            return None
        view = View(whole, Box(0, 0, *whole), whole)
        rows = np.empty(shape, np.uint8)
        for index, row in enumerate(tqdm(rows, desc="resizing", unit="image", leave=False, disable=None)):
            array = self.labelled.array(index)
            assert array is not None  # noqa: S101 all are, where the first is
            Scaled(self._convert(array), [view], self.wanted.interpolation).draw([view], row[None])
        return rows

    def _convert(self, array: Pixels) -> Image.Image:
        return Image.fromarray(array).convert("L" if self.wanted.channels == 1 else "RGB")


class Epoch(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The rows of one epoch. What is random follows from seed, epoch and image, whoever draws it and in which order."""

    def __init__(self, pictures: Pictures, seed: int, epoch: int, *, mirrored: bool = False) -> None:
        self.pictures, self.seed, self.epoch, self.mirrored = pictures, seed, epoch, mirrored
        self.size = self.pictures.wanted.size
        if pictures.crop.kind == "warp":  # cut on the device
            self.size = Size(pictures.wanted.resize, pictures.wanted.resize)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch: uint8 [n, height, width, channels] and its classes, int64 [n]."""
        wanted = self.pictures.wanted
        rows = np.empty((len(indices), self.size.height, self.size.width, wanted.channels), np.uint8)
        for index, row in zip(indices, rows, strict=True):
            self.pictures.draw(index, self._chooser(index), row)
        labels: npt.NDArray[np.int64] = self.pictures.labelled.labels[indices]
        return torch.from_numpy(rows), torch.from_numpy(labels)

    def _chooser(self, index: int) -> Callable[[Size], View]:
        def choose(image: Size) -> View:
            generator = np.random.default_rng((self.seed, self.epoch, index))
            view = draw_view(self.pictures.crop, image, self.pictures.wanted, generator)
            return mirror(view) if self.mirrored and generator.random() < 0.5 else view  # noqa: PLR2004 half of them

        return choose
