"""Images with their classes: a folder a class, a CSV file, MNIST's IDX files, CIFAR-10 as it is published.

What an image is stays open here: bytes of an encoded file, which whoever evaluates decodes, or sends to a server.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from bundle.errors import LabelledError
from bundle.listed import Listed, csv_labels, list_csv, list_folders
from bundle.preprocess import Pixels
from bundle.published import find_published, find_training, read_published

Numbers = npt.NDArray[np.int64]

_PART = re.compile(r"(-?\d{1,12})?:(-?\d{1,12})?", re.ASCII)

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of CIFAR-10, as its page lists them."""

_READ = """what is read: a folder with a folder of images for each class; a CSV file of file and label; MNIST's or \
Fashion-MNIST's IDX files (the images file or its folder); CIFAR-10's test_batch or data_batch_N in its binary, Python \
or MATLAB version (the file or its folder)"""


@dataclass(frozen=True)
class Example:
    name: str
    """The file's, relative to the data; of one file of many images the place in it, from 0."""
    image: bytes
    """An encoded file: as it lies on the disk, or a PNG made of the array."""
    label: int
    """The index of the class."""


def png(image: Pixels) -> bytes:
    """One image, uint8 [height, width] or [height, width, 3], as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


class _Images(Protocol):
    def name(self, place: int) -> str: ...

    def encoded(self, place: int) -> bytes: ...

    def content(self, place: int) -> bytes:
        """What the digest covers."""

    def array(self, place: int) -> Pixels | None: ...


@dataclass(frozen=True)
class _Files:
    listed: Listed

    def name(self, place: int) -> str:
        return self.listed.files[place]

    def encoded(self, place: int) -> bytes:
        name = self.listed.files[place]
        try:
            return (self.listed.folder / name).read_bytes()
        except OSError as error:
            raise LabelledError(f"{name} cannot be read: {error.strerror}") from error

    content = encoded

    def array(self, place: int) -> None:
        """It is a file."""


@dataclass(frozen=True)
class _Arrays:
    images: Pixels

    def name(self, place: int) -> str:
        return str(place)

    def encoded(self, place: int) -> bytes:
        return png(self.images[place])

    def content(self, place: int) -> bytes:
        image: Pixels = self.images[place]
        return f"{image.shape}".encode() + image.tobytes()

    def array(self, place: int) -> Pixels:
        image: Pixels = self.images[place]
        return image


class Labelled(Sequence[Example]):
    """Labelled images in a fixed order. Files are read when they are asked for, by any thread."""

    def __init__(self, name: str, images: _Images, labels: Numbers, places: Numbers | None = None) -> None:
        """`labels` are of all images; `places` says which of them these are, in order."""
        self.name = name
        self._images = images
        self._all_labels = labels
        self.places = np.arange(len(labels)) if places is None else places
        self.labels: Numbers = labels[self.places]
        self.labels.setflags(write=False)
        self._digest: str | None = None

    @classmethod
    def of_arrays(cls, name: str, images: Pixels, labels: Numbers) -> Self:
        """Of images in memory: uint8 [n, height, width] in grey, or [n, height, width, 3] in RGB."""
        return cls(name, _Arrays(images), labels)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Labelled": ...
    def __getitem__(self, index: int | slice) -> "Example | Labelled":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index], self.name)
        place = int(self.places[index])
        return Example(self._images.name(place), self._images.encoded(place), int(self.labels[index]))

    def array(self, index: int) -> Pixels | None:
        """The image itself where it lies in memory, uint8 [height, width] or [height, width, 3]; None: it is a file."""
        return self._images.array(int(self.places[index]))

    def digest(self) -> str:
        """The sha256 that names this data: of every image (file, or shape and pixels) and its label, in order.

        Reads everything once; the three forms of CIFAR-10 have one digest.
        """
        if self._digest is None:  # two threads may both work it out, to the same end
            total = hashlib.sha256()
            for place, label in zip(self.places, self.labels, strict=True):
                total.update(hashlib.sha256(self._images.content(int(place))).digest() + int(label).to_bytes(8))
            self._digest = total.hexdigest()
        return self._digest

    def split(self, seed: int = 0) -> tuple["Labelled", "Labelled"]:
        """Validation and test: every image in one of them, the halves of a class differing by one image at most.

        Raises:
            LabelledError: fewer than two images.
        """
        if len(self) <= 1:
            raise LabelledError(f"{self.name}: {len(self)} image cannot be split into validation and test")
        shuffled = np.random.default_rng(seed).permutation(len(self))
        by_class = shuffled[np.argsort(self.labels[shuffled], kind="stable")]
        validation, test = np.sort(by_class[::2]), np.sort(by_class[1::2])  # every other one of each class
        return self.take(validation, f"{self.name} validation"), self.take(test, f"{self.name} test")

    def part(self, part: str) -> "Labelled":
        """The images START:STOP in order, as Python counts.

        Raises:
            LabelledError: malformed, or no image is in it.
        """
        if not (given := _PART.fullmatch(part)):
            raise LabelledError(f"part {part!r} is not START:STOP; write 50000: or -10000: or 0:100")
        start, stop = (None if side is None else int(side) for side in given.groups())
        if not len(chosen := np.arange(len(self))[start:stop]):
            raise LabelledError(f"part {part} of {self.name} is empty; images in all: {len(self)}")
        return self.take(chosen, f"{self.name}[{part}]")

    def take(self, chosen: Numbers, name: str) -> "Labelled":
        """The images at these places, under a name of their own."""
        return Labelled(name, self._images, self._all_labels, self.places[chosen])


def is_part(text: str) -> bool:
    """Whether it is START:STOP, as `Labelled.part` takes it."""
    return _PART.fullmatch(text) is not None


def open_labelled(path: Path, classes: Sequence[str], part: str | None = None) -> Labelled:
    """Labelled images for a model with these labels; images are not looked into.

    The folders of classes are named by the model's labels, or by class indices; else, where there are as many as
    classes, they are the classes in sorted order, as for torchvision's ImageFolder. The folder of MNIST or CIFAR-10
    means the test images, or MNIST's training images where there are no others.

    Args:
        path: a folder or a file; the error for anything else lists what is read.
        classes: the model's labels in order.
        part: "START:STOP" in the data's order, as Python counts: "50000:", "-10000:".

    Raises:
        LabelledError: naming the file and the place in it.
    """
    if not path.exists():
        raise LabelledError(f"{path} is not there; name the folder or file of the labelled images")
    if path.name in {"", ".."}:
        path = path.resolve()  # "." and ".." say no name; a link keeps its own, which says what it is
    try:
        images, labels = _read(path, classes)
    except OSError as error:
        raise LabelledError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    if not len(labels):
        raise LabelledError(f"{path} holds no image; {_READ}")
    whole = Labelled(path.name, images, labels)
    return whole if part is None else whole.part(part)


def open_training(path: Path, classes: Sequence[str]) -> Labelled:
    """As `open_labelled`, where the folder of MNIST or CIFAR-10 means all its training images, and those alone.

    Raises:
        LabelledError: as there; or the folder holds only test images.
    """
    files = find_training(path) if path.is_dir() else []
    if not files:
        if path.is_dir() and (found := find_published(path)):
            raise LabelledError(f"{path} holds {found.name} and no training images; name the folder that has them")
        return open_labelled(path, classes)
    try:
        read = [read_published(file, len(classes)) for file in files]
    except OSError as error:
        raise LabelledError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    images, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    return Labelled.of_arrays(path.resolve().name, images, labels)


def class_names(path: Path) -> tuple[str, ...]:
    """The labels of the classes of training data, in the order of their indices.

    Of folders their names in sorted order, of a CSV file its labels in sorted order, of CIFAR-10 the published names,
    of IDX files the numbers.

    Raises:
        LabelledError: it is no labelled data, or names no class.
    """
    try:
        if files := find_training(path) or [file for file in [find_published(path)] if file]:
            return (
                CIFAR if "idx" not in files[0].name else _numbers(int(read_published(files[0], 256).labels.max()) + 1)
            )
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        else:
            names = csv_labels(path) if path.suffix.lower() == ".csv" else []
    except OSError as error:
        raise LabelledError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    if not names:
        raise LabelledError(f"{path} names no classes; {_READ}")
    return tuple(names)


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _read(path: Path, classes: Sequence[str]) -> tuple[_Images, Numbers]:
    if published := find_published(path):
        arrays, labels = read_published(published, len(classes))
        return _Arrays(arrays), labels
    if path.is_dir() or path.suffix.lower() == ".csv":
        listed = list_folders(path, classes) if path.is_dir() else list_csv(path, classes)
        return _Files(listed), np.array(listed.labels, np.int64)
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar", ".zip")):
        raise LabelledError(f"{path.name} is packed; unpack it and name the folder that it makes")
    raise LabelledError(f"{path.name} is no labelled data; {_READ}")
