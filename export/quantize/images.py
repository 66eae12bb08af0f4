"""Images to calibrate on and to compare on, drawn as the service draws them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bundle.errors import ImageError
from bundle.labelled import Labelled, open_labelled
from bundle.manifest import Input
from bundle.preprocess import Pixels
from bundle.published import find_published
from export.errors import ExportError
from export.evaluate import Unread
from export.verify import SUFFIXES, central_view, image_files

MOST_IMAGES = 512
MOST_PIXELS = 128 * 224 * 224
"""Of the images that calibrate, and of those held out: histograms of the activations of one 224 x 224 image of a
ResNet-50 take a second, and more images than these move no range that matters."""


@dataclass(frozen=True)
class Pictures:
    """Encoded images in a fixed order."""

    name: str
    count: int
    read: Callable[[int], tuple[str, bytes]]
    """The name and the content of one; raises OSError or LabelledError."""


@dataclass(frozen=True)
class Drawn:
    """The central views of images, uint8 [n, height, width, channels]."""

    data: str
    calibration: Pixels
    held_out: Pixels
    """Between those that calibrate, never of them."""
    unread: tuple[Unread, ...]

    @property
    def sha256(self) -> str:
        """Of the pixels that calibrate."""
        return hashlib.sha256(self.calibration.tobytes()).hexdigest()


def open_pictures(path: Path, labels: Sequence[str]) -> Pictures:
    """A folder of images, with or without folders in it, or labelled data whose labels are left aside.

    Args:
        path: given with --calibration.
        labels: the model's.

    Raises:
        ExportError: there is no image.
        LabelledError: labelled data that cannot be read.
    """
    if path.suffix.lower() == ".csv" or (path.exists() and find_published(path)):
        return of_labelled(open_labelled(path, labels))
    if not path.is_dir():
        raise ExportError(f"{path} is no folder of images and no labelled data; check --calibration")
    files = image_files(path)
    if not files:
        raise ExportError(f"{path} holds no {', '.join(SUFFIXES)} file; check --calibration")
    return Pictures(path.resolve().name, len(files), lambda place: (files[place].name, files[place].read_bytes()))


def of_labelled(data: Labelled) -> Pictures:
    def read(place: int) -> tuple[str, bytes]:
        example = data[place]
        return example.name, example.image

    return Pictures(data.name, len(data), read)


def draw(pictures: Pictures, wanted: Input) -> Drawn:
    """Evenly spaced images, every other one held out; those that cannot be read are left out.

    Raises:
        ExportError: fewer than two can be read.
        LabelledError: a file of labelled data is gone.
    """
    count = min(pictures.count, 2 * most_images(wanted))
    rows, unread = [], []
    for index in range(count):
        name, row = _draw_one(pictures, index * pictures.count // count, wanted)
        if isinstance(row, str):
            unread.append(Unread(name, row))
        else:
            rows.append(row)
    if len(rows) <= 1:
        reason = f"; {unread[0].name}: {unread[0].reason}" if unread else ""
        raise ExportError(
            f"{pictures.name}: {len(rows)} of {count} images can be read, calibration needs 2 or more{reason}"
        )
    return Drawn(pictures.name, np.stack(rows[::2]), np.stack(rows[1::2]), tuple(unread))


def most_images(wanted: Input) -> int:
    """How many images calibrate, at most."""
    return min(MOST_IMAGES, max(MOST_PIXELS // (wanted.height * wanted.width), 16))


def _draw_one(pictures: Pictures, place: int, wanted: Input) -> tuple[str, Pixels | str]:
    """The name of an image, and its central view or why there is none."""
    name = str(place)
    try:
        name, content = pictures.read(place)
        return name, central_view(content, wanted)
    except (ImageError, OSError) as error:
        return name, str(error.strerror if isinstance(error, OSError) else error)
