"""The digits and their split."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from bundle.labelled import png
from export.data import digits


def test_the_split_is_60_20_20_without_overlap() -> None:
    split = digits()
    assert [len(part) for part in (split.train, split.validation, split.test)] == [1077, 360, 360]
    together = np.concatenate([part.images.reshape(-1, 64) for part in (split.train, split.validation, split.test)])
    originals = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, originals))


def test_every_part_holds_the_classes_in_proportion() -> None:
    split = digits()
    for part, expected in ((split.train, 107.7), (split.validation, 36.0), (split.test, 36.0)):
        assert np.bincount(part.classes, minlength=10) == pytest.approx(expected, abs=4)


def test_images_keep_their_classes() -> None:
    truth = {
        bytes(np.rint(image * 255 / 16).astype(np.uint8)): digit
        for image, digit in zip(*load_digits(return_X_y=True), strict=True)
    }
    test = digits().test
    assert [truth[image.tobytes()] for image in test.images] == test.classes.tolist()


def test_a_seed_is_a_split() -> None:
    assert np.array_equal(digits(3).test.images, digits(3).test.images)
    assert not np.array_equal(digits(3).test.images, digits(4).test.images)


def test_png_is_lossless() -> None:
    image = digits().test.images[0]
    with Image.open(io.BytesIO(png(image))) as read:
        assert (read.format, read.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(read), image)
