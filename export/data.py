"""The data that networks are trained on here: scikit-learn's handwritten digits, 1,797 images of 8 x 8."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bundle.preprocess import Pixels

SPLIT_SEED = 0
"""The same for every training, so that a test image is one for all of them."""

DIGITS = tuple(str(digit) for digit in range(10))
"""The labels."""


@dataclass(frozen=True)
class Part:
    """Some of the images with their classes."""

    images: Pixels
    """uint8 [n, 8, 8]; ink is 255"""
    classes: npt.NDArray[np.int64]
    """[n]"""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Split:
    """60 % to train, 20 % to choose, 20 % that are read once, for the figure."""

    train: Part
    validation: Part
    test: Part


def digits(seed: int = SPLIT_SEED) -> Split:
    """The digits, split at random with each class in proportion: 1077, 360 and 360 images."""
    values, classes = load_digits(return_X_y=True)
    images = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 17 levels
    everything = np.arange(len(images))
    rest, test = train_test_split(everything, test_size=0.2, random_state=seed, stratify=classes)
    train, validation = train_test_split(rest, test_size=0.25, random_state=seed, stratify=classes[rest])
    return Split(*(Part(images[part], classes[part].astype(np.int64)) for part in (train, validation, test)))
