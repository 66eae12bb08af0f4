"""The views of every published protocol, pixel by pixel, against the straight lines of tests/straight.py."""

from collections.abc import Iterable
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

import straight
from bundle.manifest import Input
from bundle.plans import PUBLISHED
from bundle.render import render
from bundle.views import Size
from samples import photographs
from straight import PROTOCOLS, Seen

IMAGENET = Input(height=224, width=224, channels=3, dynamic=True, resize=256)
INCEPTION = Input(height=299, width=299, channels=3, dynamic=True, resize=342)
ALEXNET = Input(height=227, width=227, channels=3, dynamic=True, resize=256)
CIFAR = Input(height=32, width=32, channels=3, dynamic=True, resize=32)
DIGITS = Input(height=32, width=32, channels=3, dynamic=True, resize=36)

SIZES = [(500, 375), (375, 500), (224, 224), (300, 300), (640, 427), (37, 222), (3, 1), (1000, 700)]

CASES = [
    *product([name for name in PROTOCOLS if name not in ("shifts", "inception_144", "inception_12")], [IMAGENET]),
    *product(["ten_crop", "larger_center", "inception_144", "inception_12", "dense_mirrored"], [INCEPTION]),
    *product(["larger_center", "dense_multiscale"], [ALEXNET]),
    *product(["center", "flips", "shifts", "ten_crop", "googlenet_144", "vgg_150"], [CIFAR, DIGITS]),
]


def photograph(size: tuple[int, int]) -> Image.Image:
    """The temple, for a portrait lying on its side, resized and cut."""
    image = photographs()[0]
    return ImageOps.fit(image if size[0] >= size[1] else image.transpose(Image.Transpose.ROTATE_90), size)


def drawn(name: str, image: Image.Image, wanted: Input, *, together: bool) -> list[Seen]:
    """What the network is shown: all views of a size drawn at once, or each alone."""
    views = list(PUBLISHED[name].views(image=Size(*image.size), wanted=wanted))
    numbers = range(len(views))
    sizes = {view.size for view in views}
    groups = [[n for n in numbers if views[n].size == size] for size in sizes] if together else [[n] for n in numbers]
    pixels: dict[int, npt.NDArray[np.uint8]] = {}
    for group in groups:
        size = views[group[0]].size
        rows = np.full((len(group), size.height, size.width, 3), 77, np.uint8)
        render(image, [views[number] for number in group], rows, wanted.interpolation)
        pixels.update(zip(group, rows, strict=True))
    return [(pixels[number], view.weight) for number, view in enumerate(views)]


def levels(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> int:
    """The largest difference of a pixel."""
    return int(np.abs(found.astype(np.int16) - expected).max())


def shares(views: Iterable[Seen]) -> npt.NDArray[np.float64]:
    weights = np.array([weight for _, weight in views], np.float64)
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize(
    ("name", "wanted"), CASES, ids=[f"{name}-{wanted.width}-{wanted.resize}" for name, wanted in CASES]
)
def test_what_is_drawn_is_what_was_published(name: str, wanted: Input) -> None:
    worst = 0
    for size in SIZES:
        image = photograph(size)
        expected = list(PROTOCOLS[name](image, wanted.width, wanted.resize))
        for together in (True, False):
            found = drawn(name, image, wanted, together=together)
            assert [pixels.shape for pixels, _ in found] == [pixels.shape for pixels, _ in expected]
            assert shares(found) == pytest.approx(shares(expected), rel=1e-12)
            apart = [levels(mine[0], theirs[0]) for mine, theirs in zip(found, expected, strict=True)]
            worst = max(worst, *apart)
            assert worst <= 1, (size, together, apart)
    print(f"{name} of {wanted.width}: at most {worst} level apart")


def test_every_published_plan_has_its_straight_lines() -> None:
    assert set(PUBLISHED) == set(PROTOCOLS)
    assert {name for name, _ in CASES} == set(PROTOCOLS)


def test_one_pixel_aside_is_far_more_than_the_levels_allowed() -> None:
    """So that the comparison above sees a wrong rounding."""
    image = straight.whole(photograph((500, 375)), 256)
    truth = np.asarray(image.crop((58, 16, 282, 240)))
    for left, top in ((59, 16), (57, 16), (58, 15), (58, 17)):
        assert levels(np.asarray(image.crop((left, top, left + 224, top + 224))), truth) > 20
